"""`events.csv` and `instances.csv` → the database.

Rules:
- the original's form (`event_id,timestamp`, with or without that line above it) is read as well as ours
- a file is known by its first receipt, read from where the last extraction ended, and stored in one transaction
- a receipt that stands there twice (same event, trigger, instance and nanosecond) was sent twice: it is one
- a torn last line is left for the next time, any other bad line is named and counted
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from workload_generator.base.clock import parse_rfc3339
from workload_generator.log import format as log_format
from workload_generator.results.database import Store

EVENTS, INSTANCES = "events", "instances"

_BLOCK_BYTES = 1 << 22
_TAIL_BYTES = 4096
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


class Unusable(ValueError):
    """A file that is left out; `str()` says why."""


@dataclass(slots=True)
class Taken:
    """What was read of a file: new receipts, and lines that were left out, by number and reason."""

    rows: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)


def is_events_file(path: Path) -> bool:
    """By its name: `events.csv`, `events-1.csv`, and the like."""
    return path.suffix == ".csv" and path.stem.startswith((EVENTS, INSTANCES))


def take_events(store: Store, path: Path) -> Taken:
    """What is new in one file. Raises Unusable, OSError."""
    if path.stem.startswith(INSTANCES):
        return _take_reports(store, path)
    taken = Taken()
    with path.open("rb") as file, store.transaction():
        identity, begin = _first_receipt(file)
        if identity is None:
            return taken
        known = store.execute("SELECT * FROM event_files WHERE identity = ?", (identity,))
        if known:
            _check_same(file, path, known[0])
            file_id, offset, lines = known[0]["id"], known[0]["offset"], known[0]["lines"]
        else:
            offset, lines = begin, int(begin > 0)
            _refuse_migrated(store, file, begin)
            fields = {"identity": identity, "file": path.name, "offset": 0, "lines": 0, "tail_sha256": ""}
            file_id = store.insert("event_files", {**fields, "rows": 0, "skipped_lines": 0})
        file.seek(offset)
        while block := file.readlines(_BLOCK_BYTES):
            if not block[-1].endswith(b"\n"):
                del block[-1]  # torn: the next extraction takes it
            rows = _rows(block, lines + 1, taken.bad)
            (before,) = store.execute("SELECT total_changes()")[0]
            store.execute_many(_INSERT, rows)
            taken.rows += store.execute("SELECT total_changes()")[0][0] - before
            lines += len(block)
            offset += sum(map(len, block))
            if not block:
                break
        fields = {"file": path.name, "offset": offset, "lines": lines, "tail_sha256": _tail(file, offset)}
        store.update("event_files", file_id, fields)
        store.execute(
            "UPDATE event_files SET rows = rows + ?, skipped_lines = skipped_lines + ? WHERE id = ?",
            (taken.rows, len(taken.bad), file_id),
        )
    return taken


def _first_receipt(file: BinaryIO) -> tuple[str | None, int]:
    """The file's identity, and where its first receipt begins; no identity when there is none yet."""
    first = file.readline(_BLOCK_BYTES)
    begin = 0
    if first.rstrip(b"\r\n").lower().startswith(b"event_id,timestamp"):
        begin = len(first)
        first = file.readline(_BLOCK_BYTES)
    if not first.endswith(b"\n"):
        return None, begin
    bad: list[tuple[int, str]] = []
    if not _rows([first], 1, bad):
        raise Unusable(f"its first line is no receipt: {bad[0][1]}" if bad else "its first line is no receipt")
    return hashlib.sha256(first).hexdigest(), begin


def _refuse_migrated(store: Store, file: BinaryIO, begin: int) -> None:
    """The original's receipts have no instance: nothing would tell a second reading from a second delivery."""
    file.seek(begin)
    (row,) = _rows([file.readline(_BLOCK_BYTES)], 1, [])
    sql = "SELECT 1 FROM events WHERE event_id = ? AND timestamp = ? AND instance IS NULL AND trigger IS NULL"
    if row[3] is None and store.execute(sql, row[:2]):
        raise Unusable("its receipts are in the database already, from the original's own")


def _check_same(file: BinaryIO, path: Path, known: dict[str, object]) -> None:
    offset = known["offset"]
    assert isinstance(offset, int)
    size = os.fstat(file.fileno()).st_size
    if path.name != known["file"] and size <= offset:
        raise Unusable(f"a copy of {known['file']}, which was read before")
    if size < offset:
        raise Unusable(f"it has {size:,} bytes, and {offset:,} were read of it before: cut or replaced")
    if _tail(file, offset) != known["tail_sha256"]:
        raise Unusable(f"it claims to be {known['file']}, which was read before, but differs from it")


def _rows(lines: list[bytes], number: int, bad: list[tuple[int, str]]) -> list[Row]:
    rows: list[Row] = []
    texts = [log_format.text_of(line.rstrip(b"\r\n")) for line in lines]
    for at, text in enumerate(texts, number):
        try:
            fields = next(csv.reader([text], strict=True), [])
            rows.append(_row(fields))
        except (ValueError, csv.Error) as problem:
            bad.append((at, f"not a receipt: {problem}"))
    return rows


def _row(fields: list[str]) -> Row:
    if len(fields) not in _FORMS:
        raise ValueError(f"{len(fields)} columns, and not {' or '.join(map(str, _FORMS))}")
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


def _take_reports(store: Store, path: Path) -> Taken:
    taken = Taken()
    rows = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n") or line.startswith(b"instance,timestamp"):
            continue
        try:
            instance, timestamp, *figures = next(
                csv.reader([log_format.text_of(line.rstrip(b"\r\n"))], strict=True), []
            )
            numbers = [int(figure) if figure else None for figure in figures]
            if len(numbers) != 5 or any(n is not None and abs(n) >= _LIMIT for n in numbers):
                raise ValueError(f"{len(figures) + 2} columns, and not 7")
            rows.append((instance, timestamp, *numbers))
        except (ValueError, csv.Error) as problem:
            taken.bad.append((number, f"not a receiver's report: {problem}"))
    with store.transaction():
        store.execute_many(_REPORT, rows)
    return taken


def _tail(file: BinaryIO, offset: int) -> str:
    begin = max(0, offset - _TAIL_BYTES)
    return hashlib.sha256(os.pread(file.fileno(), offset - begin, begin)).hexdigest()
