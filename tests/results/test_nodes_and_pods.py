"""CPU, memory and replicas during a run: usage by its own time, namespace and source."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from workload_generator.base.usage_tables import PodSample, schema_of, stamp
from workload_generator.results.database import open_store
from workload_generator.results.report.nodes_and_pods import TimeSeries, read_usage, usage_series

START_NS = 1_770_000_000 * 10**9


def at(seconds: float) -> str:
    return stamp(START_NS + round(seconds * 10**9))


def sample(
    seconds: float, pod: str, millicores: float, *, namespace: str = "functions", part: str = "user-container",
    source: str = "metrics", late: float = 0.0,
) -> PodSample:  # fmt: skip
    return PodSample(
        pod, "node-1", part, f"{millicores}m", "1Mi", None, None, at(seconds + late), namespace, millicores, 2**20,
        at(seconds), 15.0, source,
    )  # fmt: skip


def lines(folder: Path, samples: list[PodSample], length_s: float = 60.0) -> dict[tuple[str, str], TimeSeries]:
    db = folder / "benchmark.db"
    open_store(db).close()
    with closing(sqlite3.connect(db)) as connection:
        for statement in schema_of("pod_metrics"):
            connection.execute(statement)
        marks = ", ".join("?" * len(PodSample._fields))
        names = ", ".join(PodSample._fields)
        connection.executemany(f"INSERT INTO pod_metrics ({names}) VALUES ({marks})", samples)
        connection.commit()
    data: Any = SimpleNamespace(start_ms=START_NS // 10**6, length_s=length_s, timelines=[])
    with open_store(db) as store:
        found = usage_series(data, read_usage(store, "node_metrics"), read_usage(store, "pod_metrics"))
    return {(line.metric, line.name): line for line in found}


def pod(service: str, number: int = 0) -> str:
    return f"{service}-00001-deployment-7d9f6c5b8-x{number:04}"


def test_containers_and_pods_are_added_up(tmp_path: Path) -> None:
    samples = [
        sample(t, pod("f", number), 100, part=part)
        for t in (0, 15, 30, 45)
        for number in range(3)
        for part in ("user-container", "queue-proxy")
    ]
    found = lines(tmp_path, samples)
    assert found["CPU of pods (cores)", "f"].value.tolist() == pytest.approx([0.6] * 4)
    assert found["memory of pods (MiB)", "f"].value.tolist() == pytest.approx([6] * 4)
    assert found["replicas", "f"].value.tolist() == [3] * 4
    assert found["replicas", "f"].at_s.tolist() == pytest.approx([0, 15, 30, 45])


def test_a_reading_has_the_time_of_its_sample(tmp_path: Path) -> None:
    found = lines(tmp_path, [sample(t, pod("f"), 100, late=9) for t in (0, 15, 30)])
    assert found["replicas", "f"].at_s.tolist() == pytest.approx([0, 15, 30])


def test_equal_names_in_two_namespaces_are_two_series(tmp_path: Path) -> None:
    samples = [sample(t, pod("f"), cpu, namespace=name) for t in (0, 15) for name, cpu in (("a", 100), ("b", 300))]
    samples += [sample(t, pod("g"), 50, namespace="a") for t in (0, 15)]
    found = lines(tmp_path, samples)
    assert {name for _, name in found} == {"a/f", "b/f", "g"}
    assert found["CPU of pods (cores)", "b/f"].value.tolist() == pytest.approx([0.3, 0.3])


def test_two_sources_are_not_mixed(tmp_path: Path) -> None:
    samples = [sample(t, pod("f"), 900) for t in range(0, 60, 15)]
    samples += [sample(t, pod("f"), 100, source="kubelet") for t in range(0, 60, 5)]
    found = lines(tmp_path, samples)
    assert found["CPU of pods (cores)", "f"].value.tolist() == pytest.approx([0.1] * 12)


def test_a_short_gap_is_bridged_but_not_an_end(tmp_path: Path) -> None:
    samples = [sample(t, pod("f", 0), 100) for t in (0, 10, 20, 30, 40, 50, 60)]
    samples += [sample(t, pod("f", 1), 200) for t in (0, 10, 40)]  # lacking twice, then gone
    found = lines(tmp_path, samples)
    assert found["replicas", "f"].value.tolist() == [2, 2, 2, 2, 2, 1, 1]
    assert found["CPU of pods (cores)", "f"].value.tolist() == pytest.approx([0.3] * 5 + [0.1] * 2)


def test_the_busiest_have_a_series_each_and_the_others_one(tmp_path: Path) -> None:
    samples = [sample(t, pod(f"f{number}"), 10 * number) for t in (0, 15) for number in range(20)]
    found = lines(tmp_path, samples)
    names = {name for _, name in found}
    assert names == {f"f{number}" for number in range(13, 20)} | {"13 others together"}
    assert found["CPU of pods (cores)", "13 others together"].value.tolist() == pytest.approx([0.78] * 2)
    assert found["replicas", "13 others together"].value.tolist() == [13, 13]


def test_a_run_without_readings_has_no_series(tmp_path: Path) -> None:
    assert lines(tmp_path, [sample(1000, pod("f"), 100)]) == {}


def test_ten_thousand_pods_take_no_longer_each_than_a_thousand(tmp_path: Path) -> None:
    took = {}
    for count in (1_000, 10_000):
        (folder := tmp_path / str(count)).mkdir()
        samples = [sample(t, pod(f"f{number % 100}", number), 10) for t in range(0, 150, 50) for number in range(count)]
        began = time.process_time()
        found = lines(folder, samples, 150)
        took[count] = time.process_time() - began
        assert np.sum([line.value[0] for (metric, _), line in found.items() if metric == "replicas"]) == count
    assert took[10_000] < 40 * took[1_000], "linear is ten times, quadratic a hundred"
