"""The database: made, opened again, migrated from the original's, and refused with a sentence."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from queue import Queue

import pytest

from tests.results.logs import rows_of
from workload_generator.base.errors import BenchError
from workload_generator.results.database import VERSION, open_readonly, open_store

EXPERIMENT_COLUMNS = [
    "id", "timestamp", "language", "scenario", "concurrency", "rps", "requests_per_second", "duration",
    "max_idle_conns", "max_idle_conns_per_host", "idle_conn_timeout", "timeout", "triggers", "workers",
]  # fmt: skip
REQUEST_COLUMNS = [
    "id", "experiment_id", "timestamp", "status", "ttfb", "total_time", "is_cold", "dns_time", "connect_time",
    "tls_time", "error_message", "event_id", "target",
]  # fmt: skip

ORIGINAL = """
CREATE TABLE experiments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp DATETIME, language TEXT, scenario TEXT, concurrency INTEGER,
    rps INTEGER, requests_per_second INTEGER, duration TEXT, max_idle_conns INTEGER, max_idle_conns_per_host INTEGER,
    idle_conn_timeout TEXT, timeout TEXT, triggers INTEGER, workers INTEGER
);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, experiment_id INTEGER NOT NULL, timestamp DATETIME NOT NULL,
    status INTEGER NOT NULL, ttfb INTEGER NOT NULL, total_time INTEGER, is_cold BOOLEAN, dns_time INTEGER,
    connect_time INTEGER, tls_time INTEGER, error_message TEXT, event_id TEXT, target TEXT,
    FOREIGN KEY (experiment_id) REFERENCES experiments (id)
);
CREATE TABLE node_metrics (id INTEGER PRIMARY KEY, node_name TEXT, cpu_usage TEXT, timestamp TEXT);
CREATE INDEX requests_by_experiment ON requests (experiment_id);
CREATE VIEW slow AS SELECT r.id, e.language FROM requests r JOIN experiments e ON e.id = r.experiment_id WHERE ttfb > 5;
INSERT INTO experiments VALUES
    (3, '2025-02-09 10:11:12+00:00', 'go', 'serving-scenario-1', 1, 2000, 2000, '10m0s', 100, 9, '1m30s', '30s', 0, 0),
    (7, '2025-02-10 10:11:12+00:00', 'ts', 'serving-scenario-2', 1, 0, 0, '20m0s', 100, 100, '1m30s', '30s', 0, 0);
INSERT INTO requests VALUES
    (11, 3, '2025-02-09 10:11:13.5+00:00', 200, 1, 2, 0, 0, 0, 0, '', NULL, 'http://a'),
    (12, 3, '2025-02-09 10:11:13.6+00:00', 503, 9, 9, 0, 0, 0, 0, NULL, NULL, 'http://a'),
    (19, 7, '2025-02-10 10:11:13.6+00:00', 200, 1300, 1301, 1, 2, 1, 0, '', 'ev', 'http://b');
INSERT INTO node_metrics VALUES (1, 'node-1', '183632734n', '2025-02-02T14:21:03.603Z');
"""


def make(path: Path, script: str) -> Path:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()
    return path


def columns_of(path: Path, table: str) -> list[str]:
    return [row["name"] for row in rows_of(path, f"PRAGMA table_info({table})")]


def test_a_new_database_opens_with_the_originals_columns(tmp_path: Path) -> None:
    db = tmp_path / "benchmark.db"
    open_store(db).__exit__(None, None, None)
    assert columns_of(db, "experiments")[: len(EXPERIMENT_COLUMNS)] == EXPERIMENT_COLUMNS
    ours = [
        "seq",
        "phase",
        "lag",
        "error_kind",
        "reused",
        "retries",
        "bytes",
        "stamp",
        "instance",
        "shard",
        "ok",
        "segments",
    ]
    assert columns_of(db, "requests") == columns_of(db, "results") == [*REQUEST_COLUMNS, *ours]
    assert rows_of(db, "PRAGMA user_version")[0]["user_version"] == VERSION


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    db = tmp_path / "benchmark.db"
    open_store(db).__exit__(None, None, None)
    before = db.read_bytes()
    open_store(db).__exit__(None, None, None)
    assert db.read_bytes() == before


def test_the_originals_database_is_migrated_and_loses_nothing(tmp_path: Path) -> None:
    db = make(tmp_path / "benchmark.db", ORIGINAL)
    tables = ("experiments", "requests", "node_metrics", "slow")
    connection = sqlite3.connect(db)
    before = {table: connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in tables}
    connection.close()
    for table in tables:
        after = [tuple(row.values()) for row in rows_of(db, f"SELECT * FROM {table} ORDER BY id")]
        assert [row[: len(old)] for row, old in zip(after, before[table], strict=True)] == before[table]
    assert [row["ok"] for row in rows_of(db, "SELECT ok FROM requests ORDER BY id")] == [1, 0, 1]
    assert {row["phase"] for row in rows_of(db, "SELECT phase FROM results")} == {"measure"}
    assert rows_of(db, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    assert not rows_of(db, "SELECT name FROM sqlite_schema WHERE name LIKE '%migrated%'")
    assert rows_of(db, "SELECT p50 FROM ttfb_quantiles WHERE experiment_id = 7") == [{"p50": 1300.0}]


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE experiments (id INTEGER PRIMARY KEY, language TEXT); INSERT INTO experiments VALUES (1, 'go');",
        "CREATE TABLE requests (id INTEGER PRIMARY KEY, experiment_id INTEGER, ttfb INTEGER);"
        "INSERT INTO requests VALUES (1, 1, 5);",
        "CREATE TABLE node_metrics (id INTEGER PRIMARY KEY);",
        "CREATE TABLE Requests (ID INTEGER PRIMARY KEY, Experiment_ID INTEGER, status INTEGER);",
    ],
)
def test_a_part_of_the_originals_database_is_migrated(tmp_path: Path, script: str) -> None:
    db = make(tmp_path / "benchmark.db", script)
    assert columns_of(db, "requests")[: len(REQUEST_COLUMNS)] == REQUEST_COLUMNS
    assert columns_of(db, "experiments")[: len(EXPERIMENT_COLUMNS)] == EXPERIMENT_COLUMNS


def test_columns_that_users_added_stay(tmp_path: Path) -> None:
    script = (
        ORIGINAL + 'ALTER TABLE requests ADD COLUMN "my ""note" TEXT; UPDATE requests SET "my ""note" = id || \'!\';'
    )
    db = make(tmp_path / "benchmark.db", script)
    assert rows_of(db, 'SELECT "my ""note" FROM requests WHERE id = 12') == [{'my "note': "12!"}]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("CREATE TABLE bookmarks (id INTEGER); CREATE TABLE a (id INTEGER);", "it has the tables a, bookmarks"),
        ("CREATE TABLE requests (name TEXT);", "its table requests has no column experiment_id, id"),
        ("PRAGMA user_version = 99;", "schema version 99"),
        (ORIGINAL + "CREATE TABLE results (id INTEGER);", "results already exists"),
        (
            "CREATE TABLE requests (id TEXT, experiment_id INTEGER); INSERT INTO requests VALUES ('a', 1);",
            "datatype mismatch",
        ),
    ],
)
def test_what_cannot_be_migrated_is_refused_and_stays(tmp_path: Path, script: str, complaint: str) -> None:
    db = make(tmp_path / "benchmark.db", script)
    before = db.read_bytes()
    with pytest.raises(BenchError, match=complaint):
        open_store(db)
    assert db.read_bytes() == before


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    db = tmp_path / "benchmark.db"
    db.write_text("hello, this is a text and no database at all\n" * 100)
    with pytest.raises(BenchError, match="not a database"):
        open_store(db)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="it is a folder"):
        open_store(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="the folder .*nowhere does not exist"):
        open_store(tmp_path / "nowhere" / "benchmark.db")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="kn-bench-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_database_that_may_not_be_written(public_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = make(public_folder / "benchmark.db", ORIGINAL)
    db.chmod(0o444)
    with as_nobody(monkeypatch), pytest.raises(BenchError, match="it, or its folder, is read-only"):
        open_store(db)


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "benchmark.db") as store:
        with pytest.raises(KeyboardInterrupt), store.transaction():
            store.insert("experiments", {"language": "go"})
            raise KeyboardInterrupt
        with store.transaction():
            store.insert("experiments", {"language": "ts"})
        assert [row["language"] for row in store.execute("SELECT language FROM experiments")] == ["ts"]


def test_a_database_in_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workload_generator.results.database._BUSY_S", 0.05)
    db = tmp_path / "benchmark.db"
    with open_store(db) as first, first.transaction(), open_store(db) as second:
        with pytest.raises(BenchError, match="another program"), second.transaction():
            pass


def test_waiting_is_reported_once_and_ends_with_the_other_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workload_generator.results.database._TOLD_AFTER_S", 0.01)
    db, said = tmp_path / "benchmark.db", Queue[str]()
    with open_store(db) as store, closing(sqlite3.connect(db, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def let_go(text: str) -> None:
            said.put(text)
            other.execute("ROLLBACK")

        with open_store(db, let_go) as second, second.transaction():
            second.insert("experiments", {"language": "go"})
        assert said.get_nowait() == f"waiting for another program, which has locked {db}" and said.empty()
        assert [row["language"] for row in store.execute("SELECT language FROM experiments")] == ["go"]


def test_a_reader_does_not_block_a_writer_and_the_file_alone_is_the_database(tmp_path: Path) -> None:
    db, said = tmp_path / "benchmark.db", list[str]()
    with open_store(db, said.append) as store, store.writing(), store.transaction():
        store.insert("experiments", {"language": "go"})
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.db"]
    with closing(sqlite3.connect(db, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
        with open_store(db, said.append) as store, store.writing(), store.transaction():
            store.insert("experiments", {"language": "ts"})
        assert reader.execute("SELECT count(*) FROM experiments").fetchone() == (1,)
        assert said == [f"another program reads {db}: until it ends, benchmark.db-wal is a part of the database"]
    copy = shutil.copy(db, tmp_path / "copy.db")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["benchmark.db", "copy.db"]
    assert [row["language"] for row in rows_of(copy, "SELECT language FROM experiments")] == ["go", "ts"]


def test_a_file_system_without_a_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's `unix-dotfile` has no shared memory, as network file systems."""
    connect, said = sqlite3.connect, list[str]()
    monkeypatch.setattr(sqlite3, "connect", lambda name, **options: connect(f"{name}&vfs=unix-dotfile", **options))
    db = tmp_path / "benchmark.db"
    with open_store(db, said.append) as store, store.writing():
        for language in ("go", "ts"):
            with store.transaction():
                store.insert("experiments", {"language": language})
    assert said == [f"{db} cannot be read while it is written: no write-ahead log (its journal is delete)"]
    monkeypatch.undo()
    assert rows_of(db, "SELECT count(*) AS n FROM experiments") == [{"n": 2}]


@contextmanager
def as_nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a user without rights: permissions do not hold for root."""
    access, is_root = os.access, os.geteuid() == 0
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode, effective_ids=is_root))
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_database_in_a_folder_that_may_not_be_written_is_read(
    public_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = public_folder / "benchmark.db"
    with open_store(db) as store, store.writing(), store.transaction():
        store.insert("experiments", {"language": "go"})
    db.chmod(0o444)
    public_folder.chmod(0o555)
    said: list[str] = []
    with as_nobody(monkeypatch):
        with open_store(db) as store:
            assert [row["language"] for row in store.execute("SELECT language FROM experiments")] == ["go"]
        with open_readonly(db) as store:
            assert len(store.execute("SELECT * FROM experiments")) == 1
        with open_store(db, said.append) as store:
            with pytest.raises(BenchError, match="it, or its folder, is read-only"), store.writing():
                pass
    assert not said and [path.name for path in public_folder.iterdir()] == ["benchmark.db"]


def test_results_that_an_earlier_version_stored_twice_are_stored_once(tmp_path: Path) -> None:
    db = tmp_path / "benchmark.db"
    with open_store(db) as store, store.transaction():
        store.execute("DROP INDEX results_once")
        store.insert("experiments", {"id": 1})
        for seq in (4, 5, 5):
            store.insert("results", {"experiment_id": 1, "shard": 0, "seq": seq})
        store.execute("DROP VIEW receivers")
        store.execute("CREATE TABLE receivers AS SELECT * FROM receiver_reports")
        store.execute("ALTER TABLE receivers DROP COLUMN at_ns")
        store.execute("INSERT INTO receivers VALUES ('i-0', '2025-02-10T10:11:12Z', 5, 0, 5, 7, 9)")
        store.execute("DROP TABLE receiver_reports")
        store.execute("PRAGMA user_version = 5")
    assert [row["seq"] for row in rows_of(db, "SELECT seq FROM results ORDER BY id")] == [4, 5]
    assert rows_of(db, "SELECT instance, offset_ns, at_ns FROM receiver_reports") == [
        {"instance": "i-0", "offset_ns": 7, "at_ns": 1_739_182_272 * 10**9}
    ]
    assert rows_of(db, "SELECT instance, received FROM receivers") == [{"instance": "i-0", "received": 5}]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_database_of_an_earlier_version_becomes_what_a_new_one_is(tmp_path: Path, version: int) -> None:
    db, new = tmp_path / "benchmark.db", tmp_path / "new.db"
    open_store(new).close()
    scripts = ["schema.sql"] + ["events.sql"] * (version >= 3) + ["cold_starts.sql"] * (version >= 4)
    connection = sqlite3.connect(db)
    for script in scripts:
        sql = resources.files("workload_generator.results").joinpath(script).read_text()
        later = ["clock_offset_ns", "clock_half_rtt_ns"] * (version < 3) + ["segments"] * (version < 2)
        later += ["clock_offset", "clock_error"]  # of a cold start
        for column in later:
            sql = re.sub(rf"\n *{column} +(INTEGER|REAL)[^\n]*", "", sql)
        sql = re.sub(r",( *(?:--[^\n]*)?\n\))", r"\1", sql)  # they were the last ones of their tables
        connection.executescript(sql)
    connection.execute("INSERT INTO experiments (id, run_id) VALUES (7, 'kept')")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()
    open_store(db).close()
    assert rows_of(db, "PRAGMA user_version")[0]["user_version"] == VERSION
    assert rows_of(db, "SELECT id, run_id FROM experiments") == [{"id": 7, "run_id": "kept"}]
    names = "SELECT type, name FROM sqlite_schema ORDER BY type, name"
    assert rows_of(db, names) == rows_of(new, names)
    for table in ("results", "shards", "cold_starts", "cold_bursts", "cold_burst_instances"):
        columns = f"SELECT name, type FROM pragma_table_info('{table}') ORDER BY name"
        assert rows_of(db, columns) == rows_of(new, columns)
    assert rows_of(db, "SELECT * FROM cold_start_phases") == rows_of(db, "SELECT * FROM cold_start_proofs") == []
