"""What `top` shows while it records: nodes and the busiest pods, as `kubectl top` does, and how the recording goes."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.base.usage_tables import KUBELET, METRICS
from workload_generator.cluster.top.polling import Poller
from workload_generator.cluster.top.recording import Counts
from workload_generator.cluster.top.usage import Allocatable, Latest, Seen

_MIB = 2**20
_ROWS = 15


@dataclass(frozen=True, slots=True)
class Line:
    """A node or a pod, and what it uses."""

    name: str
    node: str
    millicores: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is to show: the newest samples' age in seconds (None: there are none) with them."""

    nodes: list[Line]
    pods: list[Line]
    pod_count: int
    age_s: float | None


def look(seen: dict[str, Seen], by: str, most: int = _ROWS) -> Snapshot:
    """The busiest first, by `cpu` or `memory`. The kubelets' samples, where there are any."""
    present = next((there for name in (KUBELET, METRICS) if name in seen and (there := seen[name].present())), {})
    pods: dict[tuple[str, str], Line] = {}
    nodes: list[Line] = []
    for (namespace, name, _), latest in present.items():
        if not namespace:
            nodes.append(Line(name, "", latest.millicores, latest.memory_bytes))
            continue
        old = pods.get((namespace, name))
        cpu, memory = (old.millicores, old.memory_bytes) if old else (0.0, 0)
        whole = Line(f"{namespace}/{name}", latest.node, cpu + latest.millicores, memory + latest.memory_bytes)
        pods[namespace, name] = whole

    def weight(line: Line) -> tuple[float, str]:
        return (line.memory_bytes if by == "memory" else line.millicores), line.name

    return Snapshot(
        nodes=sorted(nodes, key=weight, reverse=True),
        pods=heapq.nlargest(most, pods.values(), key=weight),
        pod_count=len(pods),
        age_s=_age_s(present.values()),
    )


def draw(
    now: Snapshot, counts: Counts, pollers: Iterable[Poller], has: dict[str, Allocatable], height: int
) -> RenderableType:
    """Two tables and a line; they fit into `height` lines."""
    rows = max(3, (height - 9) // 2)
    nodes = _table("node", [*now.nodes[:rows]], has, len(now.nodes))
    left = max(3, height - 9 - min(len(now.nodes), rows))
    pods = _table("pod", now.pods[:left], None, now.pod_count)
    return Group(nodes, pods, Text(status(now, counts, pollers)))


def status(now: Snapshot, counts: Counts, pollers: Iterable[Poller]) -> str:
    """How the recording goes, in a line."""
    late_s = max((poller.late_s for poller in pollers), default=0.0)
    age = f", newest sample {now.age_s:.0f} s old" if now.age_s is not None else ""
    gaps = f", {counts.gaps:,} gaps (last: {counts.last_gap[:100]})" if counts.gaps else ""
    return (
        f"stored: {counts.nodes:,} samples of nodes, {counts.pods:,} of pods, {counts.changes:,} changes; "
        f"ticks {late_s * 1000:.0f} ms late{age}{gaps}"
    )


def _table(what: str, lines: list[Line], has: dict[str, Allocatable] | None, count: int) -> Table:
    table = Table(box=None, pad_edge=False, expand=False)
    table.add_column(f"{what} ({len(lines)} of {count:,})", overflow="ellipsis", no_wrap=True)
    if has is None:
        table.add_column("on", overflow="ellipsis", no_wrap=True)
    table.add_column("CPU (millicores)", justify="right", no_wrap=True)
    if has is not None:
        table.add_column("%", justify="right")
    table.add_column("memory (MiB)", justify="right", no_wrap=True)
    if has is not None:
        table.add_column("%", justify="right")
    for line in lines:
        cpu, memory = f"{line.millicores:,.0f}", f"{line.memory_bytes / _MIB:,.0f}"
        if has is None:
            table.add_row(line.name, line.node, cpu, memory)
        else:
            own = has.get(line.name)
            table.add_row(
                line.name,
                cpu,
                f"{line.millicores / own.millicores:.0%}" if own and own.millicores else "",
                memory,
                f"{line.memory_bytes / own.memory_bytes:.0%}" if own and own.memory_bytes else "",
            )
    return table


def _age_s(latest: Iterable[Latest]) -> float | None:
    newest = max((each.sample for each in latest), default=None)
    return None if newest is None else max(0.0, (time.time_ns() - parse_rfc3339(newest)) / NS_PER_S)
