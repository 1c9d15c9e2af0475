"""The benchmark database: created, opened, upgraded or migrated from the original's. Only this module calls SQLite.

Rules:
- an upgrade or migration is one transaction; an error leaves the database as it was
- SQLite's errors become BenchErrors that name the file
- a migration copies every row and column, also unknown ones, and keeps unknown tables
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_TOLD_AFTER_S = 1.0
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


Tell = Callable[[str], object]


class RowError(BenchError):
    """A row that the database refuses."""


class Store:
    """An open database, and a context that closes it. Closing rolls an unfinished transaction back."""

    def __init__(self, path: Path, connection: sqlite3.Connection, tell: Tell) -> None:
        self.path = path
        self._connection = connection
        self._tell = tell
        self._has_waited = False

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
        self.execute_or_wait("BEGIN IMMEDIATE")
        try:
            yield
            self.execute_or_wait("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite rolls back by itself when, for example, the disk is full
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Several transactions that exclude no readers; at the end the file alone is the database."""
        with self.transaction():  # it fails if the database cannot be written
            self.execute(f"PRAGMA user_version = {VERSION}")
        self.execute("PRAGMA busy_timeout = 1000")
        try:
            ((mode,),) = self.execute("PRAGMA journal_mode = WAL")
            why = f"its journal is {mode}"
        except BenchError as error:
            mode, why = "", str(error)
        if mode != "wal":
            self._tell(f"{self.path} cannot be read while it is written: no write-ahead log ({why})")
        self.execute(f"PRAGMA busy_timeout = {_BUSY_S * 1000:.0f}")
        yield
        self.execute("PRAGMA busy_timeout = 1000")
        ((busy, *_),) = self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            self._tell(
                f"another program reads {self.path}: until it ends, {self.path.name}-wal is a part of the database"
            )

    def execute_or_wait(self, sql: str) -> list[Any]:
        """Run a statement that may have to wait for another program; the first wait is reported."""
        timer = threading.Timer(_TOLD_AFTER_S, self._report_wait)
        timer.start()
        try:
            return self.execute(sql)
        finally:
            timer.cancel()

    def _report_wait(self) -> None:
        if not self._has_waited:
            self._has_waited = True
            self._tell(f"waiting for another program, which has locked {self.path}")

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

    @property
    def changes(self) -> int:
        """How many rows were inserted, updated or deleted since it was opened."""
        return self._connection.total_changes

    def insert_many(
        self, table: str, columns: Iterable[str], rows: Iterable[Sequence[object]], verb: str = "INSERT"
    ) -> None:
        """Insert rows with these columns, one after the other. Raises RowError for the first that is refused."""
        names = [quoted(name) for name in columns]
        sql = f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        with _translated(self.path):
            try:
                self._connection.executemany(sql, rows)
            except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeError) as error:
                twice = "UNIQUE" in str(error)
                raise RowError(f"it is in the database already ({error})" if twice else str(error)) from None

    def insert(self, table: str, fields: Mapping[str, object]) -> int:
        """Insert one row; returns its id."""
        self.insert_many(table, fields, [tuple(fields.values())])
        return int(self.execute("SELECT last_insert_rowid()")[0][0])

    def update(self, table: str, row_id: int, fields: Mapping[str, object]) -> None:
        """Set `fields` of the row `row_id`."""
        names = ", ".join(f"{name} = ?" for name in fields)
        self.execute(f"UPDATE {table} SET {names} WHERE id = ?", (*fields.values(), row_id))


def open_store(path: Path, tell: Tell = lambda _: None) -> Store:
    """Open the database at `path`: created if absent, migrated if it is the original's. Raises BenchError.

    What a user who waits should know is given to `tell`.
    """
    if not path.parent.is_dir():
        raise BenchError(f"cannot open {path}: the folder {path.parent} does not exist")
    store = _connected(path, "", tell)
    try:
        version = _version(store)  # the first to wait for other programs
        store.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if version != VERSION:
            with store.transaction():
                _upgrade(store)
    except BaseException:
        store.close()
        raise
    return store


def open_readonly(path: Path) -> Store:
    """Open any database at its present state, which later writes of other programs do not change. Raises BenchError."""
    store = _connected(path, "mode=ro", lambda _: None)
    try:
        store.execute("BEGIN")
        tables_of(store)  # this read fixes the state
    except BaseException:
        store.close()
        raise
    return store


def _connected(path: Path, mode: str, tell: Tell) -> Store:
    # In a folder that cannot be written, SQLite cannot open a database that once had a write-ahead log.
    if not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        mode = "immutable=1"
    with _translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", timeout=_BUSY_S, isolation_level=None, uri=True
        )
    connection.row_factory = sqlite3.Row
    connection.create_function("nanoseconds", 1, _nanoseconds, deterministic=True)
    return Store(path, connection, tell)


def _version(store: Store) -> int:
    return int(store.execute_or_wait("PRAGMA user_version")[0][0])


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
        _bring_back(store, table, once=version > 0)
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


def _bring_back(store: Store, table: str, once: bool) -> None:
    """Copy the rows that were set aside; `once`, if earlier versions may have stored some twice."""
    target = _MOVED.get(table, table)
    known, theirs = columns_of(store, target), columns_of(store, _aside(table))
    for name, kind in theirs.items():
        if name not in known:
            store.execute(f"ALTER TABLE {target} ADD COLUMN {quoted(name)} {kind}")
    names = values = ", ".join(map(quoted, theirs))
    if table == "requests" and "status" in theirs and "ok" not in theirs:
        text = "coalesce(error_message, '')" if "error_message" in theirs else "''"
        names, values = f"{names}, ok", f"{values}, coalesce(status BETWEEN 200 AND 299 AND {text} = '', 0)"
    verb = "INSERT OR IGNORE" if once else "INSERT"
    store.execute(f"{verb} INTO {target} ({names}) SELECT {values} FROM {_aside(table)} ORDER BY rowid")
    for numbered, column in (("events", "received_ns"), ("receiver_reports", "at_ns")):
        if target == numbered:
            store.execute(f"UPDATE {target} SET {column} = nanoseconds(timestamp) WHERE {column} IS NULL")
    store.execute(f"DROP TABLE {_aside(table)}")


def _nanoseconds(text: object) -> int | None:
    try:
        return parse_rfc3339(str(text))
    except (ValueError, OverflowError):
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
        elif "readonly" in text:
            text = f"it, or its folder, is read-only ({text})"
        elif "locked" in text:
            text = f"another program has kept it locked for {_BUSY_S:.0f} s ({text})"
        raise BenchError(f"cannot use the database {path}: {text}") from error
