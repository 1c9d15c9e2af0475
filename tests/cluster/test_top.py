"""`kn-bench top` on a real API server: metrics-server with kwok's usage, the node proxy, functions that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import cluster
from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.knative import Knative
from tests.cluster.plane import Plane
from tests.cluster.test_plane import pod
from tests.top.process import Running, rows
from workload_generator.results.database import open_store
from workload_generator.results.ingest.combine import combine

NODE = "kubelet-of-the-test"


@contextmanager
def recording(kubeconfig: Path, folder: Path, *flags: str) -> Iterator[Running]:
    top = Running(kubeconfig, folder / "out", "--frequency=1", *flags)
    try:
        yield top
    finally:
        if top.process.poll() is None:
            top.process.kill()
        top.process.communicate()


def test_usage_of_nodes_and_pods(plane: Plane, kube: Api, kubeconfig: Path, namespace: str, tmp_path: Path) -> None:
    doc = pod(namespace, "busy")
    doc["metadata"]["annotations"] = {"knative-bench.test/cpu": "300m", "knative-bench.test/memory": "64Mi"}
    kube.create(doc)
    wait_for("metrics-server's first rounds", lambda: cluster.has_metrics(kube))
    with recording(kubeconfig, tmp_path) as top:
        wait_for(
            "two samples of the pod",
            lambda: len(rows(top.out, "SELECT * FROM pod_metrics WHERE pod_name = 'busy'")) >= 2,
        )
        assert top.end()[0] == 143
    nodes = {each["metadata"]["name"] for each in kube.list("v1", "Node")}
    assert {name for (name,) in rows(top.out, "SELECT node_name FROM node_metrics")} == nodes
    for cpu, share, memory, at, window, node, source in rows(
        top.out,
        "SELECT cpu_millicores, cpu_percentage, memory_bytes, sample_timestamp, sample_window, node_name, source "
        f"FROM pod_metrics WHERE pod_name = 'busy' AND namespace = '{namespace}'",
    ):
        assert cpu == pytest.approx(300, rel=0.1) and share == pytest.approx(cpu / 2500)
        assert memory == 64 * 2**20 and at.endswith("Z") and 5 < window < 30
        assert node in nodes and source == "metrics"
    samples = rows(top.out, "SELECT node_name, sample_timestamp FROM node_metrics")
    assert len(samples) == len(set(samples)), "no sample is stored twice"
    db = tmp_path / "benchmark.db"
    open_store(db).close()
    assert {each.table: each.new for each in combine(db, top.out / "metrics.db")}["node_metrics"] == len(samples)


def test_functions_that_come_and_go(
    plane: Plane, kube: Api, kubeconfig: Path, namespace: str, has_knative: None, tmp_path: Path
) -> None:
    container = {"image": "dev.local/f:1", "name": "user-container"}
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "f", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    early = pod(namespace, "early")
    early["metadata"]["labels"] = {"serving.knative.dev/revision": "other-00001"}
    kube.create(early)
    with Knative(kube, [namespace]) as knative, recording(kubeconfig, tmp_path, f"--namespace={namespace}") as top:
        top.has("SELECT * FROM pod_states")
        kube.apply(service)
        knative.scale(namespace, "f", 2)
        top.has("SELECT * FROM replicas WHERE ready = 2")
        top.has("SELECT * FROM conditions WHERE kind = 'Revision' AND type = 'Ready' AND status = 'True'")
        knative.scale(namespace, "f", 0)
        left = (
            "SELECT pending + running + ready + terminating FROM replicas WHERE service = 'f' ORDER BY id DESC LIMIT 1"
        )
        wait_for("an end of all pods", lambda: rows(top.out, left) == [(0,)])
        assert top.end()[0] == 143
    ours = "(SELECT * FROM pod_states WHERE service = 'f' ORDER BY id)"
    states = rows(top.out, f"SELECT pod_name, group_concat(state) FROM {ours} GROUP BY 1")
    assert len(states) == 2
    for _, told in states:
        assert told.replace("pending,pending", "pending").startswith("pending,running,ready,terminating")
        assert told.endswith("gone")
    assert {row[0] for row in rows(top.out, "SELECT service FROM replicas")} == {"f", None}
    assert {row[0] for row in rows(top.out, "SELECT kind FROM conditions")} >= {"Revision"}
    assert [row[0] for row in rows(top.out, "SELECT reason FROM metric_gaps WHERE source = 'watch'")] == [
        "began",
        "ended",
    ]


def test_kubelets_are_asked_through_the_node_proxy(plane: Plane, kube: Api, kubeconfig: Path, tmp_path: Path) -> None:
    """The proxy leads to no loopback address, and kwok's kubelets have no other: what they say is the fake API's."""
    kube.create(node())
    try:
        with recording(kubeconfig, tmp_path, "--source=kubelet") as top:
            top.has(f"SELECT * FROM metric_gaps WHERE subject = 'node {NODE}'", 2)
            assert top.end()[0] == 143
    finally:
        kube.delete("v1", "Node", None, NODE)
    reasons = {reason for (reason,) in rows(top.out, f"SELECT reason FROM metric_gaps WHERE subject = 'node {NODE}'")}
    asked = f"GET /api/v1/nodes/{NODE}/proxy/stats/summary: address not allowed (400 BadRequest)"
    assert asked in reasons and reasons <= {asked, f"not asked, after: {asked}"}


def node() -> Doc:
    has = {"cpu": "4", "memory": "16Gi", "pods": "110"}
    status = {
        "capacity": has,
        "allocatable": has,
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": status}
