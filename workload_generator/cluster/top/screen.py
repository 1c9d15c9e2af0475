"""The display of `top`: nodes and the busiest pods, as in `kubectl top`, and the progress of the recording."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.base.terminal import terminal_table
from workload_generator.base.usage_tables import KUBELET, METRICS
from workload_generator.cluster.top.polling import SourcePoller
from workload_generator.cluster.top.row_recorder import Counts
from workload_generator.cluster.top.usage import Allocatable, LastSample, SampleHistory, SampleKey

_MIB = 2**20
_ROWS = 15


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The usage of a node or a pod."""

    name: str
    node: str
    millicores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class UsageView:
    """What is shown; `age_s` is the age of the newest sample, or None if there are no samples."""

    nodes: list[UsageLine]
    pods: list[UsageLine]
    pod_count: int
    age_s: float | None


def view_usage(histories: dict[str, SampleHistory], by: str, most: int = _ROWS) -> UsageView:
    """The busiest first, by `cpu` or `memory`. The kubelets' samples, if there are any, else the metrics API's."""
    samples: dict[SampleKey, LastSample] = {}
    for source in (METRICS, KUBELET):
        samples = (histories[source].present() if source in histories else {}) or samples
    pods: dict[tuple[str, str], UsageLine] = {}
    nodes: list[UsageLine] = []
    for (namespace, name, _), last in samples.items():
        if not namespace:
            nodes.append(UsageLine(name, "", last.usage.millicores, last.usage.memory_bytes))
            continue
        old = pods.get((namespace, name), UsageLine("", "", 0.0, 0))
        millicores, memory_bytes = old.millicores + last.usage.millicores, old.memory_bytes + last.usage.memory_bytes
        pods[namespace, name] = UsageLine(f"{namespace}/{name}", last.node, millicores, memory_bytes)

    def weight(line: UsageLine) -> tuple[float, str]:
        return (line.memory_bytes if by == "memory" else line.millicores), line.name

    return UsageView(
        nodes=sorted(nodes, key=weight, reverse=True),
        pods=heapq.nlargest(most, pods.values(), key=weight),
        pod_count=len(pods),
        age_s=_age_s(samples.values()),
    )


def draw(
    view: UsageView, counts: Counts, pollers: Iterable[SourcePoller], has: dict[str, Allocatable], height: int
) -> RenderableType:
    """Two tables and a status line, at most `height` lines."""
    rows = max(3, (height - 9) // 2)
    nodes = _table("node", [*view.nodes[:rows]], has, len(view.nodes))
    left = max(3, height - 9 - min(len(view.nodes), rows))
    pods = _table("pod", view.pods[:left], None, view.pod_count)
    return Group(nodes, pods, Text(status(view, counts, pollers)))


def status(view: UsageView, counts: Counts, pollers: Iterable[SourcePoller]) -> str:
    """The progress of the recording, in a line."""
    late_s = max((poller.late_s for poller in pollers), default=0.0)
    age = f", newest sample {view.age_s:.0f} s old" if view.age_s is not None else ""
    gaps = f", {counts.gaps:,} gaps (last: {counts.last_gap[:100]})" if counts.gaps else ""
    return (
        f"stored: {counts.nodes:,} samples of nodes, {counts.pods:,} of pods, {counts.changes:,} changes; "
        f"ticks {late_s * 1000:.0f} ms late{age}{gaps}"
    )


def _table(what: str, lines: list[UsageLine], has: dict[str, Allocatable] | None, count: int) -> Table:
    name, cpu, memory = f"{what} ({len(lines)} of {count:,})", "CPU (millicores)", "memory (MiB)"
    if has is None:
        pods = ((line.name, line.node, f"{line.millicores:,.0f}", _mib(line)) for line in lines)
        return terminal_table((name, "on", cpu, memory), pods, texts=(0, 1), wrap=False)
    nodes = []
    for line in lines:
        own = has.get(line.name)
        cpu_share = f"{line.millicores / own.millicores:.0%}" if own and own.millicores else ""
        memory_share = f"{line.memory_bytes / own.memory_bytes:.0%}" if own and own.memory_bytes else ""
        nodes.append((line.name, f"{line.millicores:,.0f}", cpu_share, _mib(line), memory_share))
    return terminal_table((name, cpu, "%", memory, "%"), nodes, wrap=False)


def _mib(line: UsageLine) -> str:
    return f"{line.memory_bytes / _MIB:,.0f}"


def _age_s(latest: Iterable[LastSample]) -> float | None:
    newest = max((each.usage.sample for each in latest), default=None)
    return None if newest is None else max(0.0, (time.time_ns() - parse_rfc3339(newest)) / NS_PER_S)
