"""Metrics into the benchmark database: the original's and ours, once, in UTC, all or nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.results.logs import rows_of
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, rfc3339
from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import schema_of
from workload_generator.commands import kn_bench
from workload_generator.results.database import open_store
from workload_generator.results.ingest import combine as module
from workload_generator.results.ingest.combine import Merged, combine
from workload_generator.results.report.answers import ask

NODES = (
    "CREATE TABLE node_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, node_name TEXT, cpu_usage TEXT, "
    "memory_usage TEXT, cpu_percentage REAL, memory_percentage REAL, timestamp DATETIME);"
)
PODS = (
    "CREATE TABLE pod_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, pod_name TEXT, node_name TEXT, "
    "container_name TEXT, cpu_usage TEXT, memory_usage TEXT, cpu_percentage REAL, memory_percentage REAL, "
    "timestamp DATETIME);"
)
NODE_ROWS = """INSERT INTO node_metrics VALUES
    (1, 'node-1', '183632734n', '2663656Ki', 0.046, 0.17, '2025-02-02T14:21:03.603Z'),
    (2, 'node-2', '250m', '1Gi', 0.0625, 0.068, '2025-02-02T14:21:03.603Z');"""
POD = "'empty-go-http-0-00001-deployment-7d9f6c5b8-x4k2p', 'node-1'"
POD_ROWS = f"""INSERT INTO pod_metrics VALUES
    (1, {POD}, 'user-container', '1000000n', '20480Ki', 0.00025, 0.001, '2025-02-02T15:21:03+01:00'),
    (2, {POD}, 'queue-proxy', '2000000n', '10240Ki', 0.0005, 0.0005, '2025-02-02T15:21:03+01:00'),
    (3, 'rabbitmq-0', 'node-2', 'rabbitmq', '5m', '1Mi', 0.1, 0.1, '2025-02-02T15:21:03+01:00'),
    (4, 'rabbitmq-0', 'node-2', 'rabbitmq', '5m', '1Mi', 0.1, 0.1, '2025-02-02T15:21:03+01:00');"""
ORIGINAL = NODES + PODS + NODE_ROWS + POD_ROWS


def run_script(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def contents(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in sorted(tables)}


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.db"
    open_store(path).close()
    return path


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return run_script(tmp_path / "metrics.db", ORIGINAL)


def test_the_originals_two_timestamp_forms_are_utc(db: Path, metrics: Path) -> None:
    before = metrics.read_bytes()
    assert combine(db, metrics) == [Merged("node_metrics", 2, 2), Merged("pod_metrics", 4, 4)]
    assert metrics.read_bytes() == before
    nodes = rows_of(db, "SELECT * FROM node_metrics ORDER BY id")
    assert [row["timestamp"] for row in nodes] == ["2025-02-02T14:21:03.603Z"] * 2
    assert nodes[0] == {
        "id": 1, "node_name": "node-1", "cpu_usage": "183632734n", "memory_usage": "2663656Ki",
        "cpu_percentage": 0.046, "memory_percentage": 0.17, "timestamp": "2025-02-02T14:21:03.603Z",
        "cpu_millicores": 183.632734, "memory_bytes": 2663656 * 1024, "sample_timestamp": None,
        "sample_window": None, "source": "metrics",
    }  # fmt: skip
    pods = rows_of(db, "SELECT * FROM pod_metrics ORDER BY id")
    assert {row["timestamp"] for row in pods} == {"2025-02-02T14:21:03.000Z"}
    assert [row["container_name"] for row in pods] == ["user-container", "queue-proxy", "rabbitmq", "rabbitmq"]
    assert {row["namespace"] for row in pods} == {None}


def test_again_adds_nothing_and_a_grown_one_its_rest(db: Path, metrics: Path) -> None:
    combine(db, metrics)
    before = db.read_bytes()
    assert [merged.new for merged in combine(db, metrics)] == [0, 0]
    assert contents(db)["pod_metrics"] and db.stat().st_size == len(before)
    run_script(metrics, "INSERT INTO node_metrics VALUES (3, 'node-1', '1', '1Ki', 0, 0, '2025-02-02T14:21:08.603Z');"
               "INSERT INTO pod_metrics SELECT 5, pod_name, node_name, container_name, cpu_usage, memory_usage, "
               "cpu_percentage, memory_percentage, timestamp FROM pod_metrics WHERE id = 4;")  # fmt: skip
    assert combine(db, metrics) == [Merged("node_metrics", 3, 1), Merged("pod_metrics", 5, 1)]
    assert rows_of(db, "SELECT count(*) AS n FROM pod_metrics WHERE pod_name = 'rabbitmq-0'") == [{"n": 3}]


def test_batches_make_no_difference(db: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 1)
    assert [merged.new for merged in combine(db, metrics)] == [2, 4]


def test_what_was_copied_by_hand_is_taken_over(db: Path, metrics: Path) -> None:
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("ATTACH ? AS metrics", (str(metrics),))
        for table in ("node_metrics", "pod_metrics"):
            connection.execute(f"CREATE TABLE {table} AS SELECT * FROM metrics.{table}")
        connection.execute("CREATE VIEW busy AS SELECT node_name FROM node_metrics WHERE cpu_percentage > 0.05")
        connection.commit()
    assert combine(db, metrics) == [Merged("node_metrics", 2, 0), Merged("pod_metrics", 4, 0)]
    assert {row["timestamp"] for row in rows_of(db, "SELECT * FROM pod_metrics")} == {"2025-02-02T14:21:03.000Z"}
    assert rows_of(db, "SELECT * FROM busy") == [{"node_name": "node-2"}]


def test_ours_keep_all_their_columns(tmp_path: Path, db: Path) -> None:
    ours = tmp_path / "ours.db"
    script = "".join(statement for table in ("node_metrics", "pod_metrics") for statement in schema_of(table))
    run_script(ours, script + f"""INSERT INTO pod_metrics VALUES
        (7, {POD}, 'user-container', '1000000n', '20480Ki', 0.1, 0.1, '2026-02-02T14:21:03.603Z', 'functions',
         1.0, 20971520, '2026-02-02T14:21:00Z', 15.2, 'kubelet');
        ALTER TABLE pod_metrics ADD COLUMN "my note" TEXT; UPDATE pod_metrics SET "my note" = 'kept';""")  # fmt: skip
    assert combine(db, ours) == [Merged("node_metrics", 0, 0), Merged("pod_metrics", 1, 1)]
    (row,) = rows_of(db, "SELECT namespace, sample_timestamp, sample_window, source, [my note] FROM pod_metrics")
    assert tuple(row.values()) == ("functions", "2026-02-02T14:21:00.000Z", 15.2, "kubelet", "kept")
    assert [merged.new for merged in combine(db, ours)] == [0, 0]


def test_two_databases_come_together(tmp_path: Path, db: Path, metrics: Path) -> None:
    other = run_script(tmp_path / "other.db", NODES + NODE_ROWS.replace("node-", "other-"))
    combine(db, metrics)
    assert combine(db, other) == [Merged("node_metrics", 2, 2)]
    assert rows_of(db, "SELECT count(*) AS n FROM node_metrics") == [{"n": 4}]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("(9, 'n', '1', '1', 0, 0, 'yesterday')", "node_metrics row 9: timestamp: 'yesterday' is not an RFC 3339 time"),
        ("(9, 'n', '1', '1', 0, 0, NULL)", "node_metrics row 9: timestamp"),
        ("(9, 'n', '1', '1', 0, 0, '2025-02-02T14:21:03')", "node_metrics row 9: timestamp"),
        ("(9, 'n', 'fast', '1', 0, 0, '2025-02-02T14:21:03Z')", "node_metrics row 9: cpu_usage: 'fast' is not a quan"),
    ],
)
def test_all_or_nothing(db: Path, metrics: Path, row: str, complaint: str) -> None:
    combine(db, metrics)
    before = contents(db)
    run_script(
        metrics,
        f"UPDATE node_metrics SET cpu_usage = '7m'; INSERT INTO node_metrics VALUES {row};"
        + "DELETE FROM pod_metrics;",
    )
    with pytest.raises(BenchError, match=complaint):
        combine(db, metrics)
    assert contents(db) == before


def test_nothing_of_the_tables_is_there_when_the_pods_cannot_be_read(db: Path, metrics: Path) -> None:
    run_script(metrics, "UPDATE pod_metrics SET timestamp = 'never' WHERE id = 2")
    before = contents(db)
    with pytest.raises(BenchError, match=r"metrics\.db: pod_metrics row 2: timestamp"):
        combine(db, metrics)
    assert contents(db) == before and "node_metrics" not in before


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", "it has no tables"),
        ("CREATE TABLE bookmarks (id INTEGER);", "it has the tables bookmarks"),
        ("CREATE TABLE node_metrics (node_name TEXT, timestamp TEXT);", "has no column cpu_usage, memory_usage"),
        (NODES + "CREATE TABLE experiments (id INTEGER);", "are --db and --metrics swapped"),
    ],
)
def test_what_is_no_database_of_metrics_is_refused(tmp_path: Path, db: Path, script: str, complaint: str) -> None:
    before = db.read_bytes()
    with pytest.raises(BenchError, match=complaint):
        combine(db, run_script(tmp_path / "other.db", script))
    assert db.read_bytes() == before


def test_files_that_are_none(tmp_path: Path, db: Path, metrics: Path) -> None:
    (tmp_path / "text.db").write_text("node_metrics\n" * 100)
    for pair, complaint in (
        ((db, tmp_path / "text.db"), "text.db: file is not a database"),
        ((db, tmp_path), "is not a file"),
        ((db, tmp_path / "absent.db"), "does not exist"),
        ((tmp_path / "absent.db", metrics), "does not exist"),
        ((db, db), "are the same file"),
    ):
        with pytest.raises(BenchError, match=complaint):
            combine(*pair)
    assert not (tmp_path / "absent.db").exists()


def command(argv: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = kn_bench.main([str(word) for word in argv])
    return code, *capsys.readouterr()


def test_the_command(db: Path, metrics: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["combine", "--db", db, "--metrics", metrics], capsys) == (
        0, "node_metrics: 2 rows, 2 of them new\npod_metrics: 4 rows, 4 of them new\n", "",
    )  # fmt: skip
    code, out, err = command(["combine", "--db", metrics, "--metrics", db], capsys)
    assert (code, out) == (1, "") and "swapped" in err


def test_names_in_a_foreign_database_do_not_steer_the_terminal(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run_script(tmp_path / "other.db", 'CREATE TABLE "\x1b[2J" (id INTEGER);')
    code, _, err = command(["combine", "--db", db, "--metrics", other], capsys)
    assert code == 1 and r"it has the tables \x1b[2j" in err and "\x1b" not in err


def test_a_database_that_is_being_written_to_can_be_merged(db: Path, metrics: Path) -> None:
    with closing(sqlite3.connect(metrics, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO node_metrics VALUES (3, 'node-3', '1', '1', 0, 0, '2025-02-02T14:21:03Z')")
        assert combine(db, metrics)[0] == Merged("node_metrics", 2, 2)
        writer.execute("COMMIT")
        assert combine(db, metrics)[0] == Merged("node_metrics", 3, 1)


def test_the_report_sees_them_under_the_latency_and_adds_up_containers(campaign: Path, tmp_path: Path) -> None:
    db = Path(shutil.copy(campaign, tmp_path / "campaign.db"))
    run_script(db, "DROP TABLE node_metrics; DROP TABLE pod_metrics;")
    first = ask(db, experiments=[1])
    assert not first.usage
    start = first.data[0].start_ms
    assert start is not None and first.data[0].length_s > 1
    metrics = run_script(tmp_path / "metrics.db", NODES + PODS)
    with closing(sqlite3.connect(metrics)) as connection:
        at = rfc3339(int(start) * NS_PER_MS + NS_PER_S)
        local = rfc3339(int(start) * NS_PER_MS + (3600 + 1) * NS_PER_S)[:19] + "+01:00"
        connection.execute("INSERT INTO node_metrics VALUES (1, 'node-1', '1500m', '1Gi', 0, 0, ?)", (at,))
        for part, cpu in (("user-container", "100m"), ("queue-proxy", "50m")):
            row = ("empty-go-http-0-00001-deployment-7d9f6c5b8-x4k2p", "node-1", part, cpu, "10Mi", 0, 0, local)
            connection.execute("INSERT INTO pod_metrics VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    combine(db, metrics)
    lines = {(line.metric, line.name): line.value.tolist() for line in ask(db, experiments=[1]).usage[1]}
    pod = "empty-go-http-0"
    assert lines["CPU of pods (cores)", pod] == pytest.approx([0.15])
    assert lines["memory of pods (MiB)", pod] == pytest.approx([20])
    assert lines["replicas", pod] == [1]
    assert lines["CPU of nodes (cores)", "node-1"] == pytest.approx([1.5])
