"""Samples of usage from the API, converted to rows: no I/O, no clocks.

Rules:
- a sample that is already stored (same node or container, same time of its own) gives no row
- an item that cannot be parsed is left out and counted; the others are kept
- percentages are NULL for a node that is not known
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from workload_generator.base.clock import NS_PER_S, parse_duration, parse_rfc3339
from workload_generator.base.quantities import millicores, whole_bytes
from workload_generator.base.usage_tables import KUBELET, METRICS, NodeSample, PodSample, stamp
from workload_generator.kube.resources import Object

SampleKey = tuple[str, str, str]
"""Namespace, pod and container; `("", name, "")` for a node."""

_KEPT_TICKS = 60
_UNREADABLE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Allocatable:
    """What a node has for pods."""

    millicores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the cluster to record. No `namespaces` means all."""

    nodes: bool = True
    pods: bool = True
    namespaces: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()

    def covers(self, namespace: str) -> bool:
        """Whether the pods of this namespace are recorded."""
        return namespace not in self.ignored and (not self.namespaces or namespace in self.namespaces)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What the watches know: nodes by name, and the node of each pod (namespace, name). They keep changing."""

    nodes: dict[str, Allocatable] = field(default_factory=dict)
    pods: dict[tuple[str, str], str] = field(default_factory=dict)
    scope: Scope = Scope()


class Measured(NamedTuple):
    """The usage in a sample, as text and as numbers; its time, and its window in seconds."""

    cpu: str
    memory: str
    millicores: float
    memory_bytes: int
    sample: str
    window_s: float | None


@dataclass(slots=True)
class LastSample:
    """The newest sample of a node or container."""

    usage: Measured
    tick: int
    node: str
    counter_ns: int | None = None
    """The kubelet's counter of CPU time."""


@dataclass(slots=True)
class SampleHistory:
    """The newest samples of one source; those of deleted pods and nodes are dropped after a while."""

    tick: int = 0
    known: dict[SampleKey, LastSample] = field(default_factory=dict)
    stored: dict[SampleKey, str] = field(default_factory=dict)
    """Times of the newest samples that an earlier `top` stored in the same place."""

    def begin(self) -> None:
        """Start the next tick."""
        self.tick += 1
        if self.tick % _KEPT_TICKS == 0:
            self.stored.clear()
            for key in [key for key, last in self.known.items() if last.tick < self.tick - _KEPT_TICKS]:
                del self.known[key]

    def is_new(self, key: SampleKey, last: LastSample) -> bool:
        """Add the sample; False if it was known already."""
        before = self.known.get(key)
        self.known[key] = last
        return last.usage.sample != (before.usage.sample if before else self.stored.get(key))

    def present(self) -> dict[SampleKey, LastSample]:
        """The samples of this tick and the previous one."""
        return {key: last for key, last in self.known.items() if last.tick >= self.tick - 1}


@dataclass(slots=True)
class Reading:
    """The rows of one response, and a message for each part that could not be parsed."""

    view: ClusterView
    history: SampleHistory
    now: str
    source: str
    nodes: list[NodeSample] = field(default_factory=list)
    pods: list[PodSample] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, key: SampleKey, node: str | None, usage: Measured, counter_ns: int | None = None) -> None:
        """Note the sample, and make a row of it if it is new and complete."""
        cpu, memory, used, used_bytes, sample, window_s = usage
        last = LastSample(usage, self.history.tick, node or "", counter_ns)
        if not self.history.is_new(key, last) or not cpu:
            return
        has = self.view.nodes.get(node) if node else None
        cpu_share = used / has.millicores if has and has.millicores else None
        memory_share = used_bytes / has.memory_bytes if has and has.memory_bytes else None
        namespace, name, container = key
        shown = (cpu, memory, cpu_share, memory_share, self.now)
        numbers = (used, used_bytes, sample, window_s, self.source)
        if namespace:
            self.pods.append(PodSample(name, node, container, *shown, namespace, *numbers))
        else:
            self.nodes.append(NodeSample(name, *shown, *numbers))

    def skip(self, name: str, error: Exception) -> None:
        """Note that `name` could not be parsed."""
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        self.unreadable.append(f"{name}: {reason}")


def read_allocatable(node: Object) -> Allocatable:
    """The allocatable resources of a Node. Raises ValueError or KeyError."""
    allocatable = node["status"]["allocatable"]
    return Allocatable(millicores(str(allocatable["cpu"])), whole_bytes(str(allocatable["memory"])))


def read_metrics(items: Iterable[Object], view: ClusterView, history: SampleHistory, now: str) -> Reading:
    """Rows of NodeMetrics and PodMetrics of metrics.k8s.io, one for each node or container, read at `now`."""
    reading = Reading(view, history, now, METRICS)
    for item in items:
        try:
            namespace, name = item["metadata"].get("namespace", ""), item["metadata"]["name"]
            if namespace and not view.scope.covers(namespace):
                continue
            containers = item["containers"] if namespace else [{"name": "", "usage": item["usage"]}]
            time = _time(item)
            usages = [(each["name"], _usage(each["usage"], *time)) for each in containers]
        except _UNREADABLE as error:
            reading.skip(_name(item), error)
            continue
        node = view.pods.get((namespace, name)) if namespace else name
        for container, usage in usages:
            reading.add((namespace, name, container), node, usage)
    return reading


def read_summary(body: bytes, view: ClusterView, history: SampleHistory, now: str) -> Reading:
    """Rows of a kubelet's `/stats/summary`, read at `now`.

    The CPU usage is the kubelet's `usageNanoCores`; the window is the time since the previous sample.
    Source: https://kubernetes.io/docs/reference/config-api/kubelet-stats.v1alpha1/
    """
    reading = Reading(view, history, now, KUBELET)
    try:
        summary = orjson.loads(body)
        node, pods = str(summary["node"]["nodeName"]), summary.get("pods") or ()
    except _UNREADABLE as error:
        reading.skip("the summary", error)
        return reading
    if view.scope.nodes:
        _read_stats(reading, ("", node, ""), node, summary["node"])
    for pod in pods if view.scope.pods else ():
        try:
            namespace, name = pod["podRef"]["namespace"], pod["podRef"]["name"]
            containers = [(each["name"], each) for each in pod.get("containers") or ()]
        except _UNREADABLE as error:
            reading.skip(f"a pod of node {node}", error)
            continue
        for container, stats in containers if view.scope.covers(namespace) else ():
            _read_stats(reading, (namespace, name, container), node, stats)
    return reading


def _read_stats(reading: Reading, key: SampleKey, node: str, stats: Object) -> None:
    before = reading.history.known.get(key)
    try:
        usage, counter = _kubelet_usage(stats, before)
    except _UNREADABLE as error:
        reading.skip("/".join(filter(None, key)), error)
        return
    if usage is None:
        return
    if before is not None and before.usage.sample == usage.sample:
        before.tick = reading.history.tick
    else:
        reading.add(key, node, usage, counter)


def _kubelet_usage(stats: Object, before: LastSample | None) -> tuple[Measured | None, int | None]:
    """The usage and the counter of CPU time; no usage of a container that has just started."""
    cpu, memory = stats.get("cpu") or {}, stats.get("memory") or {}
    counter, nano = cpu.get("usageCoreNanoSeconds"), cpu.get("usageNanoCores")
    if "workingSetBytes" not in memory or (counter is None and nano is None):
        return None, counter
    sample_ns = parse_rfc3339(cpu["time"])
    passed_s = (sample_ns - parse_rfc3339(before.usage.sample)) / NS_PER_S if before else 0.0
    if nano is None and counter is not None and before and before.counter_ns is not None and passed_s > 0:
        used_ns = counter - before.counter_ns
        nano = round(used_ns / passed_s) if used_ns >= 0 else None  # below zero: the container was restarted
    used = int(memory["workingSetBytes"])
    text = "" if nano is None else f"{nano}n"  # the first value of a counter gives no usage
    window_s = passed_s if passed_s > 0 else None
    return Measured(text, _ki(used), (nano or 0) / 1_000_000, used, stamp(sample_ns), window_s), counter


def _usage(usage: Object, sample: str, window_s: float | None) -> Measured:
    cpu, memory = usage["cpu"], usage["memory"]
    return Measured(cpu, memory, millicores(cpu), whole_bytes(memory), sample, window_s)


def _time(item: Object) -> tuple[str, float | None]:
    window = item.get("window")
    return _stamped(item["timestamp"]), parse_duration(window) / NS_PER_S if window else None


@functools.lru_cache(maxsize=1000)  # whole seconds, which thousands of pods share
def _stamped(text: str) -> str:
    return stamp(parse_rfc3339(text))


def _ki(amount: int) -> str:
    """As the metrics server writes it, where that is exact."""
    return str(amount) if amount % 1024 else f"{amount // 1024}Ki"


def _name(item: Any) -> str:
    about = item.get("metadata") if isinstance(item, dict) else None
    name = about.get("name") if isinstance(about, dict) else None
    return name or "an item without a name"
