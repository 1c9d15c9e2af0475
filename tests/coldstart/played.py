"""Pods of a Knative Service on the fake API server, whose real moments (our monotonic clock) are written down."""

from __future__ import annotations

import asyncio
import copy
import time
from pathlib import Path
from typing import Any

from tests.kube.fake_api import FakeApi
from workload_generator.base.clock import NS_PER_S
from workload_generator.coldstart.kubernetes import KubernetesSource
from workload_generator.coldstart.proof import InstanceLife, Moment
from workload_generator.coldstart.timeline import InstanceTimeline
from workload_generator.coldstart.watcher import Watcher
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import EVENTS, POD_AUTOSCALERS, PODS, REVISIONS, Object

NAMESPACE = "functions"
HOST = f"f.{NAMESPACE}.svc.cluster.local"
LABELS = {"serving.knative.dev/service": "f", "serving.knative.dev/revision": "f-00001"}
_CLOCKS_NS = 1_000_000  # two clocks of this machine, read one after the other
STEPS = ("scale", "created", "scheduled", "started", "ready")


class Cluster:
    """A namespace with one service; `moments` has when each of a pod's points came to be: not before, and not after."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.moments: dict[str, dict[str, tuple[int, int]]] = {}
        self.states: dict[str, list[Object]] = {}
        api.put(REVISIONS, self._doc("f-00001"))
        self.scale(0)

    def scale(self, wanted: int, pod: str = "") -> None:
        """The autoscaler's decision, as Knative's PodAutoscaler has it."""
        active = {"type": "Active", "status": "True" if wanted else "False", "lastTransitionTime": self.api.now()}
        doc = self._doc("f-00001", status={"desiredScale": wanted, "conditions": [active]})
        before_ns = time.monotonic_ns()
        self.api.put(POD_AUTOSCALERS, doc)
        if pod:
            self._note(pod, "scale", before_ns)

    def step(self, pod: str, point: str) -> None:
        """The pod gets to `point`, with all that came before it."""
        if point == "scale":
            self.scale(1, pod)
            return
        there = self.api.find(PODS, pod, NAMESPACE)
        doc = there or self._doc(pod, spec={"containers": [{"name": "f"}, {"name": "queue-proxy"}]}, status={})
        now = self.api.now()
        conditions = doc["status"].setdefault("conditions", [])
        match point:
            case "scheduled":
                doc["spec"]["nodeName"] = "node"
                conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now})
            case "started":
                doc["status"]["containerStatuses"] = [
                    {"name": name, "ready": name == "f", "state": {"running": {"startedAt": now}}}
                    for name in ("f", "queue-proxy")
                ]
            case "ready":
                for each in doc["status"]["containerStatuses"]:
                    each["ready"] = True
                conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": now})
        doc["metadata"]["managedFields"] = [{"manager": "kubelet", "time": now}]
        before_ns = time.monotonic_ns()
        self.states.setdefault(pod, []).append(self.api.put(PODS, doc))
        for each in (point, "queue_ready") if point == "ready" else (point,):
            self._note(pod, each, before_ns)

    async def start(self, pod: str, after_s: dict[str, float]) -> None:
        """All steps, each some time after the one before it."""
        for point in STEPS:
            await asyncio.sleep(after_s.get(point, 0.12))
            self.step(pod, point)

    def end(self, pod: str) -> None:
        """The pod begins to end: it is there, and its deletion is asked for."""
        doc = self.api.find(PODS, pod, NAMESPACE)
        assert doc is not None
        doc["metadata"] |= {"deletionTimestamp": self.api.now(), "finalizers": ["the kubelet's"]}
        self.api.put(PODS, doc)

    def remove(self, pod: str) -> None:
        before_ns = time.monotonic_ns()
        self.api.remove(PODS, pod, NAMESPACE)
        self._note(pod, "gone", before_ns)

    def event(self, pod: str, reason: str, **times: str) -> None:
        """What scheduler and kubelet say of a pod."""
        about = {"kind": "Pod", "name": pod, "namespace": NAMESPACE}
        before_ns = time.monotonic_ns()
        doc = self._doc(f"{pod}.{reason}.{before_ns}", involvedObject=about, reason=reason, **times)
        self.api.put(EVENTS, doc)
        if reason == "Pulled":
            self._note(pod, "pulled", before_ns)

    def _doc(self, name: str, **parts: Any) -> Object:
        return {"metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(LABELS)}, **copy.deepcopy(parts)}

    def _note(self, pod: str, point: str, before_ns: int) -> None:
        self.moments.setdefault(pod, {})[point] = before_ns, time.monotonic_ns()

    def holds(self, start: InstanceLife, *points: str) -> None:
        """Every point that is known was then, as far as its error says; `points` have to be known."""
        assert set(points) <= set(start.points), (points, start.points)
        for point, moment in start.points.items():
            assert isinstance(moment, Moment)
            low_ns, high_ns = self.moments[start.instance][point]
            off_ms = (moment.at_ns - low_ns) / 1e6
            low_ns, high_ns = low_ns - _CLOCKS_NS, high_ns + _CLOCKS_NS
            assert low_ns - moment.error_ns <= moment.at_ns <= high_ns + moment.error_ns, (point, off_ms, moment)


def watcher_of(api: FakeApi, folder: Path) -> tuple[Watcher, KubernetesSource]:
    """The product's own, as that server's user."""
    timeline = InstanceTimeline()
    kubeconfig = api.write_kubeconfig(folder / "kubeconfig")

    async def connect() -> Kube:
        return await Kube.connect(kubeconfig, patience_s=1, timeout_s=5)

    source = KubernetesSource(NAMESPACE, timeline, connect)
    return Watcher(source, timeline), source


def ms(a: Moment, b: Moment) -> float:
    """From one to the other."""
    return (b.at_ns - a.at_ns) * 1000 / NS_PER_S
