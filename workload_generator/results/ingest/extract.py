"""Log files → database.

Rules:
- one transaction a file: it is stored as far as its lines are whole, or not at all
- a file is known by what it says of itself, not by its name; a copy adds nothing, a grown one only its rest
- whatever cannot be read is left out, named and counted; only the database's own faults end an extraction
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from workload_generator.base.errors import BenchError
from workload_generator.log import format as log_format
from workload_generator.results.database import Store, open_store
from workload_generator.results.ingest import cold_starts, naming, reconcile
from workload_generator.results.ingest.events import Unusable, is_events_file, take_events
from workload_generator.results.ingest.readers import ORIGINAL_FORMAT, Batch, NotALog, Reader, open_reader

_BLOCK_BYTES = 1 << 20
_LONGEST_FIRST_LINE = 1 << 24
_TAIL_BYTES = 4096
_MOST_NAMED_LINES = 5

OnProgress = Callable[[int, int, str], None]
"""Bytes done, bytes in all, and the file's name."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Something that was left out: a file (line 0) or lines of it. `count` is how many lines."""

    file: str
    line: int
    reason: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What an extraction did.

    `logs` is how many files are logs of ours or the original's, `read` how many of them had something new, `rows` how
    many results that added, `receipts` how many receipts of events the `events.csv` did. `experiments` are the ids of
    the runs that the logs and receipts belong to. `warnings` are about runs that are in the database but not whole.
    """

    logs: int
    read: int
    rows: int
    experiments: tuple[int, ...]
    skipped: tuple[Skip, ...]
    warnings: tuple[str, ...]
    receipts: int = 0


def extract(logs: Path, db: Path, hours: float | None = None, on_progress: OnProgress | None = None) -> Report:
    """Bring what is new in the folder (or the file) `logs` into the database at `db`.

    `hours` leaves out files whose name says that they are older. Raises BenchError when the folder cannot be listed or
    the database not be used; the files of before that are stored.
    """
    files = _list(logs)
    with open_store(db) as store:
        return _Extraction(store, files, on_progress).run(hours)


class _Leave(Exception):
    """Leave this file out; `str()` says why. `known` when it is a log all the same."""

    def __init__(self, reason: str, known: bool = False) -> None:
        super().__init__(reason)
        self.known = known


class _Extraction:
    """State of one extraction."""

    def __init__(self, store: Store, files: list[Path], on_progress: OnProgress | None) -> None:
        self._store = store
        self._files = files
        self._sizes = {path: _size(path) for path in files}
        self._all_bytes = sum(self._sizes.values())
        self._done_bytes = 0
        self._on_progress = on_progress
        self._logs = self._read = self._rows = self._receipts = 0
        self._experiments: dict[int, None] = {}
        self._skipped: list[Skip] = []

    def run(self, hours: float | None) -> Report:
        """Take the files one by one."""
        now = datetime.now(UTC)
        for path in self._files:
            self._progress(path, 0)
            try:
                if is_events_file(path):
                    self._take_events(path)
                    continue
                _, written = naming.read_file_name(path.name)
                if hours is not None and written is not None and (now - written).total_seconds() > hours * 3600:
                    raise _Leave(f"left out: by its name it is older than {hours:g} h")
                self._extract(path)
            except _Leave as leave:
                self._logs += leave.known
                self._skipped.append(Skip(_name(path), 0, str(leave)))
            except (NotALog, reconcile.Conflict, Unusable) as reason:
                self._skipped.append(Skip(_name(path), 0, str(reason)))
            except OSError as error:
                self._skipped.append(Skip(_name(path), 0, f"cannot be read: {error.strerror or error}"))
            finally:
                self._done_bytes += self._sizes[path]
                self._progress(path, 0)
        touched = self._with_receipts()
        self._experiments |= dict.fromkeys(touched)
        warnings = [text for experiment in self._experiments for text in reconcile.warnings_of(self._store, experiment)]
        return Report(
            logs=self._logs,
            read=self._read,
            rows=self._rows,
            experiments=tuple(self._experiments),
            skipped=tuple(self._skipped),
            warnings=tuple(warnings),
            receipts=self._receipts,
        )

    def _extract(self, path: Path) -> None:
        if not path.is_file():
            raise _Leave("not a file")
        with path.open("rb") as file:
            first = _first_line(file)
            reader = open_reader(_name(path), first)
            with self._store.transaction():
                reading = _Reading(self._store, reader, file, _name(path))
                reading.start(len(first))
                reading.read(lambda offset: self._progress(path, offset))
                reading.finish()
        self._logs += 1
        self._read += reading.new_lines > 0
        self._rows += reading.new_rows
        self._skipped += reading.skips()
        self._experiments[reading.experiment_id] = None

    def _take_events(self, path: Path) -> None:
        taken = take_events(self._store, path)
        self._receipts += taken.rows
        self._skipped += [Skip(_name(path), line, reason) for line, reason in taken.bad[:_MOST_NAMED_LINES]]
        more = len(taken.bad) - _MOST_NAMED_LINES
        if more > 0:
            line, reason = taken.bad[_MOST_NAMED_LINES]
            self._skipped.append(Skip(_name(path), line, f"{reason} (the first of {more:,} more such lines)", more))

    def _with_receipts(self) -> list[int]:
        """The runs that new receipts may belong to: when there are any, all that sent events."""
        if not self._receipts:
            return []
        sql = """
            SELECT id FROM experiments e
            WHERE EXISTS (SELECT 1 FROM results r JOIN events v ON v.event_id = r.event_id WHERE r.experiment_id = e.id)
        """
        return [row["id"] for row in self._store.execute(sql)]

    def _progress(self, path: Path, offset: int) -> None:
        if self._on_progress is not None:
            done = self._done_bytes + min(offset, self._sizes[path])  # a growing file may have more by now
            self._on_progress(done, self._all_bytes, _name(path))


class _Reading:
    """One file on its way into the database, inside a transaction."""

    def __init__(self, store: Store, reader: Reader, file: BinaryIO, name: str) -> None:
        self._store = store
        self._reader = reader
        self._file = file
        self._name = name
        self._offset = self._lines = 0
        self._heartbeat: dict[str, Any] | None = None
        self._trailer: dict[str, Any] | None = None
        self._bad: list[tuple[int, str]] = []
        self._bad_lines = 0
        self._end: str | None = None
        self._copy_of: str | None = None
        self.new_lines = 0
        self.new_rows = 0
        self.experiment_id = 0

    def start(self, header_bytes: int) -> None:
        """Go to where the last extraction ended, or begin a shard. Raises _Leave when there is nothing to take."""
        shard = reconcile.shard_of(self._store, self._reader.identity)
        if shard is None:
            self.experiment_id = reconcile.join_run(self._store, self._reader)
            if self._reader.has_header:
                self._offset, self._lines, self.new_lines = header_bytes, 1, 1
            self._shard_id = self._insert_shard()
        else:
            self._check_same(shard)
            self.experiment_id, self._shard_id = shard["experiment_id"], shard["id"]
            self._offset, self._lines = shard["offset"], shard["lines"]
        self._file.seek(self._offset)

    def read(self, on_progress: Callable[[int], None]) -> None:
        """Take all whole lines."""
        while lines := self._file.readlines(_BLOCK_BYTES):
            torn = not lines[-1].endswith(b"\n")
            if torn:
                self._end = "torn: its end is not there yet, the next extraction will take it"
                del lines[-1]
            batch = self._reader.read(lines, self._lines + 1)
            self._store_batch(batch)
            taken = lines[: batch.read]
            self._lines += len(taken)
            self.new_lines += len(taken)
            self._offset += sum(map(len, taken))
            on_progress(self._offset)
            if batch.read < len(lines):
                self._end = "another run begins here: it and all that follows is left out"
            if self._end is not None:
                break

    def finish(self) -> None:
        """Bring the accounts up to date. Raises _Leave when the file turns out not to be a log."""
        if self.new_lines == 0:
            self._leave_copy()
            return
        fields: dict[str, object] = {"file": self._name, "offset": self._offset, "lines": self._lines}
        fields["tail_sha256"] = self._tail(self._offset)
        if self._heartbeat is not None:
            fields["heartbeat"] = orjson.dumps(self._heartbeat).decode()
        self._store.update("shards", self._shard_id, fields)
        self._store.execute(
            "UPDATE shards SET rows = rows + ?, skipped_lines = skipped_lines + ? WHERE id = ?",
            (self.new_rows, self._bad_lines, self._shard_id),
        )
        if self._reader.format == ORIGINAL_FORMAT:
            ((rows,),) = self._store.execute("SELECT rows FROM shards WHERE id = ?", (self._shard_id,))
            if not rows:
                raise _Leave("it reads like the original's log, but has no result yet")
        reconcile.refresh_shard(self._store, self._shard_id, self._trailer)
        reconcile.refresh_experiment(self._store, self.experiment_id)

    def skips(self) -> list[Skip]:
        """The lines that were left out: the first few by name, the others counted."""
        skips = [Skip(self._name, line, reason) for line, reason in self._bad[:_MOST_NAMED_LINES]]
        more = self._bad_lines - len(skips)
        if more:
            line, reason = self._bad[_MOST_NAMED_LINES]
            skips.append(Skip(self._name, line, f"{reason} (the first of {more:,} more such lines)", more))
        if self._end is not None:
            skips.append(Skip(self._name, self._lines + 1, self._end))
        return skips

    def _insert_shard(self) -> int:
        return self._store.insert(
            "shards",
            {
                "experiment_id": self.experiment_id,
                "shard": self._reader.shard,
                "identity": self._reader.identity,
                "format": self._reader.format,
                "file": self._name,
                "offset": 0,
                "lines": 0,
                "tail_sha256": "",
                "rows": 0,
                "skipped_lines": 0,
                **self._reader.origin,
            },
        )

    def _check_same(self, shard: Mapping[str, Any]) -> None:
        """Whether this file continues what was read as `shard`."""
        size, offset = os.fstat(self._file.fileno()).st_size, shard["offset"]
        if self._name != shard["file"]:
            self._copy_of = shard["file"]
        if size < offset:
            self._leave_copy()
            raise _Leave(f"it has {size:,} bytes, and {offset:,} were read of it before: cut or replaced", known=True)
        if self._tail(offset) != shard["tail_sha256"]:
            raise _Leave(f"it claims to be {shard['file']}, which was read before, but differs from it", known=True)

    def _leave_copy(self) -> None:
        if self._copy_of is not None:
            raise _Leave(f"a copy of {self._copy_of}, which was read before", known=True)

    def _store_batch(self, batch: Batch) -> None:
        for columns, rows in batch.groups:
            self._store.execute_many(self._insert_sql(columns), rows)
        if batch.cold_starts:
            sql = cold_starts.insert_sql(self.experiment_id, self._reader.shard)
            self._store.execute_many(sql, batch.cold_starts)
        for table, columns, found in (
            ("cold_bursts", cold_starts.BURST_COLUMNS, batch.bursts),
            ("cold_burst_instances", cold_starts.INSTANCE_COLUMNS, batch.burst_instances),
        ):
            sql = cold_starts.insert_into(table, columns, self.experiment_id, self._reader.shard)
            self._store.execute_many(sql, found)
        if batch.settings:
            self._store.update("experiments", self.experiment_id, batch.settings)
        self.new_rows += batch.rows
        self._heartbeat = batch.heartbeat or self._heartbeat
        self._trailer = batch.trailer or self._trailer
        self._bad += batch.bad[: max(0, _MOST_NAMED_LINES + 1 - len(self._bad))]
        self._bad_lines += len(batch.bad)

    def _insert_sql(self, columns: tuple[str, ...]) -> str:
        marks = ", ".join("?" * len(columns))
        mine = f"{self.experiment_id}, {self._reader.shard}"
        return f"INSERT INTO results ({', '.join(columns)}, experiment_id, shard) VALUES ({marks}, {mine})"

    def _tail(self, offset: int) -> str:
        begin = max(0, offset - _TAIL_BYTES)
        return hashlib.sha256(os.pread(self._file.fileno(), offset - begin, begin)).hexdigest()


def _list(logs: Path) -> list[Path]:
    if logs.is_file():
        return [logs]
    try:
        return sorted(path for path in logs.iterdir() if path.suffix == ".log" or is_events_file(path))
    except OSError as error:
        raise BenchError(f"cannot read the logs in {logs}: {error.strerror}") from None


def _first_line(file: BinaryIO) -> bytes:
    line = file.readline(_LONGEST_FIRST_LINE)
    if not line:
        raise _Leave("empty")
    if not line.endswith(b"\n"):
        if len(line) == _LONGEST_FIRST_LINE:
            raise NotALog("its first line is neither ours nor the original's")
        raise _Leave("its first line is not whole yet")
    return line


def _name(path: Path) -> str:
    return log_format.clean(path.name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
