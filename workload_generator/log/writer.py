"""The generator's side of the log: sends results to the recorder process without waiting for it.

Rules:
- blocks are sent every few milliseconds, so that the recorder works in short pieces; it may share a CPU core with the
  event loop
- while the recorder or its disk stands still, blocks wait in memory, and messages say it; when it continues, nothing
  is lost. The run stops when the memory for them is used up, or when it only waits for its log for a minute
- a log that fails says how many results are not in it
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.errors import LogError, UsageError
from workload_generator.base.standard_streams import printable
from workload_generator.base.subprocesses import signals_held
from workload_generator.log import wire
from workload_generator.log.channel import Channel

_FLUSH_S = 0.005
_MOST_WAITING_BYTES = 128 * 1024 * 1024
_LOOK_S = 1.0
_SAY_FIRST, _SAY_EVERY, _PATIENCE = 5, 15, 65  # looks at a recorder that stands still
_END_S = 2.0
_KILLED_S = 0.3
_NO_RESPONSE = "the recorder or its disk does not respond"


class Log:
    """The log of one run. `on_failure` is called once, when the log fails; `failure` is then the reason.

    `on_beat` takes what the recorder replies to heartbeats, when that is to be shown elsewhere.
    """

    def __init__(self, on_failure: Callable[[], None], on_beat: Callable[[bytes], None] = lambda _: None) -> None:
        self.path = Path()
        self.failure: str | None = None
        self._on_failure = on_failure
        self._on_beat = on_beat
        self._block = wire.BlockWriter(self.flush)
        self.add = self._block.add  # the hot path calls the block directly
        self.served = self._block.served
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_done = False
        self._spoilt: str | None = None
        self._channel = Channel(self._on_reply, self._on_end)
        self._results = 0  # that were sent
        self._frames = 0
        self._handled = 0  # frames, at the last look
        self._still = 0  # looks since then
        self._reason = _NO_RESPONSE

    @contextlib.asynccontextmanager
    async def opened(self, paths: Iterable[Path]) -> AsyncIterator[None]:
        """Create the first of `paths` that does not exist yet, and start the recorder, which ends with the context.

        Raises UsageError.
        """
        self._loop = asyncio.get_running_loop()
        self.path, fd = _create(paths)
        await self._channel.connect(self._start_recorder(fd))
        self._timer = self._loop.call_later(_FLUSH_S, self._on_timer)
        self._looks = self._loop.call_later(_LOOK_S, self._look)
        try:
            yield
        finally:
            await self._close()

    def _start_recorder(self, fd: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        counts = os.memfd_create("counts")
        self._counts = wire.shared_counts(counts)
        fds = (fd, counts, theirs.fileno())
        with theirs, signals_held():  # and blocked in the recorder: a Ctrl-C reaches the whole process group
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workload_generator.log.recorder", *map(str, fds)],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        os.close(fd)
        os.close(counts)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        return ours

    @property
    def unwritten(self) -> int:
        """The number of results that are not in the log."""
        return self._results + self._block.count - int(self._counts[0])

    def begin(self, fields: dict[str, Any]) -> None:
        """Begin the log. `fields` are the settings of the recorder, with the log's header."""
        self._send(wire.json_frame(wire.START, fields))

    def heartbeat(self, beat: dict[str, Any]) -> None:
        """Write the counts of the last second."""
        self.flush()
        self._send(wire.json_frame(wire.HEARTBEAT, beat))

    def line(self, event: str, fields: dict[str, Any]) -> None:
        """Write one of the rare lines, after all earlier results."""
        self.flush()
        self._send(wire.json_frame(wire.LINE, {"event": event, "fields": fields}))

    def flush(self) -> None:
        """Send the results so far to the recorder."""
        if count := self._block.count:
            self._results += count
            self._send(wire.frame(wire.RESULTS, self._block.take()))

    async def totals(self) -> dict[str, Any]:
        """The totals so far. Raises LogError when the log has failed."""
        self.flush()
        totals: dict[str, Any] = await self._ask(wire.TOTALS, wire.frame(wire.DRAIN))
        return totals

    async def finish(self, trailer: dict[str, Any]) -> None:
        """Write the trailer and wait until the log is on the disk. Raises LogError, also for a log that was moved."""
        await self._ask(wire.DONE, wire.json_frame(wire.FINISH, trailer))
        if self._spoilt is not None:
            raise LogError(f"{self.path}: {self._spoilt} during the run")

    def wake(self) -> None:
        """Continue the recorder if a signal has stopped it: the run has to end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def give_up(self, reason: str) -> None:
        """Kill the recorder: the log fails, unless it is complete."""
        if not self._is_done and self._process is not None:
            self._end_recorder(0)
            self._channel.abort()
            self._fail(reason)

    async def _close(self) -> None:
        """End the recorder and wait for it. Only a run that failed has results left to write."""
        if not self._is_done and self.failure is None:
            with contextlib.suppress(Exception):  # the first fault of the run counts
                await self.totals()
        self._is_done = True
        self._timer.cancel()
        self._looks.cancel()
        self._channel.abort()
        await self._channel.ended
        self._end_recorder(_END_S)

    def _end_recorder(self, patience_s: float) -> int | None:
        """Wait for its end, then kill it; returns its exit code, or None while it waits for its disk."""
        assert self._process is not None
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_KILLED_S)
        return None

    async def _ask(self, reply: int, message: bytes) -> Any:
        if self.failure is not None:
            raise self._error()
        future = self._replies[reply] = self._loop.create_future()
        self._send(message)
        return await future

    def _on_timer(self) -> None:
        self.flush()
        self._timer = self._loop.call_later(_FLUSH_S, self._on_timer)

    def _look(self) -> None:
        """Look every second whether the recorder stands still. Counting looks leaves out a halt of this process."""
        if self.failure is not None:
            return
        self._looks = self._loop.call_later(_LOOK_S, self._look)
        handled = int(self._counts[1])
        if self._frames != handled == self._handled:
            self._still += 1
            if self._still >= self._quiet and (self._still - self._quiet) % _SAY_EVERY == 0:
                self._say(f"not written for {self._still} s: {self._reason}; {self.unwritten:,} results wait in memory")
            if self._still >= _PATIENCE and self._replies:
                self.give_up(f"not written for {self._still} s: {self._reason}")
            return
        if self._still >= self._quiet:
            self._say(f"written again after {self._still} s; nothing was lost")
            self._reason = _NO_RESPONSE
        self._handled, self._still = handled, 0

    @property
    def _quiet(self) -> int:
        """The number of looks before the first report."""
        return _SAY_FIRST if self._handled else 2 * _SAY_FIRST  # it may start slowly

    def _say(self, text: str) -> None:
        """Report `text` on standard error, in a thread that may block without a lock: a terminal may take nothing."""
        line = f"{printable(f'workload-generator: {self.path}: {text}')}\n".encode("utf-8", "backslashreplace")
        threading.Thread(target=_write_to_stderr, args=(line,), daemon=True).start()

    def _send(self, frame: bytes) -> None:
        self._frames += 1
        self._channel.send(frame)
        if self._channel.waiting_bytes > _MOST_WAITING_BYTES and self.failure is None:
            reason = f"{self._reason}; the memory for waiting results is used up"
            self._loop.call_soon(self.give_up, reason)  # not here: a result may be on its way into the block

    def _on_reply(self, kind: int, payload: bytes) -> None:
        if kind == wire.BEAT:
            self._on_beat(payload)
            return
        doc = orjson.loads(payload)
        if kind == wire.FAILED:
            self._fail(doc)
        elif kind == wire.STUCK:
            if self._reason != doc:
                self._say(f"{doc}; results wait in memory until there is space")
            self._reason = doc
        elif kind == wire.SPOILT:
            self._spoilt = doc
            self._say(doc)
        else:
            self._is_done |= kind == wire.DONE
            future = self._replies.pop(kind, None)
            if future is not None and not future.done():
                future.set_result(doc)

    def _on_end(self) -> None:
        if not self._is_done and self.failure is None:
            code = self._end_recorder(_KILLED_S)
            self._fail(f"the recorder process ended{f' (exit code {code})' if code is not None else ''}")

    def _fail(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure = reason
        if not self._replies:  # else the run ends with it at once
            self._say(reason)
        for future in self._replies.values():
            if not future.done():
                future.set_exception(self._error())
        self._replies.clear()
        self._on_failure()

    def _error(self) -> LogError:
        return LogError(f"{self.path}: {self.failure}; {self.unwritten:,} results were not written")


def _write_to_stderr(line: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal was closed
        os.write(2, line)


def _create(paths: Iterable[Path]) -> tuple[Path, int]:
    """A new file, to append to."""
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            reason = error.strerror
            if not (isinstance(error, FileExistsError) and path.parent.is_dir()):
                break
    raise UsageError(f"cannot create the log {path}: {reason}; choose a folder with --log-dir")
