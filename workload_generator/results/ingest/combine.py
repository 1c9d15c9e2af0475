"""Recorded usage and states of nodes and pods → the benchmark database, from a database of ours or the original's.

Rules:
- one transaction: an error leaves the benchmark database as it was; the database of metrics is only read
- rows are compared by all their columns and counted: merging again adds nothing, merging a database that has grown adds
  its new rows, and two equal rows of one database stay two
- both timestamp forms of the original become UTC with milliseconds, also in tables that were copied by hand
- unknown columns are kept
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload_generator.base import usage_tables as schema
from workload_generator.base.clock import parse_rfc3339
from workload_generator.base.errors import BenchError
from workload_generator.base.quantities import millicores, whole_bytes
from workload_generator.base.usage_tables import stamp
from workload_generator.results.database import Store, columns_of, open_store, quoted

NAMES = {"node_metrics": "node_name", "pod_metrics": "pod_name"}
"""The tables of usage, with the column of the node's or pod's name."""

_NUMBERS = {"cpu_millicores": ("cpu_usage", millicores), "memory_bytes": ("memory_usage", whole_bytes)}
_ORIGINALS_SOURCE = "metrics"  # its only one
_BATCH = 20_000
_NEW, _ASIDE = "metrics_being_merged", "metrics_set_aside"


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged table: the number of its rows in the database of metrics, and how many of them were new."""

    table: str
    rows: int
    new: int


def combine(db: Path, metrics: Path) -> list[Merged]:
    """Merge the tables of `metrics` into the existing benchmark database `db`. Raises BenchError."""
    for path in (db, metrics):
        if not path.is_file():
            raise BenchError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    if db.samefile(metrics):
        raise BenchError(f"{db} cannot be merged into itself: --db and --metrics are the same file")
    with closing(_opened(metrics)) as source:
        tables = _tables(metrics, source)
        with open_store(db) as store, store.transaction():
            return [_merge(store, metrics, source, table, columns) for table, columns in tables.items()]


def _opened(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise BenchError(f"cannot read {path}: {error}") from error
    try:
        connection.execute("BEGIN")  # a consistent view, also while `top` writes
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise BenchError(f"{path} is not a database of metrics: {error}") from error
    return connection


def _tables(path: Path, source: sqlite3.Connection) -> dict[str, list[str]]:
    """The tables of metrics in `source` and their columns."""
    present = {name for (name,) in source.execute("SELECT lower(name) FROM sqlite_schema WHERE type = 'table'")}
    if "experiments" in present:
        raise BenchError(f"{path} is a benchmark database, not a database of metrics: are --db and --metrics swapped?")
    tables = {}
    for table in schema.TABLES.values():
        if table not in present:
            continue
        columns = [row[1].lower() for row in source.execute(f"PRAGMA table_info({table})")]
        missing = _needed(table) - set(columns)
        if missing:
            raise BenchError(
                f"{path} is not a database of metrics: its table {table} has no column {', '.join(sorted(missing))}"
            )
        tables[table] = columns
    if not tables.keys() & NAMES.keys():
        has = f"it has the tables {', '.join(sorted(present))}" if present else "it has no tables"
        raise BenchError(f"{path} is not a database of metrics: it needs node_metrics or pod_metrics, and {has}")
    return tables


def _merge(store: Store, path: Path, source: sqlite3.Connection, table: str, columns: list[str]) -> Merged:
    _prepare(store, table)
    new, before = [name for name in columns if name != "id"], _count(store, table)
    kinds = {row[1].lower(): row[2] for row in source.execute(f"PRAGMA table_info({table})")}
    rows = _add(store, table, {name: kinds[name] for name in new}, _read(path, source, table, new), path)
    return Merged(table, rows, _count(store, table) - before)


def _prepare(store: Store, table: str) -> None:
    """Create `table` with all our columns; rows that another program stored there are converted as all rows are."""
    known = columns_of(store, table)
    if known and schema.columns_of(table).keys() <= known.keys():
        return
    if known:
        store.execute("PRAGMA legacy_alter_table = ON")  # else users' views would follow the table to its other name
        store.execute(f"ALTER TABLE {table} RENAME TO {_ASIDE}")
        store.execute("PRAGMA legacy_alter_table = OFF")
    for statement in schema.schema_of(table):
        store.execute(statement)
    if known:
        missing = _required(table) - known.keys()
        if missing:
            raise BenchError(f"{store.path}: its table {table} has no column {', '.join(sorted(missing))}")
        kinds = {name: kind for name, kind in known.items() if name != "id"}
        rows = store.stream(f"SELECT rowid, {_listed(kinds)} FROM {_ASIDE} ORDER BY rowid", (), _BATCH)
        _add(store, table, kinds, rows, store.path)
        store.execute(f"DROP TABLE {_ASIDE}")


def _read(path: Path, source: sqlite3.Connection, table: str, columns: Iterable[str]) -> Iterator[list[Any]]:
    try:
        cursor = source.execute(f"SELECT rowid, {_listed(columns)} FROM {table} ORDER BY rowid")
        while rows := cursor.fetchmany(_BATCH):
            yield rows
    except sqlite3.Error as error:
        raise BenchError(f"cannot read {path}: {error}") from error


def _add(store: Store, table: str, kinds: dict[str, str], batches: Iterator[list[Any]], path: Path) -> int:
    """Add the rows (a rowid, then the columns of `kinds`) that `table` lacks; returns the number of rows read."""
    for name in kinds.keys() - columns_of(store, table).keys():
        store.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kinds[name]}")
    derived = [name for name in (*_NUMBERS, "source") if name not in kinds] if table in NAMES else []
    names = [*kinds, *derived]
    store.execute(f"CREATE TEMP TABLE {_NEW} AS SELECT {_listed(names)} FROM {table} WHERE 0")
    marks = ", ".join("?" * len(names))
    count = 0
    for rows in batches:
        whole = [
            _whole(dict(zip(kinds, row[1:], strict=True)), derived, f"{path}: {table} row {row[0]}") for row in rows
        ]
        store.execute_many(f"INSERT INTO temp.{_NEW} VALUES ({marks})", whole)
        count += len(rows)
    # Only the columns that the rows have are compared.
    same = " AND ".join(f"old.{quoted(name)} IS new.{quoted(name)}" for name in names)
    store.execute(
        f"INSERT INTO {table} ({_listed(names)}) SELECT {_listed(names)} FROM ("
        f"SELECT *, rowid AS place, row_number() OVER (PARTITION BY {_listed(names)}) AS copy FROM temp.{_NEW}) new "
        f"WHERE copy > (SELECT count(*) FROM {table} old WHERE {same}) ORDER BY place"
    )
    store.execute(f"DROP TABLE temp.{_NEW}")
    return count


def _whole(row: dict[str, object], derived: list[str], where: str) -> list[object]:
    """The values of a row, its times in UTC, followed by the `derived` ones. Raises BenchError, which names `where`."""
    for name in ("timestamp", "sample_timestamp"):
        if name == "timestamp" or row.get(name) is not None:
            try:
                row[name] = stamp(parse_rfc3339(str(row[name])))
            except ValueError as error:
                raise BenchError(f"{where}: {name}: {error}") from None
    values = list(row.values())
    for name in derived:
        if name == "source":
            values.append(_ORIGINALS_SOURCE)
            continue
        column, number = _NUMBERS[name]
        text = row.get(column)
        try:
            values.append(None if text is None else number(str(text)))
        except ValueError as error:
            raise BenchError(f"{where}: {column}: {error}") from None
    return values


def _required(table: str) -> set[str]:
    """The columns that may not be NULL."""
    return {name for name, (_, needed) in schema.columns_of(table).items() if needed}


def _needed(table: str) -> set[str]:
    """The columns that a table of metrics must have."""
    return _required(table) | ({"cpu_usage", "memory_usage"} if table in NAMES else set())


def _count(store: Store, table: str) -> int:
    return int(store.execute(f"SELECT count(*) FROM {table}")[0][0])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))
