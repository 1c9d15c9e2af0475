"""The output of `top`: a SQLite database or CSV files. A tick is stored completely or not at all.

Rules:
- one `top` at a time writes to a folder
- existing data is continued: old tables get new columns, a line that a kill left incomplete is removed
- the database is in WAL mode while it is open, so that `combine` can read it, and a single file afterwards
"""

from __future__ import annotations

import csv
import fcntl
import io
import mmap
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.usage_tables import TABLES, NodeSample, PodSample, Row, columns_of, schema_of
from workload_generator.cluster.top.usage import SampleKey

DATABASE = "metrics.db"
_BUSY_S = 30.0
_TAIL_BYTES = 16 * 2**20
_RECENT = timedelta(minutes=10)
_LAST_SAMPLES = """
SELECT '', node_name, '', max(sample_timestamp) FROM node_metrics
WHERE timestamp > :since AND source = :source AND sample_timestamp IS NOT NULL GROUP BY node_name
UNION ALL
SELECT namespace, pod_name, container_name, max(sample_timestamp) FROM pod_metrics
WHERE timestamp > :since AND source = :source AND sample_timestamp IS NOT NULL GROUP BY 1, 2, 3
"""


@contextmanager
def open_storage(kind: str, folder: Path) -> Iterator[Storage]:
    """`sqlite` or `csv` in `folder`, which is created if needed. Raises BenchError, UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"--output-dir {folder}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--output-dir {folder}: another kn-bench top is writing there") from None
        storage: Storage = Database(folder / DATABASE) if kind == "sqlite" else CsvFiles(folder)
        with closing(storage):
            yield storage
    finally:
        os.close(lock)


class Database:
    """`metrics.db`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _translated(path):
            self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def write(self, rows: Iterable[Row]) -> None:
        """Store all rows or none, in one transaction. Raises BenchError."""
        with _translated(self._path), self._connection:  # which commits, or rolls back
            self._connection.execute("BEGIN IMMEDIATE")
            for kind, group in _grouped(rows).items():
                names = ", ".join(kind._fields)
                marks = ", ".join("?" * len(kind._fields))
                self._connection.executemany(f"INSERT INTO {TABLES[kind]} ({names}) VALUES ({marks})", group)

    def last_samples(self, source: str) -> dict[SampleKey, str]:
        """The times of the newest samples that are stored already, of the last minutes, by the index over time."""
        since = (datetime.now(UTC) - _RECENT).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        with _translated(self._path):
            rows = self._connection.execute(_LAST_SAMPLES, {"since": since, "source": source})
            return {(namespace, name, container): sample for namespace, name, container, sample in rows}

    def close(self) -> None:
        """Move the write-ahead log into the database, unless another process is reading it."""
        try:
            self._connection.execute("PRAGMA busy_timeout = 1000")
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError:
            return  # there is a reader: the log beside the database keeps the committed data
        finally:
            self._connection.close()

    def _prepare(self) -> None:
        with _translated(self._path), self._connection:
            existing = {name for (name,) in self._connection.execute("SELECT lower(name) FROM sqlite_schema")}
            if "experiments" in existing:
                raise UsageError(
                    f"{self._path} is a benchmark database, not a metrics database: use another --output-dir"
                )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("BEGIN IMMEDIATE")
            for table in TABLES.values():
                if table in existing:
                    self._add_columns(table)
                else:
                    for statement in schema_of(table):
                        self._connection.execute(statement)

    def _add_columns(self, table: str) -> None:
        known = {row[1].lower() for row in self._connection.execute(f"PRAGMA table_info({table})")}
        for name, (kind, is_required) in columns_of(table).items():
            if name not in known and is_required:
                raise UsageError(f"{self._path} is not a metrics database: its table {table} has no column {name}")
            if name not in known:
                self._connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


class CsvFiles:
    """A file with a header for each table; a tick is one write to each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[type[Row], int] = {}
        try:
            with _translated(folder):
                for kind in TABLES:
                    path = self._path(kind)
                    _mend(path, kind._fields)
                    self._files[kind] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                    if not path.stat().st_size:
                        _write_all(self._files[kind], _lines([kind._fields]))
        except BaseException:
            self.close()
            raise

    def _path(self, kind: type[Row]) -> Path:
        return self._folder / f"{TABLES[kind]}.csv"

    def write(self, rows: Iterable[Row]) -> None:
        """Append to each file in one write; if one fails, truncate all to their old sizes. Raises BenchError."""
        with _translated(self._folder):
            before = {file: os.fstat(file).st_size for file in self._files.values()}
            try:
                for kind, group in _grouped(rows).items():
                    _write_all(self._files[kind], _lines(group))
            except OSError:
                for file, size in before.items():
                    os.ftruncate(file, size)
                raise

    def last_samples(self, source: str) -> dict[SampleKey, str]:
        """The times of the newest samples that are stored already, read from the end of the files."""
        samples: dict[SampleKey, str] = {}
        for kind in (NodeSample, PodSample):
            with self._path(kind).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                if file.tell():
                    file.readline()  # a partial line
                text = file.read().decode(errors="replace")
            for values in csv.reader(io.StringIO(text)):
                if len(values) != len(kind._fields) or values[-1] != source:
                    continue
                row = dict(zip(kind._fields, values, strict=True))
                pod = (row["namespace"], row["pod_name"], row["container_name"]) if kind is PodSample else None
                samples[pod or ("", row["node_name"], "")] = row["sample_timestamp"]
        return samples

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()


Storage = Database | CsvFiles
"""An open output. `write` may be called by any thread, one at a time."""


def _grouped(rows: Iterable[Row]) -> Mapping[type[Row], list[Row]]:
    groups: dict[type[Row], list[Row]] = {}
    for row in rows:
        groups.setdefault(type(row), []).append(row)
    return groups


def _lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _mend(path: Path, columns: tuple[str, ...]) -> None:
    """Remove an incomplete last line. Raises UsageError if the file has other columns."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        header = file.readline()
        if header != _lines([columns]):
            if not header.endswith(b"\n") and _lines([columns]).startswith(header):
                file.truncate(0)
                return
            raise UsageError(f"{path} has other columns than {','.join(columns)}: use another --output-dir")
        with mmap.mmap(file.fileno(), 0) as data:
            end = data.rfind(b"\n") + 1
        file.truncate(end)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BenchError(f"cannot use the database {path}: {error}") from error
    except OSError as error:
        raise BenchError(f"cannot write to {path}: {error.strerror}") from error
