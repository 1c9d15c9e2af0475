"""The benchmark database: created, opened, upgraded or migrated from the original's. Only this module calls SQLite.

Rules:
- an upgrade or migration is one transaction; an error leaves the database as it was
- SQLite's errors become BenchErrors that name the file
- a migration copies every row and column, also unknown ones, and keeps unknown tables
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any

from workload_generator.base.clock import parse_rfc3339
from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import statements

VERSION = 6
"""The schema's version, in SQLite's `user_version`; 0 in databases of the original."""

_SCRIPTS = ("schema.sql", "events.sql", "cold_starts.sql", "bursts.sql")
_BUSY_S = 30.0
_CACHE_KIB = 64 * 1024

_ORIGINAL = {
    "experiments": {"id"},
    "requests": {"id", "experiment_id"},
    "events": {"event_id", "timestamp"},
}
"""Tables of the original that are migrated, and the columns that they must have."""
_ORIGINAL_OTHERS = {"node_metrics", "pod_metrics"}
_MOVED = {"requests": "results", "receivers": "receiver_reports"}
"""Tables of earlier versions that are views now, and where their rows are."""


class Store:
    """An open database, and a context that closes it. Closing rolls an unfinished transaction back."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    def __enter__(self) -> Store:
        """The store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction that excludes other writers, rolled back on any exception."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite rolls back by itself when, for example, the disk is full
                self._connection.execute("ROLLBACK")
            raise

    def execute(self, sql: str, values: Sequence[object] | Mapping[str, object] = ()) -> list[Any]:
        """Run a statement; returns all its rows, with columns by name or index."""
        with _translated(self.path):
            return self._connection.execute(sql, values).fetchall()

    def stream(self, sql: str, values: Sequence[object] | Mapping[str, object], batch: int) -> Iterator[list[Any]]:
        """The rows of a statement as tuples, `batch` at a time, for results that are too large for memory."""
        with _translated(self.path):
            cursor = self._connection.cursor()
            cursor.row_factory = None
            cursor.execute(sql, values)
            while rows := cursor.fetchmany(batch):
                yield rows

    def insert_many(
        self, table: str, columns: Iterable[str], rows: Iterable[Sequence[object]], verb: str = "INSERT"
    ) -> int:
        """Insert rows with these columns; returns how many there are now that were not there before."""
        names = [quoted(name) for name in columns]
        with _translated(self.path):
            sql = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            return self._connection.executemany(sql, rows).rowcount

    def insert(self, table: str, fields: Mapping[str, object]) -> int:
        """Insert one row; returns its id."""
        self.insert_many(table, fields, [tuple(fields.values())])
        return int(self.execute("SELECT last_insert_rowid()")[0][0])

    def update(self, table: str, row_id: int, fields: Mapping[str, object]) -> None:
        """Set `fields` of the row `row_id`."""
        names = ", ".join(f"{name} = ?" for name in fields)
        self.execute(f"UPDATE {table} SET {names} WHERE id = ?", (*fields.values(), row_id))


def open_store(path: Path) -> Store:
    """Open the database at `path`: created if absent, migrated if it is the original's. Raises BenchError."""
    if not path.parent.is_dir():
        raise BenchError(f"cannot open {path}: the folder {path.parent} does not exist")
    store = _connected(path, str(path))
    try:
        store.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if _version(store) != VERSION:
            with store.transaction():
                _upgrade(store)
    except BaseException:
        store.close()
        raise
    return store


def open_readonly(path: Path) -> Store:
    """Open any database at its present state, which later writes of other programs do not change. Raises BenchError."""
    store = _connected(path, f"{path.resolve().as_uri()}?mode=ro")
    try:
        store.execute("BEGIN")
        tables_of(store)  # this read fixes the state
    except BaseException:
        store.close()
        raise
    return store


def _connected(path: Path, database: str) -> Store:
    with _translated(path):
        connection = sqlite3.connect(database, timeout=_BUSY_S, isolation_level=None, uri=database != str(path))
    connection.row_factory = sqlite3.Row
    connection.create_function("nanoseconds", 1, _nanoseconds, deterministic=True)
    return Store(path, connection)


def _version(store: Store) -> int:
    return int(store.execute("PRAGMA user_version")[0][0])


def _upgrade(store: Store) -> None:
    version = _version(store)
    if version == VERSION:  # another process upgraded it meanwhile
        return
    if not 0 <= version < VERSION:
        raise BenchError(
            f"{store.path} has schema version {version}, and this program knows versions up to {VERSION}: "
            "a newer version or another program wrote it"
        )
    tables = tables_of(store)
    foreign = {name for name in tables if not name.startswith("sqlite_")}
    if version == 0 and foreign and not foreign & (_ORIGINAL.keys() | _ORIGINAL_OTHERS):
        raise BenchError(f"{store.path} is not a benchmark database: it has the tables {', '.join(sorted(foreign))}")
    folder = resources.files(__package__)
    schema = [each for script in _SCRIPTS for each in statements(folder.joinpath(script).read_text("utf-8"))]
    made = dict.fromkeys(name for each in schema for name in re.findall(r"^CREATE TABLE (\w+)", each, re.MULTILINE))
    former = [name for name in (_ORIGINAL if version == 0 else (*_MOVED, *made)) if name in tables]
    for table in former:
        _set_aside(store, table)
    for statement in schema:
        for view in re.findall(r"^CREATE VIEW (\w+)", statement, re.MULTILINE) if version else ():
            store.execute(f"DROP VIEW IF EXISTS {view}")
        store.execute(statement)
    for table in former:
        _bring_back(store, table)
    store.execute(f"PRAGMA user_version = {VERSION}")


def _set_aside(store: Store, table: str) -> None:
    missing = _ORIGINAL.get(table, set()) - columns_of(store, table).keys()
    if missing:
        raise BenchError(
            f"{store.path} is not a benchmark database: its table {table} has no column {', '.join(sorted(missing))}"
        )
    rename_table(store, table, _aside(table))
    for row in store.execute("SELECT name FROM sqlite_schema WHERE tbl_name = ? AND type = 'index'", (_aside(table),)):
        if not row["name"].startswith("sqlite_autoindex_"):
            store.execute(f"DROP INDEX {quoted(row['name'])}")


def _bring_back(store: Store, table: str) -> None:
    target = _MOVED.get(table, table)
    known, theirs = columns_of(store, target), columns_of(store, _aside(table))
    for name, kind in theirs.items():
        if name not in known:
            store.execute(f"ALTER TABLE {target} ADD COLUMN {quoted(name)} {kind}")
    names = values = ", ".join(map(quoted, theirs))
    if table == "requests" and "status" in theirs and "ok" not in theirs:
        text = "coalesce(error_message, '')" if "error_message" in theirs else "''"
        names, values = f"{names}, ok", f"{values}, coalesce(status BETWEEN 200 AND 299 AND {text} = '', 0)"
    store.execute(f"INSERT INTO {target} ({names}) SELECT {values} FROM {_aside(table)} ORDER BY rowid")
    if table == "events":
        store.execute("UPDATE events SET received_ns = nanoseconds(timestamp) WHERE received_ns IS NULL")
    store.execute(f"DROP TABLE {_aside(table)}")


def _nanoseconds(text: object) -> int | None:
    try:
        return parse_rfc3339(str(text))
    except ValueError:
        return None


def _aside(table: str) -> str:
    return f"original_{table}_being_migrated"


def rename_table(store: Store, table: str, name: str) -> None:
    """Rename a table; views keep naming its old name."""
    store.execute("PRAGMA legacy_alter_table = ON")
    store.execute(f"ALTER TABLE {table} RENAME TO {name}")
    store.execute("PRAGMA legacy_alter_table = OFF")


def tables_of(store: Store) -> set[str]:
    """The names of all tables, in lower case since SQLite ignores case."""
    return {name for (name,) in store.execute("SELECT lower(name) FROM sqlite_schema WHERE type = 'table'")}


def columns_of(store: Store, table: str) -> dict[str, str]:
    """The columns of a table, in lower case, with their declared types."""
    return {row["name"].lower(): row["type"] for row in store.execute(f"PRAGMA table_info({table})")}


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if "unable to open" in text and path.is_dir():
            text = "it is a folder"
        elif "locked" in text:
            text = f"another program has kept it locked for {_BUSY_S:.0f} s ({text})"
        raise BenchError(f"cannot use the database {path}: {text}") from error
