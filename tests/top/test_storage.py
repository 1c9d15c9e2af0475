"""The storage of samples: complete ticks, continued after any end of the previous recording."""

from __future__ import annotations

import csv
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.results.test_combine import ORIGINAL
from tests.top.clusters import node_usage, pod_usage
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.usage_tables import TABLES, Gap, Row, stamp
from workload_generator.cluster.top.storage import open_storage
from workload_generator.cluster.top.usage import ClusterView, SampleHistory, read_metrics
from workload_generator.results.database import open_store
from workload_generator.results.ingest.combine import combine

VIEW = ClusterView()
GAP = Gap("2026-11-25T10:00:00.000Z", "metrics", "pods", 2, 'refused, "for now",\nsaid it')


def samples(now: str, at: str = "2026-11-25T10:00:00Z") -> list[Row]:
    nodes = read_metrics([node_usage("node-1", at)], VIEW, SampleHistory(), now).nodes
    return [*nodes, *read_metrics([pod_usage("f-1", at)], VIEW, SampleHistory(), now).pods]


def stored(kind: str, folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything as text, NULL as nothing."""
    found = {}
    for table in TABLES.values():
        if kind == "csv":
            with (folder / f"{table}.csv").open(newline="") as file:
                found[table] = [tuple(row) for row in csv.reader(file)][1:]
        else:
            with closing(sqlite3.connect(folder / "metrics.db")) as connection:
                rows = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
            found[table] = [tuple("" if value is None else str(value) for value in row[1:]) for row in rows]
    return found


@pytest.mark.parametrize("kind", ["sqlite", "csv"])
def test_existing_data_is_continued(kind: str, tmp_path: Path) -> None:
    for number in range(2):
        with open_storage(kind, tmp_path / "out") as storage:
            storage.write([*samples(f"2026-11-25T10:00:0{number}.000Z"), GAP])
            storage.write([])
    found = stored(kind, tmp_path / "out")
    assert {table: len(rows) for table, rows in found.items() if rows} == {
        "node_metrics": 2, "pod_metrics": 4, "metric_gaps": 2,
    }  # fmt: skip
    assert found["node_metrics"][1] == (
        "node-1", "183632734n", "2663656Ki", "", "", "2026-11-25T10:00:01.000Z", "183.632734", str(2663656 * 1024),
        "2026-11-25T10:00:00.000Z", "15.2", "metrics",
    )  # fmt: skip
    assert found["metric_gaps"][0] == tuple(map(str, GAP))


@pytest.mark.parametrize("kind", ["sqlite", "csv"])
def test_the_last_samples_are_read_from_the_storage(kind: str, tmp_path: Path) -> None:
    now_ns = time.time_ns()
    earlier, later = stamp(now_ns - 20 * 10**9), stamp(now_ns - 10 * 10**9)
    with open_storage(kind, tmp_path) as storage:
        storage.write(samples(stamp(now_ns - 15 * 10**9), earlier) + samples(stamp(now_ns), later))
    with open_storage(kind, tmp_path) as storage:
        assert storage.last_samples("metrics") == {
            ("", "node-1", ""): later,
            ("functions", "f-1", "user-container"): later,
            ("functions", "f-1", "queue-proxy"): later,
        }
        assert storage.last_samples("kubelet") == {}


@pytest.mark.parametrize("kind", ["sqlite", "csv"])
def test_one_top_at_a_time_writes_to_a_folder(kind: str, tmp_path: Path) -> None:
    with open_storage(kind, tmp_path), pytest.raises(UsageError, match="another kn-bench top is writing there"):
        with open_storage(kind, tmp_path):
            pass
    with open_storage(kind, tmp_path):
        pass


def test_an_incomplete_line_is_removed(tmp_path: Path) -> None:
    with open_storage("csv", tmp_path) as storage:
        storage.write(samples("2026-11-25T10:00:00.000Z"))
    path = tmp_path / "pod_metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + b"f-1,node-1,user-con")
    (tmp_path / "scales.csv").write_bytes(b"timestamp,name")
    with open_storage("csv", tmp_path):
        pass
    assert path.read_bytes() == whole
    assert (tmp_path / "scales.csv").read_text().startswith("timestamp,namespace,")


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "node_metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"node_metrics\.csv has other columns"), open_storage("csv", tmp_path):
        pass
    (tmp_path / "metrics.db").write_text("no database" * 100)
    with pytest.raises(BenchError, match="not a database"), open_storage("sqlite", tmp_path):
        pass
    (tmp_path / "metrics.db").unlink()
    open_store(tmp_path / "metrics.db").close()
    with pytest.raises(UsageError, match="is a benchmark database"), open_storage("sqlite", tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output-dir"), open_storage("sqlite", tmp_path / "file"):
        pass


def test_the_originals_database_is_continued(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "metrics.db")) as connection:
        connection.executescript(ORIGINAL)
    with open_storage("sqlite", tmp_path) as storage:
        storage.write(samples("2026-11-25T10:00:00.000Z"))
    found = stored("sqlite", tmp_path)
    assert len(found["node_metrics"]) == 3 and len(found["pod_metrics"]) == 6
    db = tmp_path / "benchmark.db"
    open_store(db).close()
    merged = {each.table: each.new for each in combine(db, tmp_path / "metrics.db")}
    assert (merged["node_metrics"], merged["pod_metrics"]) == (3, 6)


def test_a_tick_is_stored_completely_or_not_at_all(tmp_path: Path) -> None:
    bad: Any = GAP._replace(reason=None)
    with open_storage("sqlite", tmp_path) as storage:
        with pytest.raises(BenchError, match="NOT NULL"):
            storage.write([*samples("2026-11-25T10:00:00.000Z"), bad])
        assert not any(stored("sqlite", tmp_path).values())
        storage.write([GAP])
    assert len(stored("sqlite", tmp_path)["metric_gaps"]) == 1


def test_combine_reads_the_database_during_a_recording(tmp_path: Path) -> None:
    db = tmp_path / "benchmark.db"
    open_store(db).close()
    with open_storage("sqlite", tmp_path / "out") as storage:
        for number in range(2):
            storage.write([*samples(f"2026-11-25T10:00:0{number}.000Z"), GAP])
            merged = {each.table: (each.rows, each.new) for each in combine(db, tmp_path / "out" / "metrics.db")}
            assert merged["pod_metrics"] == (2 * number + 2, 2)
            assert merged["metric_gaps"] == (number + 1, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.db"]
