"""Samples of the API, converted to rows."""

from __future__ import annotations

import orjson
import pytest

from tests.top.clusters import node, node_usage, pod_usage, summary
from workload_generator.base.usage_tables import TABLES, columns_of
from workload_generator.cluster.top.usage import (
    Allocatable,
    ClusterView,
    LastSample,
    Measured,
    Reading,
    SampleHistory,
    SampleKey,
    Scope,
    read_allocatable,
    read_metrics,
    read_summary,
)
from workload_generator.kube.resources import Object

NOW = "2026-11-25T10:00:03.000Z"
AT = "2026-11-25T10:00:00Z"
LATER = "2026-11-25T10:00:10Z"
NODES = {"node-1": Allocatable(4000.0, 16 * 2**30)}
VIEW = ClusterView(NODES, {("functions", "f-1"): "node-1"}, Scope(ignored=frozenset({"kube-system"})))


def read(document: Object, history: SampleHistory, view: ClusterView = VIEW) -> Reading:
    return read_summary(orjson.dumps(document), view, history, NOW)


def test_fields_of_rows_are_the_columns_of_their_tables() -> None:
    for kind, table in TABLES.items():
        assert tuple(columns_of(table)) == kind._fields


def test_read_allocatable() -> None:
    assert read_allocatable(node("n", "2500m", "14193692Ki")) == Allocatable(2500.0, 14193692 * 1024)
    with pytest.raises(ValueError, match="fast"):
        read_allocatable(node("n", "fast"))


def test_a_node_in_the_originals_format_with_our_columns() -> None:
    seen = SampleHistory()
    (row,) = read_metrics([node_usage("node-1", AT)], VIEW, seen, NOW).nodes
    assert row == (
        "node-1", "183632734n", "2663656Ki", 183.632734 / 4000, 2663656 / (16 * 2**20), NOW, 183.632734,
        2663656 * 1024, "2026-11-25T10:00:00.000Z", 15.2, "metrics",
    )  # fmt: skip


def test_a_row_for_each_container_with_its_node_and_namespace() -> None:
    rows = read_metrics([pod_usage("f-1", AT)], VIEW, SampleHistory(), NOW).pods
    assert [row.container_name for row in rows] == ["user-container", "queue-proxy"]
    assert rows[0] == (
        "f-1", "node-1", "user-container", "1000000n", "20480Ki", 1 / 4000, 20480 / (16 * 2**20), NOW, "functions", 1.0,
        20480 * 1024, "2026-11-25T10:00:00.000Z", 14.0, "metrics",
    )  # fmt: skip


def test_a_repeated_sample_gives_no_row() -> None:
    seen = SampleHistory()
    for at, new in ((AT, 1), (AT, 0), (AT, 0), (LATER, 1)):
        seen.begin()
        assert len(read_metrics([node_usage("node-1", at)], VIEW, seen, NOW).nodes) == new
        assert len(read_metrics([pod_usage("f-1", at)], VIEW, seen, NOW).pods) == 2 * new
        assert len(seen.present()) == 3


def test_a_sample_stored_by_an_earlier_top_gives_no_row() -> None:
    seen = SampleHistory(stored={("", "node-1", ""): "2026-11-25T10:00:00.000Z"})
    assert not read_metrics([node_usage("node-1", AT)], VIEW, seen, NOW).nodes
    assert read_metrics([node_usage("node-1", LATER)], VIEW, seen, NOW).nodes


def test_samples_of_deleted_pods_are_dropped() -> None:
    seen = SampleHistory()
    read_metrics([pod_usage(f"f-{number}", AT) for number in range(10)], VIEW, seen, NOW)
    for _ in range(130):
        seen.begin()
        read_metrics([pod_usage("f-1", AT)], VIEW, seen, NOW)
    assert {key[1] for key in seen.known} == {"f-1"} == {key[1] for key in seen.present()}


def test_an_unknown_node_leaves_shares_null() -> None:
    (row,) = read_metrics([node_usage("node-9", AT)], VIEW, SampleHistory(), NOW).nodes
    assert (row.cpu_percentage, row.memory_percentage, row.cpu_millicores) == (None, None, 183.632734)
    row = read_metrics([pod_usage("f-9", AT)], VIEW, SampleHistory(), NOW).pods[0]
    assert (row.node_name, row.cpu_percentage) == (None, None)


def test_an_ignored_namespace_is_left_out() -> None:
    assert not read_metrics([pod_usage("dns", AT, "kube-system")], VIEW, SampleHistory(), NOW).pods
    view = ClusterView(scope=Scope(ignored=frozenset({"functions"})))
    assert not read(summary("node-1", AT), SampleHistory(), view).pods


def test_unreadable_items_are_counted_and_the_others_are_kept() -> None:
    items = [node_usage("node-1", AT), node_usage("node-2", AT, cpu="fast"), {"metadata": {"name": "node-3"}}, "what"]
    reading = read_metrics(items, VIEW, SampleHistory(), NOW)  # type: ignore[arg-type]
    assert [row.node_name for row in reading.nodes] == ["node-1"]
    assert reading.unreadable[0].startswith("node-2: 'fast' is not a quantity")
    assert reading.unreadable[1] == "node-3: 'usage' is missing"
    assert reading.unreadable[2].startswith("an item without a name")
    broken = pod_usage("f-1", AT)
    del broken["containers"][1]["usage"]["cpu"]
    reading = read_metrics([broken, pod_usage("f-2", AT)], VIEW, SampleHistory(), NOW)
    assert {row.pod_name for row in reading.pods} == {"f-2"} and len(reading.unreadable) == 1


def test_a_kubelets_summary() -> None:
    seen = SampleHistory()
    seen.begin()
    reading = read(summary("node-1", AT), seen)
    assert reading.nodes == [
        ("node-1", "50000000n", "2Ki", 50 / 4000, 2048 / (16 * 2**30), NOW, 50.0, 2048, "2026-11-25T10:00:00.000Z",
         None, "kubelet")
    ]  # fmt: skip
    (row,) = reading.pods  # the other container has only just started
    assert (row.pod_name, row.node_name, row.container_name, row.namespace) == (
        "f-1",
        "node-1",
        "user-container",
        "functions",
    )
    seen.begin()
    again = read(summary("node-1", AT), seen)
    assert not again.nodes and not again.pods and not again.unreadable and len(seen.present()) == 2
    (row,) = read(summary("node-1", LATER), seen).pods
    assert row.sample_window == 10.0


def test_a_kubelet_with_only_a_counter() -> None:
    seen = SampleHistory()
    assert not read(summary("node-1", AT, nano=None, counter=10**9), seen).nodes
    (row,) = read(summary("node-1", LATER, nano=None, counter=3 * 10**9), seen).nodes
    assert (row.cpu_usage, row.cpu_millicores, row.sample_window) == ("200000000n", 200.0, 10.0)
    restarted = summary("node-1", "2026-11-25T10:00:20Z", nano=None, counter=10**6)
    assert not read(restarted, seen).nodes
    later = summary("node-1", "2026-11-25T10:00:30Z", nano=None, counter=10**9 + 10**6)
    (row,) = read(later, seen).nodes
    assert row.cpu_millicores == 100.0


def test_the_scope_of_a_summary() -> None:
    whole = summary("node-1", AT)

    def of(scope: Scope) -> Reading:
        return read(whole, SampleHistory(), ClusterView(NODES, {}, scope))

    assert not of(Scope(nodes=False)).nodes and of(Scope(nodes=False)).pods
    assert not of(Scope(pods=False)).pods
    assert not of(Scope(namespaces=("other",))).pods
    assert of(Scope(namespaces=("functions",))).pods


def test_a_broken_summary_keeps_the_rest() -> None:
    broken = summary("node-1", AT)
    broken["node"]["cpu"]["time"] = "yesterday"
    broken["pods"].append({"podRef": {}})
    reading = read(broken, SampleHistory())
    assert not reading.nodes and len(reading.pods) == 1
    assert reading.unreadable == [
        "node-1: 'yesterday' is not an RFC 3339 time",
        "a pod of node node-1: 'namespace' is missing",
    ]


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b"{}"])
def test_an_invalid_summary(body: bytes) -> None:
    reading = read_summary(body, VIEW, SampleHistory(), NOW)
    assert not reading.nodes and len(reading.unreadable) == 1 and reading.unreadable[0].startswith("the summary: ")


def test_a_present_sample_is_never_new_again() -> None:
    seen, there, gone = SampleHistory(), ("", "node-1", ""), ("", "node-2", "")

    def is_new(key: SampleKey) -> bool:
        return seen.is_new(
            key, LastSample(Measured("1m", "1", 1.0, 1, "2026-11-25T10:00:00.000Z", None), seen.tick, key[1])
        )

    seen.begin()
    assert is_new(there) and is_new(gone)
    for _ in range(200):
        seen.begin()
        assert not is_new(there)
    assert seen.known.keys() == {there}
