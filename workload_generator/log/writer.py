"""The generator's side of the log: sends results to the recorder process without waiting for it.

Rules:
- blocks are sent every few milliseconds, so that the recorder works in short pieces; it may share a CPU core with the
  event loop
- unsent blocks wait in memory up to a limit; beyond it the run stops, since it may neither lose results nor grow
  without bound
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.errors import LogError, UsageError
from workload_generator.base.subprocesses import signals_held
from workload_generator.log import wire

_FLUSH_S = 0.005
_MOST_WAITING_BYTES = 128 * 1024 * 1024
_END_TIMEOUT_S = 60.0


class Log:
    """The log of one run. `on_failure` is called once, when the log fails; `failure` is then the reason.

    `inherit` are further file descriptors for the recorder.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: Path,
        fd: int,
        on_failure: Callable[[], None],
        inherit: tuple[int, ...] = (),
    ) -> None:
        self.path = path
        self.failure: str | None = None
        self._loop = loop
        self._on_failure = on_failure
        self._block = wire.BlockWriter(self.flush)
        self.add = self._block.add  # the hot path calls the block directly
        self.served = self._block.served
        self._waiting = bytearray()
        self._writing = False
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._reader = wire.FrameReader()
        ours, theirs = socket.socketpair()
        with theirs, signals_held() as let_go:

            def prepare() -> None:
                _ignore_signals()
                let_go()

            self._process = subprocess.Popen(
                [sys.executable, "-m", "workload_generator.log.recorder", str(fd), str(theirs.fileno())],
                pass_fds=(fd, theirs.fileno(), *inherit),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                preexec_fn=prepare,
            )
        os.close(fd)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 1024 * 1024)
        self._sock = ours
        self._fd = ours.fileno()
        loop.add_reader(self._fd, self._on_reply)
        self._timer = loop.call_later(_FLUSH_S, self._on_timer)

    def begin(self, fields: dict[str, Any]) -> None:
        """Start the log. `fields` are the settings of the recorder, with the log's header."""
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
        if self._block.count:
            self._send(wire.frame(wire.RESULTS, self._block.take()))

    async def totals(self) -> dict[str, Any]:
        """The totals so far. Raises LogError when the recorder has ended."""
        self.flush()
        totals: dict[str, Any] = await self._ask(wire.TOTALS, wire.frame(wire.DRAIN))
        return totals

    async def finish(self, trailer: dict[str, Any]) -> None:
        """Write the trailer and wait until the log is on the disk. Raises LogError."""
        await self._ask(wire.DONE, wire.json_frame(wire.FINISH, trailer))

    def close(self) -> None:
        """End the recorder and wait for it."""
        self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            if self._writing:
                self._loop.remove_writer(self._fd)
            self._send_waiting()
            self._fd = -1
            self._sock.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _ask(self, reply: int, message: bytes) -> Any:
        if self.failure is not None and (reply == wire.DONE or self._fd < 0):
            raise LogError(self.failure)
        future = self._replies[reply] = self._loop.create_future()
        self._send(message)
        try:
            async with asyncio.timeout(_END_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise LogError(f"{self.path}: the recorder did not answer within {_END_TIMEOUT_S:g} s") from None

    def _on_timer(self) -> None:
        self.flush()
        self._timer = self._loop.call_later(_FLUSH_S, self._on_timer)

    def _send(self, data: bytes) -> None:
        if self._fd < 0:
            return
        self._waiting += data
        if not self._writing:
            self._on_writable()
        if len(self._waiting) > _MOST_WAITING_BYTES and self.failure is None:
            self._fail(f"{self.path}: the disk is too slow for the log")

    def _on_writable(self) -> None:
        try:
            sent = self._sock.send(self._waiting)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._fail_recorder(error)
            return
        del self._waiting[:sent]
        if bool(self._waiting) != self._writing:
            self._writing = bool(self._waiting)
            if self._writing:
                self._loop.add_writer(self._fd, self._on_writable)
            else:
                self._loop.remove_writer(self._fd)

    def _send_waiting(self) -> None:
        """Only a failed run has blocks left."""
        self._sock.settimeout(_END_TIMEOUT_S)
        with contextlib.suppress(OSError):  # the recorder has ended or hangs: the log cannot be saved
            self._sock.sendall(self._waiting)

    def _on_reply(self) -> None:
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail_recorder(error)
            return
        if not data:
            self._fail_recorder(None)
            return
        for kind, payload in self._reader.feed(data):
            doc = orjson.loads(payload)
            if kind == wire.FAILED:
                self._fail(
                    f"{self.path}: {doc['message']}; the log is complete up to then: "
                    f"{doc['lines']:,} lines, {doc['bytes']:,} bytes"
                )
            else:
                future = self._replies.pop(kind, None)
                if future is not None and not future.done():
                    future.set_result(doc)

    def _fail_recorder(self, error: OSError | None) -> None:
        self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.2)
        ended = f" (exit code {self._process.returncode})" if self._process.returncode is not None else ""
        self._waiting.clear()
        self._fd = -1
        self._sock.close()
        self._fail(f"{self.path}: the recorder process ended{ended}{f': {error}' if error else ''}")

    def _fail(self, message: str) -> None:
        first = self.failure is None
        if first:
            self.failure = message
        done = self._replies.pop(wire.DONE, None)
        pending = [done] if done else []
        if self._fd < 0:
            pending.extend(self._replies.values())
            self._replies.clear()
        for future in pending:
            if not future.done():
                future.set_exception(LogError(self.failure or message))
        if first:
            self._on_failure()


def _ignore_signals() -> None:
    """Runs in the recorder before its program starts: a Ctrl-C reaches the whole process group."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)


def open_log_file(directory: Path, prefix: str, stamp: str, shard: str) -> tuple[Path, int]:
    """Create `<prefix>_<stamp><shard>.log`; its path and an open file descriptor. Raises UsageError."""
    path = directory / f"{prefix}_{stamp}{shard}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UsageError(f"cannot create the log {path}: {error.strerror}; choose a folder with --log-dir") from None
