"""The recorder: a separate process that writes the log, counts the totals and shows the progress.

It gets results in blocks from the generator, so that neither formatting nor a slow terminal stalls the event loop. It
writes everything that it received even if the generator is killed, and ends with its socket.

Rules:
- lines are written whole; when the disk is full, a torn line is cut off again
- the recorder ignores signals: a Ctrl-C reaches the whole process group, and the generator ends the run
- the log does not depend on the terminal
- between short pieces of work the recorder yields its CPU core, for an event loop on the same core, unless it has
  fallen behind
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import orjson

from workload_generator.base.clock import Anchor
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.standard_streams import complain, open_standard_streams
from workload_generator.log import format as log_format
from workload_generator.log import wire
from workload_generator.log.progress import RunProgress, open_progress
from workload_generator.log.status_file import StatusFile, open_status_file
from workload_generator.log.totals import Totals

_SYNC_S = 1.0
_KEEPS_UP = 2  # frames in one read; more means that it has fallen behind


class LogFile:
    """An append-only file of whole lines, for structlog and for request lines. `size` is in bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size
        self.lines = 0

    def write(self, data: bytes, lines: int = 1) -> int:
        """Write whole lines. On OSError the file is cut after the last whole line."""
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                written += os.write(self._fd, view[written:])
        except OSError:
            whole = data.rfind(b"\n", 0, written) + 1
            with contextlib.suppress(OSError):  # readers tolerate a torn line
                os.ftruncate(self._fd, self.size + whole)
            self.size += whole
            self.lines += data.count(b"\n", 0, whole)
            raise
        self.size += written
        self.lines += lines
        return written

    def flush(self) -> None:
        """Required by structlog; there is no buffer."""

    def sync(self) -> None:
        """Flush the file to the disk."""
        os.fdatasync(self._fd)


class Recorder:
    """Processes the generator's frames in order. `handle` returns the reply."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._lines = log_format.LineLogger(file)
        self._encoder: log_format.ResultEncoder | None = None
        self._totals = Totals([])
        self._progress: RunProgress | None = None
        self._status_file: StatusFile | None = None
        self._failure: dict[str, Any] | None = None
        self._synced = time.monotonic()
        self.offers_core = False
        self.done = False

    def handle(self, kind: int, payload: bytes) -> bytes | None:
        """Process one frame. After a write error it replies FAILED once, and only counts from then on."""
        failed_before = self._failure is not None
        try:
            answer = self._act(kind, payload)
        except OSError as error:
            self._failure = {
                "message": f"{error.strerror or error}",
                "lines": self._file.lines,
                "bytes": self._file.size,
            }
            answer = None
        if self._failure is not None and not failed_before:
            return wire.json_frame(wire.FAILED, self._failure) + (answer or b"")
        return answer

    def close(self) -> None:
        """End the progress view."""
        if self._progress is not None:
            self._progress.close()

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
            if self._progress is not None:
                self._progress.beat(doc)
            self._write(log_format.PROGRESS, doc["line"])
            if self._status_file is not None:
                self._status_file.update(doc, self._totals)
        elif kind == wire.LINE:
            self._write(doc["event"], doc["fields"])
        elif kind == wire.FINISH:
            self.done = True
            self.close()
            self._write(log_format.RUN_FINISHED, doc)
            if self._status_file is not None:
                self._status_file.finish(self._totals, doc["verdict"])
            if self._failure is None:
                self._file.sync()
                return wire.json_frame(wire.DONE, {"lines": self._file.lines, "bytes": self._file.size})
        return None

    def _start(self, doc: dict[str, Any]) -> None:
        self._totals = Totals(doc["expected"])
        self._encoder = log_format.ResultEncoder(doc["targets"], Anchor(**doc["start"]), doc.get("event_prefix"))
        self._progress = open_progress(doc["progress"], doc["view"], doc["targets"])
        self._status_file = open_status_file(doc["header"], doc["view"]["total_ns"])
        self._write(log_format.RUN_STARTED, doc["header"])

    def _record(self, payload: bytes) -> None:
        encoder, totals, progress = self._encoder, self._totals, self._progress
        assert encoder is not None and progress is not None, "results before START"
        block = wire.read_block(payload)
        if block is None:
            return
        ok = totals.ok_by_shape(block)
        self._offer_core()
        totals.add(block, ok)
        progress.add(block, ok)
        if self._failure is None:
            self._offer_core()
            lines = encoder.encode(block, ok)
            self._offer_core()
            self._file.write(lines, len(block.seq))
        self._sync_sometimes()

    def _offer_core(self) -> None:
        if self.offers_core:
            os.sched_yield()

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        if self._failure is None:
            self._lines.write(event, fields)
            self._sync_sometimes()

    def _sync_sometimes(self) -> None:
        if self._failure is None and time.monotonic() - self._synced >= _SYNC_S:
            self._file.sync()
            self._synced = time.monotonic()


def main(argv: list[str]) -> NoReturn:
    """Record one run: `recorder LOG_FD SOCKET_FD`."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(name, signal.SIG_IGN)
    open_standard_streams()
    try:
        log_fd, socket_fd = map(int, argv)
    except ValueError:
        complain("recorder", "expected two descriptors, LOG_FD SOCKET_FD: workload-generator starts this program")
        sys.exit(ExitCode.USAGE)
    with socket.socket(fileno=socket_fd) as generator:
        record(log_fd, generator)
    os._exit(0)  # the log is synced, and a blocked terminal must not delay the exit


def record(log_fd: int, generator: socket.socket) -> None:
    """Write the log until the trailer, or until `generator` closes."""
    recorder = Recorder(LogFile(log_fd))
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
            if answer:
                with contextlib.suppress(ConnectionError):  # the generator was killed; its log is still completed
                    generator.sendall(answer)
    recorder.close()


if __name__ == "__main__":
    main(sys.argv[1:])
