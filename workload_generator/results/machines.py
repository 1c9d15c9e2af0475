"""Nodes and pods while a run went on: the tables `node_metrics` and `pod_metrics`, when they are there.

`cpu_usage` is cores as Kubernetes writes them (`183632734n`, `250m`, `2`), `memory_usage` bytes (`2663656Ki`, `1Gi`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workload_generator.quantities import parse_quantity
from workload_generator.results.intervals import Values
from workload_generator.results.samples import RunData
from workload_generator.results.scan import batches, known, wall_us
from workload_generator.results.store import Store

NODES_SQL = "SELECT timestamp, node_name AS name, '' AS part, cpu_usage, memory_usage FROM node_metrics"
PODS_SQL = (
    "SELECT timestamp, pod_name AS name, coalesce(container_name, '') AS part, cpu_usage, memory_usage FROM pod_metrics"
)

_REVISION = re.compile(r"(.+)-[0-9]{5}-deployment-[0-9a-z]+-[0-9a-z]+")
_REPLICA = re.compile(r"(.+?)(?:-[0-9a-f]{6,10})?-[0-9a-z]{5}")
_MARGIN_S = 30.0
_MIB = 2.0**20
_POINTS = 240


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured of nodes or pods at all times: parallel columns."""

    at_ms: Values
    name: list[str]
    part: list[str]  # the container of a pod; a pod is the sum of them
    cores: Values
    mib: Values


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a picture: `metric` (with its unit) of `name`, at seconds since the start of the measure phase."""

    metric: str
    name: str
    at_s: Values
    value: Values


def quantity(text: object) -> float:
    """A quantity of Kubernetes as a number; NaN for anything else."""
    try:
        return float(parse_quantity(str(text)))
    except ValueError:
        return float("nan")


def read_usage(store: Store, table: str) -> Usage | None:
    """All rows of `node_metrics` or `pod_metrics`; None when there are none."""
    columns = {row["name"] for row in store.execute(f"PRAGMA table_info({table})")}
    sql = NODES_SQL if table == "node_metrics" else PODS_SQL
    if not {"timestamp", "cpu_usage", "memory_usage"} <= columns:
        return None
    times: list[NDArray[np.int64]] = []
    names: list[str] = []
    parts: list[str] = []
    cores: list[float] = []
    mib: list[float] = []
    for rows in batches(store, sql, {}):
        at, name, part, cpu, memory = zip(*rows, strict=True)
        times.append(wall_us(at))
        names += [str(each) for each in name]
        parts += part
        cores += map(quantity, cpu)
        mib += [quantity(each) / _MIB for each in memory]
    if not times:
        return None
    at_us = np.concatenate(times)
    there = known(at_us)
    return Usage(
        at_ms=np.where(there, at_us / 1000, np.nan),
        name=names,
        part=parts,
        cores=np.array(cores),
        mib=np.array(mib),
    )


def service_of(pod: str) -> str:
    """The service or deployment that a pod belongs to, by its name."""
    match = _REVISION.fullmatch(pod) or _REPLICA.fullmatch(pod)
    return match[1] if match else pod


def lines_of(data: RunData, nodes: Usage | None, pods: Usage | None) -> list[Line]:
    """What lies under the latency of one run, from a little before it to a little after."""
    lines: list[Line] = []
    if data.start_ms is None:
        return lines
    first = min([0.0, *(float(each.start_s.min()) for each in data.timelines if len(each.start_s))]) - _MARGIN_S
    last = data.length_s + _MARGIN_S
    for usage, of, subject in ((pods, service_of, "pods"), (nodes, str, "nodes")):
        if usage is None:
            continue
        at_s = (usage.at_ms - data.start_ms) / 1000
        inside = np.flatnonzero((at_s >= first) & (at_s <= last))
        if ((at_s >= 0) & (at_s <= data.length_s)).any():
            lines += _lines(usage, inside, at_s[inside], of, subject)
    return lines


def _lines(usage: Usage, inside: NDArray[np.intp], at_s: Values, of: Callable[[str], str], subject: str) -> list[Line]:
    names = [usage.name[index] for index in inside]
    parts = [usage.part[index] for index in inside]
    groups = [of(name) for name in names]
    width = _poll_s(at_s, names)
    slot = np.round(at_s / width).astype(np.int64)
    lines = []
    for group in sorted(set(groups)):
        mine = np.array([each == group for each in groups])
        slots = np.unique(slot[mine])
        cpu, memory, replicas = (np.zeros(len(slots)) for _ in range(3))
        members = sorted({(name, part) for name, part, each in zip(names, parts, groups, strict=True) if each == group})
        seen_pods: dict[str, NDArray[np.bool_]] = {}
        for name, part in members:
            own = mine & np.array([(name, part) == each for each in zip(names, parts, strict=True)])
            index = np.searchsorted(slots, slot[own])
            counts = np.bincount(index, minlength=len(slots))
            seen = counts > 0
            for total, values in ((cpu, usage.cores), (memory, usage.mib)):
                sums = np.bincount(index, weights=np.nan_to_num(values[inside][own]), minlength=len(slots))
                total[seen] += sums[seen] / counts[seen]
            seen_pods[name] = seen_pods.get(name, np.zeros(len(slots), dtype=np.bool_)) | seen
        for seen in seen_pods.values():
            replicas += seen
        keep = slice(None, None, max(1, len(slots) // _POINTS))
        at = slots[keep] * width
        lines.append(Line(f"CPU of {subject} (cores)", group, at, cpu[keep]))
        lines.append(Line(f"memory of {subject} (MiB)", group, at, memory[keep]))
        if subject == "pods":
            lines.append(Line("replicas", group, at, replicas[keep]))
    return lines


def _poll_s(at_s: Values, names: Sequence[str]) -> float:
    """How far the readings of one node or pod usually lie apart."""
    name = max(set(names), key=names.count)
    own = np.unique(at_s[np.array([each == name for each in names])])
    gaps = np.diff(own)
    gaps = gaps[gaps > 0.5]
    return float(max(1.0, round(float(np.median(gaps))))) if len(gaps) else 5.0
