"""`events.csv` and `instances.csv` → the database.

Rules:
- the original's form (`event_id,timestamp`, with or without a header line) is read too
- a file is identified by its first line after the header
- equal receipts (same event, trigger, instance and nanosecond) were sent twice: they are stored once
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
from codecs import BOM_UTF8
from pathlib import Path
from typing import BinaryIO, ClassVar

from workload_generator.base.clock import parse_rfc3339
from workload_generator.log.format import text_of
from workload_generator.results.database import Store
from workload_generator.results.ingest.files import LONGEST_LINE, UNREADABLE, InputFile, Row, SkippedFile

_LIMIT = 2**63
_LEAST = (0, 0, 0, -_LIMIT, 0)
"""The least value of each figure of a report."""


class CsvFile(InputFile):
    """A CSV file with or without a header line, which begins with `header`."""

    table = "event_files"
    verb = "INSERT OR IGNORE"
    header: ClassVar[bytes]

    def __init__(self, file: BinaryIO) -> None:
        first, begin = file.readline(LONGEST_LINE), 0
        if first.removeprefix(BOM_UTF8).lower().startswith(self.header):
            first, begin = file.readline(LONGEST_LINE), len(first)
        if not first.endswith(b"\n"):
            raise SkippedFile("no complete line yet")
        super().__init__(hashlib.sha256(first).hexdigest(), begin)
        self.first = first

    def take(self, line: bytes) -> Row:
        """The row of a line."""
        raise NotImplementedError


class Receipts(CsvFile):
    """Receipts of events."""

    into = "events"
    columns = ("event_id", "timestamp", "trigger", "instance", "attempt", "sequence", "received_ns")
    unreadable = "not a receipt"
    header = b"event_id,timestamp"

    def join(self, store: Store) -> dict[str, object]:
        """Refuse receipts of the original that are stored: without an instance, they look like second deliveries."""
        sql = "SELECT 1 FROM events WHERE event_id = ? AND timestamp = ? AND instance IS NULL AND trigger IS NULL"
        with contextlib.suppress(*UNREADABLE):
            row = self.take(self.first)
            if row[3] is None and store.execute(sql, row[:2]):
                raise SkippedFile("its receipts are already in the database, from the original's own")
        return {}

    def take(self, line: bytes) -> Row:
        """The row of one receipt."""
        event_id, timestamp, *more = _fields(line, 2, 6)
        if not event_id:
            raise ValueError("no event_id")
        trigger, instance, attempt, sequence = more or (None, None, None, None)
        tries = None if attempt is None else _in_range(int(attempt), least=0)
        received_ns = _in_range(parse_rfc3339(timestamp))
        return event_id, timestamp, trigger or None, instance or None, tries, sequence or None, received_ns


class Reports(CsvFile):
    """Reports of receivers."""

    into = "receiver_reports"
    columns = ("instance", "timestamp", "received", "refused", "acknowledged", "offset_ns", "half_rtt_ns", "at_ns")
    unreadable = "not a receiver's report"
    header = b"instance,timestamp"

    def take(self, line: bytes) -> Row:
        """The row of one report."""
        instance, timestamp, *figures = _fields(line, 7)
        numbers = [
            _in_range(int(figure), least) if figure else None for figure, least in zip(figures, _LEAST, strict=True)
        ]
        return instance, timestamp, *numbers, _in_range(parse_rfc3339(timestamp))


def open_csv(path: Path, file: BinaryIO) -> CsvFile:
    """The source in a file for which `is_csv` holds. Raises SkippedFile."""
    return Receipts(file) if path.stem.startswith("events") else Reports(file)


def is_csv(path: Path) -> bool:
    """Whether its name is that of such a file: `events.csv`, `events-1.csv`, `instances.csv`, …"""
    return path.suffix == ".csv" and path.stem.startswith(("events", "instances"))


def _fields(line: bytes, *forms: int) -> list[str]:
    fields = next(csv.reader([text_of(line.removeprefix(BOM_UTF8).rstrip(b"\r\n"))], strict=True), [])
    if len(fields) not in forms:
        raise ValueError(f"{len(fields)} columns, not {' or '.join(map(str, forms))}")
    return fields


def _in_range(number: int, least: int = -_LIMIT) -> int:
    if not least <= number < _LIMIT:
        raise ValueError(f"{number} is out of range")
    return number
