"""Objects of a cluster that `top` reads."""

from __future__ import annotations

from typing import Any

from tests.kube.fake_api import FakeApi
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object


def node(name: str, cpu: str = "4", memory: str = "16Gi") -> Object:
    return {"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": memory}}}


def node_usage(name: str, at: str, cpu: str = "183632734n", memory: str = "2663656Ki") -> Object:
    return {
        "metadata": {"name": name},
        "timestamp": at,
        "window": "15.2s",
        "usage": {"cpu": cpu, "memory": memory},
    }


def pod_usage(name: str, at: str, namespace: str = "functions", cpu: str = "1000000n") -> Object:
    usage = {"cpu": cpu, "memory": "20480Ki"}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "timestamp": at,
        "window": "14s",
        "containers": [{"name": "user-container", "usage": usage}, {"name": "queue-proxy", "usage": usage}],
    }


def pod(
    name: str, phase: str = "Running", *, ready: bool = False, revision: str | None = "f-00001", **about: Any
) -> Object:
    labels = {"serving.knative.dev/revision": revision, "serving.knative.dev/service": "f"} if revision else {}
    return {
        "metadata": {"name": name, "namespace": "functions", "labels": labels, **about},
        "spec": {"nodeName": "node-1" if phase != "Pending" else None, "containers": [{"name": "user-container"}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }


def autoscaler(desired: int | None, actual: int | None, active: str = "True") -> Object:
    status: Object = {"conditions": [{"type": "Active", "status": active, "reason": "Because"}]}
    for name, value in (("desiredScale", desired), ("actualScale", actual)):
        if value is not None:
            status[name] = value
    labels = {"serving.knative.dev/revision": "f-00001", "serving.knative.dev/service": "f"}
    return {"metadata": {"name": "f-00001", "namespace": "functions", "labels": labels}, "status": status}


def summary(node: str, at: str, *, nano: int | None = 50_000_000, counter: int = 10**9, pod: str = "f-1") -> Object:
    """A kubelet's `/stats/summary`: the node, and a pod with two containers, one of which has only just started."""
    cpu = {"time": at, "usageCoreNanoSeconds": counter}
    if nano is not None:
        cpu["usageNanoCores"] = nano
    memory = {"time": at, "workingSetBytes": 2048}
    containers: list[Object] = [
        {"name": "user-container", "cpu": cpu, "memory": memory},
        {"name": "queue-proxy", "cpu": {"time": at}},
    ]
    about = {"name": pod, "namespace": "functions", "uid": "u"}
    return {
        "node": {"nodeName": node, "cpu": dict(cpu), "memory": memory},
        "pods": [{"podRef": about, "containers": containers}],
    }


def fill(api: FakeApi, at: str = "2026-11-25T10:00:00Z") -> None:
    """Two nodes, a function with a pod, and usage of all of them."""
    for name in ("node-1", "node-2"):
        api.put(kinds.NODES, node(name))
        api.put(kinds.NODE_METRICS, node_usage(name, at))
        api.raw[f"/api/v1/nodes/{name}/proxy/stats/summary"] = summary(name, at, pod=f"f-{name}")
    api.put(kinds.PODS, pod("f-1", ready=True))
    api.put(kinds.POD_METRICS, pod_usage("f-1", at))
    api.put(kinds.POD_AUTOSCALERS, autoscaler(1, 1))
    api.put(kinds.REVISIONS, {
        "metadata": {"name": "f-00001", "namespace": "functions", "labels": {"serving.knative.dev/service": "f"}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]},
    })  # fmt: skip
