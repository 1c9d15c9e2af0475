"""The plane itself: properties that the other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from tests.cluster import cluster
from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.namespaces import Namespaces, NotOurs
from tests.cluster.plane import Plane


def pod(namespace: str, name: str = "p", **spec: object) -> Doc:
    containers = [{"name": "c", "image": "dev.local/c:1", "resources": {"requests": {"cpu": "100m"}}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": containers, **spec},
    }


def test_a_pod_is_scheduled_started_and_becomes_ready(plane: Plane, kube: Api, namespace: str) -> None:
    kube.create(pod(namespace))

    def ready() -> Doc | None:
        status = kube.get("v1", "Pod", namespace, "p")["status"]
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        return status if conditions.get("Ready") == "True" else None

    status = wait_for("the pod to be ready", ready)
    assert status["phase"] == "Running" and status["podIP"].startswith("10.244.")
    assert {"PodScheduled", "Initialized", "ContainersReady"} <= {each["type"] for each in status["conditions"]}
    assert status["containerStatuses"][0]["state"]["running"]["startedAt"]


def test_anonymous_requests_are_rejected(plane: Plane, kube: Api) -> None:
    with urllib3.PoolManager(ca_certs=str(plane.folder / "ca.pem")) as nobody:
        assert nobody.request("GET", f"{kube.server}/api/v1/nodes", retries=False).status == 401


def test_usage_comes_from_metrics_server(plane: Plane, kube: Api) -> None:
    wait_for("metrics-server's first rounds", lambda: cluster.has_metrics(kube))
    nodes = kube.list("metrics.k8s.io/v1beta1", "NodeMetrics")
    assert {each["metadata"]["name"] for each in nodes} == {
        each["metadata"]["name"] for each in kube.list("v1", "Node")
    }


def test_objects_of_others_cannot_be_changed(kube: Api, namespaces: Namespaces) -> None:
    with pytest.raises(NotOurs):
        namespaces.apply([pod("default")])
    with pytest.raises(NotOurs):
        namespaces.delete("default")
    with pytest.raises(NotOurs):
        namespaces.move([pod("kube-system")])


def test_a_plane_ends_with_its_parent(plane: Plane, tmp_path: Path) -> None:
    folder = tmp_path / "plane"
    environment = {**os.environ, "KNATIVE_CRDS": ""}
    command = [sys.executable, "-m", "tests.cluster", "serve", f"--folder={folder}"]
    process = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[2])
    wait_for("the second plane", lambda: (folder / "ready").exists() or process.poll() is not None)
    assert process.poll() is None
    assert len(_parts(folder)) == 6
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for("its parts to end", lambda: not _parts(folder))


def _parts(folder: Path) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and os.readlink(path / "cwd") == str(folder):
                found.append(int(path.name))
        except OSError:  # it has ended in between
            continue
    return found
