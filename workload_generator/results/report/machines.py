"""Nodes and pods while a run went on: the tables `node_metrics` and `pod_metrics`, when they are there.

Rules:
- a reading stands at its sample's own time, where it is known, else at the time of the poll
- where both sources were polled, only the kubelets' readings are shown: they are the finer ones
- a pod that was not read in one or two polls, and was before and after, was there: it has its last reading
- the busiest have a line of their own, the others one together

`cpu_usage` is cores as Kubernetes writes them (`183632734n`, `250m`, `2`), `memory_usage` bytes (`2663656Ki`, `1Gi`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workload_generator.base.quantities import parse_quantity
from workload_generator.base.usage_tables import KUBELET
from workload_generator.results.database import Store, columns_of
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.samples import RunData
from workload_generator.results.report.scan import batches, known, wall_us

_REVISION = re.compile(r"(.+)-[0-9]{5}-deployment-[0-9a-z]+-[0-9a-z]+")
_REPLICA = re.compile(r"(.+?)(?:-[0-9a-f]{6,10})?-[0-9a-z]{5}")
MARGIN_S = 30.0
"""What is shown before and after a run."""
POINTS = 240
"""Of a line, at most."""
_MIB = 2.0**20
_MOST = 8  # the colours that there are
_BRIDGED = 3

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Usage:
    """What was measured of nodes or pods at all times, in their order: parallel columns.

    `member` numbers containers (or nodes), `pod_of` says which pod (or node) a member belongs to, `group_of` which
    service, node or other owner a pod belongs to; `groups` are their names.
    """

    subject: str
    at_ms: Values
    member: Codes
    by_kubelet: NDArray[np.bool_]
    cores: Values
    mib: Values
    pod_of: Codes
    group_of: Codes
    groups: list[str]


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


def usage_sql(columns: set[str], table: str) -> str:
    """The query for all readings of a table that has these columns: theirs, ours, or the original's."""

    def own(name: str, otherwise: str = "NULL") -> str:
        return name if name in columns else otherwise

    pods = table == "pod_metrics"
    at = "coalesce(sample_timestamp, timestamp)" if "sample_timestamp" in columns else "timestamp"
    return (
        f"SELECT {at} AS at, {own('namespace') if pods else 'NULL'} AS namespace, "
        f"{'pod_name' if pods else 'node_name'} AS name, {own('container_name') if pods else 'NULL'} AS part, "
        f"{own('source')} AS source, cpu_usage, memory_usage, {own('cpu_millicores')} AS cpu_millicores, "
        f"{own('memory_bytes')} AS memory_bytes FROM {table}"
    )


def read_usage(store: Store, table: str) -> Usage | None:
    """All rows of `node_metrics` or `pod_metrics`; None when there are none."""
    columns = set(columns_of(store, table))
    if not {"timestamp", "cpu_usage", "memory_usage"} <= columns:
        return None
    members: dict[tuple[str | None, str, str | None], int] = {}
    times: list[NDArray[np.int64]] = []
    codes: list[Codes] = []
    sources: list[NDArray[np.bool_]] = []
    cores: list[Values] = []
    mib: list[Values] = []
    for rows in batches(store, usage_sql(columns, table), {}):
        at, namespace, name, part, source, cpu, memory, millicores, size = zip(*rows, strict=True)
        times.append(wall_us(at))
        codes.append(
            np.array([members.setdefault(key, len(members)) for key in zip(namespace, name, part, strict=True)])
        )
        sources.append(np.array([each == KUBELET for each in source]))
        cores.append(_numbers(millicores, 1000, cpu))
        mib.append(_numbers(size, 1, memory) / _MIB)
    if not times:
        return None
    at_us = np.concatenate(times)
    order = np.argsort(at_us, kind="stable")
    order = order[known(at_us)[order]]
    pods = _numbered([(namespace, str(name)) for namespace, name, _ in members])
    is_pods = table == "pod_metrics"
    owners = [(namespace, service_of(name) if is_pods else name) for namespace, name in pods]
    groups = _numbered(owners)
    return Usage(
        subject="pods" if is_pods else "nodes",
        at_ms=at_us[order] / 1000,
        member=np.concatenate(codes)[order],
        by_kubelet=np.concatenate(sources)[order],
        cores=np.concatenate(cores)[order],
        mib=np.concatenate(mib)[order],
        pod_of=np.array([pods[namespace, str(name)] for namespace, name, _ in members]),
        group_of=np.array([groups[owner] for owner in owners]),
        groups=_names(list(groups)),
    )


def service_of(pod: str) -> str:
    """The service or deployment that a pod belongs to, by its name."""
    match = _REVISION.fullmatch(pod) or _REPLICA.fullmatch(pod)
    return match[1] if match else pod


def window_of(data: RunData) -> tuple[float, float]:
    """What is shown of a run, in seconds since its measure phase began: from a little before it to a little after."""
    first = min([0.0, *(float(each.start_s.min()) for each in data.timelines if len(each.start_s))])
    return first - MARGIN_S, data.length_s + MARGIN_S


def lines_of(data: RunData, nodes: Usage | None, pods: Usage | None) -> list[Line]:
    """What lies under the latency of one run."""
    lines: list[Line] = []
    if data.start_ms is None:
        return lines
    first, last = window_of(data)
    for usage in (pods, nodes):
        if usage is None:
            continue
        begin = np.searchsorted(usage.at_ms, data.start_ms + first * 1000, side="left")
        inside = np.arange(begin, np.searchsorted(usage.at_ms, data.start_ms + last * 1000, side="right"))
        if (kubelets := usage.by_kubelet[inside]).any():
            inside = inside[kubelets]
        at_s = (usage.at_ms[inside] - data.start_ms) / 1000
        if ((at_s >= 0) & (at_s <= data.length_s)).any():
            lines += _lines(usage, inside, at_s, last - first)
    return lines


def _lines(usage: Usage, inside: Codes, at_s: Values, length_s: float) -> list[Line]:
    member = usage.member[inside]
    width = max(_poll_s(at_s, member), length_s / POINTS)
    slot = np.round(at_s / width).astype(np.int64)
    first = int(slot.min())
    slot -= first
    count = int(slot.max()) + 1
    cell, place = np.unique(member * count + slot, return_inverse=True)  # a member's readings in a slot are one
    readings = np.bincount(place)
    sums: list[Values] = [
        np.bincount(place, weights=np.nan_to_num(values[inside])) / readings for values in (usage.cores, usage.mib)
    ]
    cell, cores, mib = _bridged(cell, count, *sums)
    member, slot = cell // count, cell % count
    pod = usage.pod_of[member]
    group, busiest, others = _chosen(usage.group_of[pod], cores)
    names = [usage.groups[index] for index in busiest] + ([f"{others} others together"] if others else [])
    pods_seen = np.unique(pod * count + slot)
    rank = np.full(len(usage.groups), len(busiest))
    rank[busiest] = np.arange(len(busiest))
    seen_group = rank[usage.group_of[pods_seen // count]] * count + pods_seen % count
    size = len(names) * count
    at = group * count + slot
    totals: dict[str, Values] = {
        f"CPU of {usage.subject} (cores)": np.bincount(at, weights=cores, minlength=size).astype(np.float64),
        f"memory of {usage.subject} (MiB)": np.bincount(at, weights=mib, minlength=size).astype(np.float64),
    }
    replicas = np.bincount(seen_group, minlength=size).astype(np.float64)
    if usage.subject == "pods":
        totals["replicas"] = replicas
    lines = []
    for index, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        there = np.flatnonzero(replicas[index * count : (index + 1) * count])
        when: Values = (there + first) * np.float64(width)
        lines += [Line(metric, name, when, values[index * count + there]) for metric, values in totals.items()]
    return lines


def _chosen(group: Codes, cores: Values) -> tuple[Codes, list[int], int]:
    """Each reading's place among the busiest groups (behind them: the others), those groups, and how many others."""
    present = np.unique(group)
    used = np.bincount(group, weights=cores)
    busiest = present if len(present) <= _MOST else present[np.argsort(-used[present], kind="stable")[: _MOST - 1]]
    rank = np.full(int(present.max()) + 1, len(busiest))
    rank[busiest] = np.arange(len(busiest))
    return rank[group], busiest.tolist(), len(present) - len(busiest)


def _bridged(cell: Codes, count: int, *values: Values) -> tuple[Codes, Values, Values]:
    """With the last reading in the slots that lie between two readings of a member, when they are few."""
    gap = np.diff(cell)
    short = (gap > 1) & (gap <= _BRIDGED) & (cell[1:] // count == cell[:-1] // count)
    missing = np.where(short, gap - 1, 0)
    source = np.repeat(np.arange(len(missing)), missing)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    cores, mib = (np.concatenate([each, each[source]]) for each in values)
    return np.concatenate([cell, cell[source] + offset]), cores, mib


def _poll_s(at_s: Values, member: Codes) -> float:
    """How far the readings of one node or container usually lie apart."""
    own = np.unique(at_s[member == np.bincount(member).argmax()])
    gaps = np.diff(own)
    gaps = gaps[gaps > 0.5]
    return float(max(1.0, round(float(np.median(gaps))))) if len(gaps) else 5.0


def _numbers(numbers: Sequence[object], unit: int, texts: Sequence[object]) -> Values:
    """The numbers in that unit, and where there is none, what its text stands for."""
    found = np.array(numbers, dtype=np.float64) / unit
    for index in np.flatnonzero(np.isnan(found)).tolist():
        found[index] = quantity(texts[index])
    return found


def _numbered(keys: Sequence[tuple[str | None, str]]) -> dict[tuple[str | None, str], int]:
    """Each key once, with its place."""
    return {key: index for index, key in enumerate(dict.fromkeys(keys))}


def _names(owners: list[tuple[str | None, str]]) -> list[str]:
    """With the namespace, where two have the same name."""
    names = [name for _, name in owners]
    double = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return [f"{namespace}/{name}" if name in double and namespace else name for namespace, name in owners]
