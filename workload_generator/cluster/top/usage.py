"""Usage of nodes and pods as the API gives it, made into rows: no I/O, no clocks.

Rules:
- a sample that was stored already (the same node or container, the same time of its own) is no row again
- what cannot be read is left out and counted, never the whole answer
- what is not known of a node (it came after the last look, or may not be seen) leaves percentages NULL
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workload_generator.base.clock import NS_PER_S, parse_duration, parse_rfc3339
from workload_generator.base.quantities import millicores, whole_bytes
from workload_generator.base.usage_tables import KUBELET, METRICS, NodeSample, PodSample, stamp
from workload_generator.kube.resources import Object

Key = tuple[str, str, str]
"""Namespace, pod and container; a node is `("", name, "")`."""

_KEPT_TICKS = 60
_UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Allocatable:
    """What a node has for pods."""

    millicores: float
    memory_bytes: int


@dataclass(slots=True)
class Latest:
    """The last sample of one node or container."""

    sample: str
    tick: int
    node: str
    millicores: float
    memory_bytes: int
    counter_ns: int | None = None  # the kubelet's count of CPU time


@dataclass(slots=True)
class Seen:
    """What was seen of one source; forgets what has not been there for a while."""

    tick: int = 0
    known: dict[Key, Latest] = field(default_factory=dict)
    stored: dict[Key, str] = field(default_factory=dict)
    """Times of the last samples that an earlier `top` has stored in the same place."""

    def begin(self) -> None:
        """The next tick."""
        self.tick += 1
        if self.tick % _KEPT_TICKS == 0:
            self.stored.clear()
            for key in [key for key, latest in self.known.items() if latest.tick < self.tick - _KEPT_TICKS]:
                del self.known[key]

    def is_new(self, key: Key, latest: Latest) -> bool:
        """Note it; whether it was not there before."""
        before = self.known.get(key)
        self.known[key] = latest
        return latest.sample != (before.sample if before else self.stored.get(key))

    def present(self) -> dict[Key, Latest]:
        """Those of the last tick but one, or later."""
        return {key: latest for key, latest in self.known.items() if latest.tick >= self.tick - 1}


@dataclass(slots=True)
class Reading:
    """The rows of one answer, and what of it could not be read."""

    nodes: list[NodeSample] = field(default_factory=list)
    pods: list[PodSample] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the cluster beside its usage: nodes by name, and where each pod (namespace, name) runs."""

    nodes: Mapping[str, Allocatable]
    places: Mapping[tuple[str, str], str]
    ignored: frozenset[str] = frozenset()


def read_allocatable(node: Object) -> Allocatable:
    """Of a Node. Raises ValueError or KeyError."""
    allocatable = node["status"]["allocatable"]
    return Allocatable(millicores(str(allocatable["cpu"])), whole_bytes(str(allocatable["memory"])))


def read_node_metrics(items: Iterable[Object], around: Surroundings, seen: Seen, now: str) -> Reading:
    """Rows of metrics.k8s.io's NodeMetrics, read at `now`."""
    reading = Reading()
    for item in items:
        try:
            name, usage = item["metadata"]["name"], item["usage"]
            cpu, memory = millicores(usage["cpu"]), whole_bytes(usage["memory"])
            at, window_s = _sample(item)
        except _UNREADABLE as error:
            reading.unreadable.append(_complaint(item, error))
            continue
        if seen.is_new(("", name, ""), Latest(at, seen.tick, name, cpu, memory)):
            shares = _shares(cpu, memory, around.nodes.get(name))
            reading.nodes.append(
                NodeSample(name, usage["cpu"], usage["memory"], *shares, now, cpu, memory, at, window_s, METRICS)
            )
    return reading


def read_pod_metrics(items: Iterable[Object], around: Surroundings, seen: Seen, now: str) -> Reading:
    """Rows of metrics.k8s.io's PodMetrics, one a container, read at `now`."""
    reading = Reading()
    for item in items:
        try:
            about = item["metadata"]
            name, namespace = about["name"], about["namespace"]
            if namespace in around.ignored:
                continue
            at, window_s = _sample(item)
            used = [
                (each["name"], each["usage"], millicores(each["usage"]["cpu"]), whole_bytes(each["usage"]["memory"]))
                for each in item["containers"]
            ]
        except _UNREADABLE as error:
            reading.unreadable.append(_complaint(item, error))
            continue
        node = around.places.get((namespace, name))
        has = around.nodes.get(node) if node else None
        for container, usage, cpu, memory in used:
            if seen.is_new((namespace, name, container), Latest(at, seen.tick, node or "", cpu, memory)):
                row = PodSample(
                    name, node, container, usage["cpu"], usage["memory"], *_shares(cpu, memory, has), now,
                    namespace, cpu, memory, at, window_s, METRICS,
                )  # fmt: skip
                reading.pods.append(row)
    return reading


def read_summary(
    summary: Object,
    around: Surroundings,
    seen: Seen,
    now: str,
    *,
    nodes: bool = True,
    pods: bool = True,
    namespaces: frozenset[str] = frozenset(),
) -> Reading:
    """Rows of a kubelet's `/stats/summary`, read at `now`; of these `namespaces` only, unless there are none.

    The usage is the kubelet's own `usageNanoCores`; the window is what lies between this sample and the one before it.
    Source: https://kubernetes.io/docs/reference/config-api/kubelet-stats.v1alpha1/
    """
    reading = Reading()
    name = str(summary["node"]["nodeName"])
    has = around.nodes.get(name)

    def measure(stats: Object, key: Key) -> tuple[_Measured, tuple[float | None, float | None]] | None:
        try:
            found = _stats(stats, key, name, seen)
        except _UNREADABLE as error:
            reading.unreadable.append(f"{'/'.join(filter(None, key))}: {_why(error)}")
            return None
        return None if found is None else (found, _shares(found.latest.millicores, found.latest.memory_bytes, has))

    if nodes and (measured := measure(summary["node"], ("", name, ""))):
        own, shares = measured
        last = own.latest
        reading.nodes.append(
            NodeSample(
                name, own.cpu, own.memory, *shares, now, last.millicores, last.memory_bytes, last.sample,
                own.window_s, KUBELET,
            )
        )  # fmt: skip
    for pod in summary.get("pods") or () if pods else ():
        try:
            namespace, pod_name = pod["podRef"]["namespace"], pod["podRef"]["name"]
            containers = [(each["name"], each) for each in pod.get("containers") or ()]
        except _UNREADABLE as error:
            reading.unreadable.append(f"a pod of node {name}: {_why(error)}")
            continue
        if namespace in around.ignored or (namespaces and namespace not in namespaces):
            continue
        for container, stats in containers:
            if measured := measure(stats, (namespace, pod_name, container)):
                own, shares = measured
                last = own.latest
                reading.pods.append(
                    PodSample(
                        pod_name, name, container, own.cpu, own.memory, *shares, now, namespace, last.millicores,
                        last.memory_bytes, last.sample, own.window_s, KUBELET,
                    )
                )  # fmt: skip
    return reading


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a kubelet says of a node or container that is new."""

    cpu: str
    memory: str
    latest: Latest
    window_s: float | None


def _stats(stats: Object, key: Key, node: str, seen: Seen) -> _Measured | None:
    """None for what is not new; a container that has only just started has no usage yet, which is not new either."""
    cpu, memory = stats.get("cpu") or {}, stats.get("memory") or {}
    counter, nano = cpu.get("usageCoreNanoSeconds"), cpu.get("usageNanoCores")
    if "workingSetBytes" not in memory or (counter is None and nano is None):
        return None
    sample_ns = parse_rfc3339(cpu["time"])
    sample, before = stamp(sample_ns), seen.known.get(key)
    if before is not None and before.sample == sample:
        before.tick = seen.tick
        return None
    passed_s = (sample_ns - parse_rfc3339(before.sample)) / NS_PER_S if before else 0.0
    if nano is None and counter is not None and before and before.counter_ns is not None and passed_s > 0:
        used_ns = counter - before.counter_ns
        nano = round(used_ns / passed_s) if used_ns >= 0 else None  # else the container was started again
    used = int(memory["workingSetBytes"])
    latest = Latest(sample, seen.tick, node, (nano or 0) / 1_000_000, used, counter)
    new = seen.is_new(key, latest)
    if nano is None or not new:  # the first look at a counter says nothing yet
        return None
    return _Measured(f"{nano}n", _ki(used), latest, passed_s if passed_s > 0 else None)


def _sample(item: Object) -> tuple[str, float | None]:
    window = item.get("window")
    return _stamped(item["timestamp"]), parse_duration(window) / NS_PER_S if window else None


@functools.lru_cache(maxsize=1000)  # whole seconds, which thousands of pods share
def _stamped(text: str) -> str:
    return stamp(parse_rfc3339(text))


def _shares(cpu: float, memory: int, has: Allocatable | None) -> tuple[float | None, float | None]:
    """Fractions of what the node has."""
    if has is None:
        return None, None
    return (
        cpu / has.millicores if has.millicores else None,
        memory / has.memory_bytes if has.memory_bytes else None,
    )


def _ki(amount: int) -> str:
    """As the metrics server writes it, where that is exact."""
    return str(amount) if amount % 1024 else f"{amount // 1024}Ki"


def _complaint(item: Any, error: Exception) -> str:
    about = item.get("metadata") if isinstance(item, dict) else None
    name = about.get("name") if isinstance(about, dict) else None
    return f"{name or 'an item without a name'}: {_why(error)}"


def _why(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
