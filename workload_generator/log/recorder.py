"""The recorder: a separate process that writes the log, counts the totals and shows the progress.

It gets results in blocks from the generator, so that neither formatting nor a slow terminal stalls the event loop. It
writes everything that it received even if the generator is killed, and ends with its socket.

Rules:
- lines are written whole; when that fails, a torn line is cut off again
- a full disk is not a failure yet: the recorder waits, and so do the results, in the memory of the generator
- what others do to the file (delete, move, cut) is noticed within a second
- its signals are blocked from its start: a Ctrl-C reaches the whole process group, and the generator ends the run
- the log does not depend on the terminal
- between short pieces of work the recorder yields its CPU core, for an event loop on the same core, unless it has
  fallen behind
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from dataclasses import asdict
from typing import Any, NoReturn

import orjson

from workload_generator.base.clock import Anchor
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.quantities import format_bytes
from workload_generator.base.standard_streams import complain, open_standard_streams
from workload_generator.log import format as log_format
from workload_generator.log import wire
from workload_generator.log.progress import LiveProgress, Recent, open_progress
from workload_generator.log.status_file import StatusFile, open_status_file
from workload_generator.log.totals import Totals

_SYNC_S = 1.0
_RETRY_MS = 200
_FULL = (errno.ENOSPC, errno.EDQUOT)
_KEEPS_UP = 2  # frames in one read; more means that it has fallen behind


class LogFile:
    """An append-only file of whole lines, for structlog and for request lines. `size` is in bytes.

    `counts` are those of `wire.shared_counts`. While the disk is full, writing waits until there is space again, or
    until `generator` gives up.
    """

    def __init__(self, fd: int, counts: memoryview, generator: socket.socket) -> None:
        self._fd = fd
        self._place = _place(fd)
        self._counts = counts
        self._generator = generator
        self._is_stuck = False
        self.size = os.fstat(fd).st_size
        self.lines = 0

    def write(self, data: bytes, results: int = 0) -> int:
        """Write whole lines: `results` of them, or one of another kind. On OSError it cuts the file after the last."""
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                try:
                    written += os.write(self._fd, view[written:])
                    self._is_stuck = False
                except OSError as error:
                    self._wait_for_space(error)
        except OSError:
            written = data.rfind(b"\n", 0, written) + 1
            results = data.count(b"\n", 0, written) if results else 0
            with contextlib.suppress(OSError):  # readers tolerate a torn line
                os.ftruncate(self._fd, self.size + written)
            raise
        finally:
            self.size += written
            self.lines += results or (written > 0)
            self._counts[0] += results
        return written

    def flush(self) -> None:
        """Required by structlog; there is no buffer."""

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fdatasync(self._fd)

    def check(self) -> str | None:
        """What somebody did to the file meanwhile. Raises OSError when it was deleted."""
        place, stat = _place(self._fd), os.fstat(self._fd)
        if not stat.st_nlink or (place.endswith(" (deleted)") and not os.path.exists(place)):  # it may have other links
            self._counts[0] = 0
            raise OSError("the log was deleted")
        if place != self._place:
            self._place = place
            return f"the log was moved to {place}"
        if stat.st_size < self.size:
            self.size = stat.st_size
            return "the log was cut by another process"
        return None

    def _wait_for_space(self, error: OSError) -> None:
        """Wait a moment. Raises `error` when waiting does not help."""
        if error.errno not in _FULL:
            raise error
        if not self._is_stuck:
            self._is_stuck = True
            with contextlib.suppress(ConnectionError):
                self._generator.sendall(wire.json_frame(wire.STUCK, error.strerror))
        closed = select.poll()
        closed.register(self._generator, select.POLLRDHUP)
        if closed.poll(_RETRY_MS):
            raise error


def _place(fd: int) -> str:
    """The present path of an open file, also after it was moved."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


class Recorder:
    """Processes the generator's frames in order. `handle` returns the reply, or a message of its own."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._lines = log_format.LineLogger(file)
        self._encoder: log_format.ResultEncoder | None = None
        self._totals = Totals([])
        self._targets: list[str] = []
        self._recent = Recent()
        self._relays = False
        self._progress: LiveProgress | None = None
        self._status_file: StatusFile | None = None
        self._has_failed = False
        self._synced = time.monotonic()
        self.offers_core = False
        self.done = False

    def handle(self, kind: int, payload: bytes) -> bytes | None:
        """Process one frame. After a write error it replies FAILED once, and only counts from then on."""
        try:
            return self._act(kind, payload)
        except OSError as error:
            self._has_failed = True
            written = f"the log has {self._file.lines:,} lines, {format_bytes(self._file.size)}"
            return wire.json_frame(wire.FAILED, f"{error.strerror}; {written}" if error.strerror else str(error))

    def close(self) -> None:
        """End the progress view."""
        if self._progress is not None:
            self._progress.close(self._recent)
            self._progress = None

    def _act(self, kind: int, payload: bytes) -> bytes | None:
        if kind == wire.RESULTS:
            self._record(payload)
            return None
        if kind == wire.DRAIN:
            return wire.json_frame(wire.TOTALS, self._totals.to_json())
        doc = orjson.loads(payload)
        if kind == wire.START:
            self._start(doc)
        elif kind == wire.HEARTBEAT:
            recent, self._recent = self._recent, Recent()
            if self._progress is not None:
                self._progress.beat(doc, recent)
            self._write(log_format.PROGRESS, doc["line"])
            if self._status_file is not None:
                self._status_file.update(doc, self._totals)
            if (spoilt := self._check()) is not None:
                return spoilt
            if self._relays:
                return wire.json_frame(wire.BEAT, {"beat": doc, "recent": asdict(recent)})
        elif kind == wire.LINE:
            self._write(doc["event"], doc["fields"])
        elif kind == wire.FINISH:
            self.done = True
            self.close()
            spoilt = self._check() or b""
            self._write(log_format.RUN_FINISHED, doc)
            if self._status_file is not None:
                self._status_file.finish(self._totals, doc["verdict"])
            if not self._has_failed:
                self._file.sync()
                return spoilt + wire.frame(wire.DONE, b"null")
        return None

    def _check(self) -> bytes | None:
        spoilt = None if self._has_failed else self._file.check()
        return None if spoilt is None else wire.json_frame(wire.SPOILT, spoilt)

    def _start(self, doc: dict[str, Any]) -> None:
        self._targets = doc["targets"]
        self._totals = Totals(doc["expected"])
        self._encoder = log_format.ResultEncoder(self._targets, Anchor(**doc["start"]), doc.get("event_prefix"))
        self._relays = doc["progress"] == wire.RELAY
        self._progress = open_progress(doc["progress"], doc["view"])
        self._status_file = open_status_file(doc["header"], doc["view"]["total_ns"])
        self._write(log_format.RUN_STARTED, doc["header"])

    def _record(self, payload: bytes) -> None:
        encoder, totals = self._encoder, self._totals
        assert encoder is not None, "results before START"
        block = wire.read_block(payload)
        if block is None:
            return
        ok = totals.ok_by_shape(block)
        self._offer_core()
        totals.add(block, ok)
        if self._relays or self._progress is not None:
            self._recent.add(block, ok, self._targets)
        if not self._has_failed:
            self._offer_core()
            lines = encoder.encode(block, ok)
            self._offer_core()
            self._file.write(lines, len(block.seq))
        self._sync_sometimes()

    def _offer_core(self) -> None:
        if self.offers_core:
            os.sched_yield()

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        if not self._has_failed:
            self._lines.write(event, fields)
            self._sync_sometimes()

    def _sync_sometimes(self) -> None:
        if not self._has_failed and time.monotonic() - self._synced >= _SYNC_S:
            self._file.sync()
            self._synced = time.monotonic()


def main(argv: list[str]) -> NoReturn:
    """Record one run: `recorder LOG_FD COUNTS_FD SOCKET_FD`."""
    open_standard_streams()
    try:
        log_fd, counts_fd, socket_fd = map(int, argv)
    except ValueError:
        complain("recorder", "expected LOG_FD COUNTS_FD SOCKET_FD: workload-generator starts this program")
        sys.exit(ExitCode.USAGE)
    with socket.socket(fileno=socket_fd) as generator:
        record(log_fd, wire.shared_counts(counts_fd), generator)
    os._exit(0)  # the log is synced, and a blocked terminal must not delay the exit


def record(log_fd: int, counts: memoryview, generator: socket.socket) -> None:
    """Write the log until the trailer, or until `generator` closes."""
    recorder = Recorder(LogFile(log_fd, counts, generator))
    reader = wire.FrameReader()
    while not recorder.done:
        try:
            data = generator.recv(1 << 20)
        except ConnectionResetError:  # it ended without reading a reply; everything that it sent was received
            break
        if not data:
            break
        received = list(reader.feed(data))
        recorder.offers_core = len(received) <= _KEEPS_UP
        for kind, payload in received:
            if recorder.offers_core:
                os.sched_yield()
            answer = recorder.handle(kind, payload)
            counts[1] += 1
            if answer:
                with contextlib.suppress(ConnectionError):  # the generator was killed; its log is still completed
                    generator.sendall(answer)
    recorder.close()


if __name__ == "__main__":
    main(sys.argv[1:])
