"""Recorded usage and states of nodes and pods → the benchmark database, from a database of ours or the original's.

Rules:
- one transaction: an error leaves the benchmark database as it was; the database of metrics is only read
- rows are compared by all their columns and counted: merging again adds nothing, merging a database that has grown adds
  its new rows, and two equal rows of one database stay two
- both timestamp forms of the original become UTC with milliseconds, also in tables that were copied by hand
- unknown columns are kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from workload_generator.base import usage_tables as schema
from workload_generator.base.clock import parse_rfc3339
from workload_generator.base.errors import BenchError
from workload_generator.base.quantities import millicores, whole_bytes
from workload_generator.results.database import (
    Store,
    columns_of,
    open_readonly,
    open_store,
    quoted,
    rename_table,
    tables_of,
)

NAMES = {"node_metrics": "node_name", "pod_metrics": "pod_name"}
"""The tables of usage, with the column of the node's or pod's name."""

_TIMES = ("timestamp", "sample_timestamp")
_DERIVED: dict[str, tuple[str, Callable[[str], object]]] = {
    "cpu_millicores": ("cpu_usage", millicores),
    "memory_bytes": ("memory_usage", whole_bytes),
    "source": ("timestamp", lambda _: schema.METRICS),  # the original's only one
}
"""What the original's tables lack: the column that it is derived from, and how."""

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
    with open_readonly(metrics) as source:
        tables = _tables(source)
        with open_store(db) as store, store.writing(), store.transaction():
            return [_merge(store, source, table, columns) for table, columns in tables.items()]


def _tables(source: Store) -> dict[str, dict[str, str]]:
    """The tables of metrics in `source`, with their columns and types. Raises BenchError when there are none."""
    present = tables_of(source)
    no_metrics = f"{source.path} is not a database of metrics"
    if "experiments" in present:
        raise BenchError(f"{no_metrics} but a benchmark database: are --db and --metrics swapped?")
    tables = {table: columns_of(source, table) for table in schema.TABLES.values() if table in present}
    for table, columns in tables.items():
        _check_columns(no_metrics, table, _needed(table) - columns.keys())
    if not tables.keys() & NAMES.keys():
        has = f"the tables {', '.join(sorted(present))}" if present else "no tables"
        raise BenchError(f"{no_metrics}, with node_metrics or pod_metrics: it has {has}")
    return tables


def _check_columns(what: str, table: str, missing: set[str]) -> None:
    if missing:
        raise BenchError(f"{what}: its table {table} has no column {', '.join(sorted(missing))}")


def _merge(store: Store, source: Store, table: str, columns: dict[str, str]) -> Merged:
    _prepare(store, table)
    before = _count(store, table)
    rows = _add(store, table, columns, source, table)
    return Merged(table, rows, _count(store, table) - before)


def _prepare(store: Store, table: str) -> None:
    """Create `table` with all our columns; rows that another program stored there are converted as all rows are."""
    known = columns_of(store, table)
    if known and schema.columns_of(table).keys() <= known.keys():
        return
    if known:
        rename_table(store, table, _ASIDE)
    for statement in schema.schema_of(table):
        store.execute(statement)
    if known:
        _check_columns(str(store.path), table, _required(table) - known.keys())
        _add(store, table, known, store, _ASIDE)
        store.execute(f"DROP TABLE {_ASIDE}")


def _add(store: Store, table: str, columns: dict[str, str], source: Store, source_table: str) -> int:
    """Add the rows of the source's table that `table` lacks; returns the number of rows read."""
    kinds = {name: kind for name, kind in columns.items() if name != "id"}
    for name in kinds.keys() - columns_of(store, table).keys():
        store.execute(f"ALTER TABLE {table} ADD COLUMN {quoted(name)} {kinds[name]}")
    derived = [name for name in _DERIVED if name not in kinds] if table in NAMES else []
    names = [*kinds, *derived]
    store.execute(f"CREATE TEMP TABLE {_NEW} AS SELECT {_listed(names)} FROM {table} WHERE 0")
    count = 0
    for rows in source.stream(f"SELECT rowid, {_listed(kinds)} FROM {source_table} ORDER BY rowid", (), _BATCH):
        places = (f"{source.path}: {table} row {row[0]}" for row in rows)
        values = (dict(zip(kinds, row[1:], strict=True)) for row in rows)
        store.insert_many(f"temp.{_NEW}", names, map(_whole, values, repeat(derived), places))
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


def _whole(row: dict[str, Any], derived: list[str], where: str) -> tuple[object, ...]:
    """The values of a row, its times in UTC, followed by the `derived` ones. Raises BenchError, which names `where`."""
    times = {name: (name, _utc) for name in _TIMES if name in row}
    for name, (column, convert) in (times | {name: _DERIVED[name] for name in derived}).items():
        try:
            row[name] = None if row.get(column) is None and name != "timestamp" else convert(str(row[column]))
        except ValueError as error:
            raise BenchError(f"{where}: {column}: {error}") from None
    return tuple(row.values())


def _utc(text: str) -> str:
    return schema.stamp(parse_rfc3339(text))


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
