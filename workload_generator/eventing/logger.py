"""The event logger: appends receipts to `events.csv`, and reports of receiver instances to `instances.csv`.

Rules:
- a batch is answered with 200 once its lines are written, and with 503 when writing fails
- each batch is one write of whole lines, so that any number of workers and receivers can share the files
- a torn line (after a full disk, or a crash of the machine) is ended before the next line
- the files are synced at an interval, and at the end
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

import orjson
from aiohttp.web import Response

from workload_generator.base.errors import RequestRefused, UsageError
from workload_generator.eventing import receipts
from workload_generator.eventing.counters import Counters
from workload_generator.eventing.http_workers import Headers

EVENTS, INSTANCES = "events.csv", "instances.csv"
COUNTED = ("receipts", "batches", "rejected", "failed", "written_bytes", "dropped_connections")


class AppendFile:
    """A file of whole lines, which other processes may append to as well."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._path = path
        self._dirty = False
        self._torn = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # one of several workers that start at once writes the header
            size = os.fstat(self._fd).st_size
            self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
            if size == 0:
                self.write(header)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError as error:
            raise UsageError(f"cannot write to {path}: {error.strerror}; choose another folder with --data") from None

    def write(self, lines: bytes) -> None:
        """Append whole lines. Raises OSError; the next write then ends a line that was written in part."""
        data = b"\n" + lines if self._torn else lines
        self._dirty = True
        written = 0
        while written < len(data):
            written += os.write(self._fd, data[written:] if written else data)
            self._torn = written < len(data)

    def sync(self) -> None:
        """Sync the file to the disk. Raises OSError."""
        if self._dirty:
            self._dirty = False  # first: lines that are written meanwhile need the next sync
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._dirty = True
                raise

    def close(self) -> None:
        """Sync and close it."""
        self.sync()
        os.close(self._fd)


class EventLogger:
    """The service of one worker. Both files are in `folder`. Raises UsageError when they cannot be used."""

    most_body_bytes = 32 * 1024 * 1024

    def __init__(self, folder: Path, sync_s: float) -> None:
        self._events = AppendFile(folder / EVENTS, receipts.HEADER)
        self._instances = AppendFile(folder / INSTANCES, receipts.INSTANCES_HEADER)
        self._sync_s = sync_s
        self.counters = Counters(COUNTED)
        self._reports: dict[str, receipts.ReceiptBatch] = {}  # the last one of each instance that is not written yet
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to sync."""
        self._task = asyncio.create_task(self._sync_at_interval())

    def is_ready(self) -> bool:
        """Whether the last write succeeded."""
        return not self._failing

    async def answer(self, path: str, _headers: Headers, body: bytes, arrived_ns: int) -> Response:
        """Write a batch (`POST /receipts`, or `POST /` as the original's receiver sends it)."""
        if path not in ("/receipts", "/"):
            raise RequestRefused(404, "send receipts to /receipts; other paths: /healthz, /readyz, /metrics, /clock")
        count = self._take(body)
        answer = {"written": count, "received_ns": arrived_ns, "sent_ns": time.time_ns()}
        return Response(body=orjson.dumps(answer), content_type="application/json")

    def _take(self, body: bytes) -> int:
        try:
            document = orjson.loads(body)
            line = receipts.original_receipt(document)
            if line is not None:
                self._write(line)
                self.counters.add("receipts")
                return 1
            batch = receipts.decode_batch(body)
        except ValueError as error:
            raise RequestRefused(400, str(error)) from None
        if batch.receipts:
            self._write(receipts.csv_lines(batch))
        if batch.report is not None:
            self._reports[batch.instance] = batch
        self.counters.add("batches")
        self.counters.add("receipts", len(batch.receipts))
        return len(batch.receipts)

    def _write(self, lines: bytes) -> None:
        try:
            self._events.write(lines)
        except OSError as error:
            self._failing = True
            self.counters.add("failed")
            raise RequestRefused(503, f"the receipts cannot be written: {error.strerror}") from None
        self._failing = False
        self.counters.add("written_bytes", len(lines))

    async def _sync_at_interval(self) -> None:
        while True:
            await asyncio.sleep(self._sync_s)
            try:
                self._write_reports()
                await asyncio.to_thread(self._events.sync)
            except OSError:
                self._failing = True

    def _write_reports(self) -> None:
        reports, self._reports = self._reports, {}
        now_ns = time.time_ns()
        lines = b"".join([receipts.report_line(batch, now_ns) for batch in reports.values()])
        try:
            if lines:
                self._instances.write(lines)
        except OSError:
            self._reports = {**reports, **self._reports}  # written with the next ones
            raise

    async def stop(self) -> None:
        """Write the last reports, and sync."""
        if self._task is not None:
            self._task.cancel()
        self._write_reports()
        self._events.close()
        self._instances.close()
