"""`events.csv` and `instances.csv` → the database.

Rules:
- the original's form (`event_id,timestamp`, with or without a header line) is read too
- a file is identified by its first receipt, read from where the last extraction stopped, and stored in one transaction
- equal receipts (same event, trigger, instance and nanosecond) were sent twice: they are stored once
- an incomplete last line is left to the next extraction; any other bad line is named and counted
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import BinaryIO

from workload_generator.base.clock import parse_rfc3339
from workload_generator.log import format as log_format
from workload_generator.results.database import Store
from workload_generator.results.ingest.files import SkippedFile, SkippedLines, check_continues, tail_sha256

EVENTS, INSTANCES = "events", "instances"

_BLOCK_BYTES = 1 << 22
_FORMS = (2, 6)
_LIMIT = 2**63
_INSERT = (
    "INSERT OR IGNORE INTO events (event_id, timestamp, trigger, instance, attempt, sequence, received_ns) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_REPORT = """
    INSERT INTO receivers VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (instance) DO UPDATE SET timestamp = excluded.timestamp, received = excluded.received,
        refused = excluded.refused, acknowledged = excluded.acknowledged,
        offset_ns = coalesce(excluded.offset_ns, offset_ns), half_rtt_ns = coalesce(excluded.half_rtt_ns, half_rtt_ns)
    WHERE excluded.received >= received
"""

Row = tuple[str, str, str | None, str | None, int | None, str | None, int]


def is_events_file(path: Path) -> bool:
    """Whether its name is that of such a file: `events.csv`, `events-1.csv`, …"""
    return path.suffix == ".csv" and path.stem.startswith((EVENTS, INSTANCES))


def take_events(store: Store, path: Path) -> tuple[int, SkippedLines]:
    """Read a file's new lines; returns the number of new receipts, and skipped lines. Raises SkippedFile, OSError."""
    if path.stem.startswith(INSTANCES):
        return 0, _take_reports(store, path)
    skipped, new = SkippedLines(), 0
    with path.open("rb") as file, store.transaction():
        identity, begin = _first_receipt(file)
        if identity is None:
            return 0, skipped
        known = store.execute("SELECT * FROM event_files WHERE identity = ?", (identity,))
        if known:
            check_continues(file, path.name, known[0])
            file_id, offset, lines = known[0]["id"], known[0]["offset"], known[0]["lines"]
        else:
            offset, lines = begin, int(begin > 0)
            _refuse_migrated(store, file, begin)
            fields = {"identity": identity, "file": path.name, "offset": 0, "lines": 0, "tail_sha256": ""}
            file_id = store.insert("event_files", {**fields, "rows": 0, "skipped_lines": 0})
        file.seek(offset)
        while block := file.readlines(_BLOCK_BYTES):
            if not block[-1].endswith(b"\n"):
                del block[-1]  # incomplete: the next extraction reads it
            before = _changes(store)
            store.execute_many(_INSERT, _rows(block, lines + 1, skipped))
            new += _changes(store) - before
            lines += len(block)
            offset += sum(map(len, block))
            if not block:
                break
        fields = {"file": path.name, "offset": offset, "lines": lines, "tail_sha256": tail_sha256(file, offset)}
        store.update("event_files", file_id, fields)
        store.execute(
            "UPDATE event_files SET rows = rows + ?, skipped_lines = skipped_lines + ? WHERE id = ?",
            (new, skipped.count, file_id),
        )
    return new, skipped


def _changes(store: Store) -> int:
    return int(store.execute("SELECT total_changes()")[0][0])


def _first_receipt(file: BinaryIO) -> tuple[str | None, int]:
    """The file's identity, None without a complete receipt, and the offset of its first receipt."""
    first = file.readline(_BLOCK_BYTES)
    begin = 0
    if first.rstrip(b"\r\n").lower().startswith(b"event_id,timestamp"):
        begin = len(first)
        first = file.readline(_BLOCK_BYTES)
    if not first.endswith(b"\n"):
        return None, begin
    try:
        _receipt_of(first)
    except (ValueError, csv.Error) as problem:
        raise SkippedFile(f"its first line is not a receipt: {problem}") from None
    return hashlib.sha256(first).hexdigest(), begin


def _refuse_migrated(store: Store, file: BinaryIO, begin: int) -> None:
    """Refuse receipts of the original that are stored: without an instance, they look like second deliveries."""
    file.seek(begin)
    row = _receipt_of(file.readline(_BLOCK_BYTES))
    sql = "SELECT 1 FROM events WHERE event_id = ? AND timestamp = ? AND instance IS NULL AND trigger IS NULL"
    if row[3] is None and store.execute(sql, row[:2]):
        raise SkippedFile("its receipts are already in the database, from the original's own")


def _rows(lines: list[bytes], number: int, skipped: SkippedLines) -> list[Row]:
    rows: list[Row] = []
    for at, line in enumerate(lines, number):
        try:
            rows.append(_receipt_of(line))
        except (ValueError, csv.Error) as problem:
            skipped.add(at, f"not a receipt: {problem}")
    return rows


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([log_format.text_of(line.rstrip(b"\r\n"))], strict=True), [])


def _receipt_of(line: bytes) -> Row:
    """The row of one line. Raises ValueError or csv.Error."""
    fields = _fields(line)
    if len(fields) not in _FORMS:
        raise ValueError(f"{len(fields)} columns, not {' or '.join(map(str, _FORMS))}")
    event_id, timestamp = fields[:2]
    if not event_id:
        raise ValueError("no event_id")
    received_ns = parse_rfc3339(timestamp)
    if len(fields) == _FORMS[0]:
        return event_id, timestamp, None, None, None, None, received_ns
    trigger, instance, attempt, sequence = fields[2:]
    tries = int(attempt)
    if not 0 <= tries < _LIMIT:
        raise ValueError(f"attempt {attempt}")
    return event_id, timestamp, trigger or None, instance or None, tries, sequence or None, received_ns


def _take_reports(store: Store, path: Path) -> SkippedLines:
    skipped, rows = SkippedLines(), []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n") or line.startswith(b"instance,timestamp"):
            continue
        try:
            instance, timestamp, *figures = _fields(line)
            numbers = [int(figure) if figure else None for figure in figures]
            if len(numbers) != 5 or any(n is not None and abs(n) >= _LIMIT for n in numbers):
                raise ValueError(f"{len(figures) + 2} columns, not 7")
            rows.append((instance, timestamp, *numbers))
        except (ValueError, csv.Error) as problem:
            skipped.add(number, f"not a receiver's report: {problem}")
    with store.transaction():
        store.execute_many(_REPORT, rows)
    return skipped
