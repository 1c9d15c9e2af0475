"""The section "Cluster": nodes and pods during a run, from the tables `node_metrics` and `pod_metrics`.

Rules:
- the time of a reading is that of its sample, or, where that is unknown, that of the poll
- where both sources were polled, only the kubelets' readings are shown: they are the finer ones
- a pod that is missing in one or two polls, but present before and after, keeps its last reading
- the busiest groups have a series each, the others one together

`cpu_usage` is cores as Kubernetes writes them (`183632734n`, `250m`, `2`), `memory_usage` bytes (`2663656Ki`, `1Gi`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workload_generator.base.quantities import parse_quantity
from workload_generator.base.usage_tables import KUBELET
from workload_generator.results.database import Store, columns_of
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.request_rows import batches, known, wall_us
from workload_generator.results.report.runs import RUN_COLUMNS
from workload_generator.results.report.samples import RunData
from workload_generator.results.report.table import NUMBER, TEXT, Table

_REVISION = re.compile(r"(.+)-[0-9]{5}-deployment-[0-9a-z]+-[0-9a-z]+")
_REPLICA = re.compile(r"(.+?)(?:-[0-9a-f]{6,10})?-[0-9a-z]{5}")
MARGIN_S = 30.0
"""The time shown before and after a run."""
POINTS = 240
"""The most points of a series."""
_MIB = 2.0**20
_MOST = 8  # the number of colours
_BRIDGED = 3

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Usage:
    """All readings of nodes or pods by time, as parallel columns.

    `member` is the number of a container (or node), `pod_of` the number of each member's pod (or node), `group_of` the
    number of each pod's service, other owner or node; `groups` are the names of the latter.
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
class TimeSeries:
    """One line of a chart: `metric` (with its unit) of `name`, at seconds since the start of the measure phase."""

    metric: str
    name: str
    at_s: Values
    value: Values


def quantity(text: object) -> float:
    """A Kubernetes quantity as a number; NaN when it is invalid."""
    try:
        return float(parse_quantity(str(text)))
    except ValueError:
        return float("nan")


def usage_sql(present: set[str], table: str) -> str:
    """The query for all readings of a table that has these columns; those of other programs have fewer."""

    def own(name: str) -> str:
        return name if name in present else "NULL"

    name, namespace, part = (
        ("pod_name", own("namespace"), own("container_name"))
        if table == "pod_metrics"
        else ("node_name", "NULL", "NULL")
    )
    return (
        f"SELECT coalesce({own('sample_timestamp')}, timestamp) AS at, {namespace} AS namespace, {name} AS name, "
        f"{part} AS part, {own('source')} AS source, cpu_usage, memory_usage, "
        f"{own('cpu_millicores')} AS cpu_millicores, {own('memory_bytes')} AS memory_bytes FROM {table}"
    )


def read_usage(store: Store, table: str) -> Usage | None:
    """All readings of `node_metrics` or `pod_metrics`; None when there are none."""
    present = set(columns_of(store, table))
    if not {"timestamp", "cpu_usage", "memory_usage"} <= present:
        return None
    members: dict[tuple[str | None, str, str | None], int] = {}
    parts: list[tuple[NDArray[Any], ...]] = []
    for rows in batches(store, usage_sql(present, table), {}):
        at, namespace, name, part, source, cpu, memory, millicores, size = zip(*rows, strict=True)
        keys = zip(namespace, name, part, strict=True)
        parts.append(
            (
                wall_us(at),
                np.array([members.setdefault(key, len(members)) for key in keys]),
                np.array([each == KUBELET for each in source]),
                _numbers(millicores, 1000, cpu),
                _numbers(size, 1, memory) / _MIB,
            )
        )
    if not parts:
        return None
    at_us, member, by_kubelet, cores, mib = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(at_us, kind="stable")
    order = order[known(at_us)[order]]
    pods = _numbered([(namespace, str(name)) for namespace, name, _ in members])
    is_pods = table == "pod_metrics"
    owners = [(namespace, service_of(name) if is_pods else name) for namespace, name in pods]
    groups = _numbered(owners)
    return Usage(
        subject="pods" if is_pods else "nodes",
        at_ms=at_us[order] / 1000,
        member=member[order],
        by_kubelet=by_kubelet[order],
        cores=cores[order],
        mib=mib[order],
        pod_of=np.array([pods[namespace, str(name)] for namespace, name, _ in members]),
        group_of=np.array([groups[owner] for owner in owners]),
        groups=short_names(groups),
    )


def service_of(pod: str) -> str:
    """The service or deployment that a pod belongs to, by its name."""
    match = _REVISION.fullmatch(pod) or _REPLICA.fullmatch(pod)
    return match[1] if match else pod


def window_of(data: RunData) -> tuple[float, float]:
    """The time shown of a run, in seconds since the start of its measure phase: with `MARGIN_S` before and after."""
    first = min([0.0, *(float(each.start_s.min()) for each in data.timelines)])
    return first - MARGIN_S, data.length_s + MARGIN_S


def usage_series(data: RunData, nodes: Usage | None, pods: Usage | None) -> list[TimeSeries]:
    """Replicas, CPU and memory during one run."""
    series: list[TimeSeries] = []
    if data.start_ms is None:
        return series
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
            series += _series(usage, inside, at_s, last - first)
    return series


def _series(usage: Usage, inside: Codes, at_s: Values, length_s: float) -> list[TimeSeries]:
    member = usage.member[inside]
    width = max(_poll_s(at_s, member), length_s / POINTS)
    slot = np.round(at_s / width).astype(np.int64)
    first = int(slot.min())
    slot -= first
    count = int(slot.max()) + 1
    cell, place = np.unique(member * count + slot, return_inverse=True)  # readings of a member in one slot are averaged
    readings = np.bincount(place)
    sums: list[Values] = [
        np.bincount(place, weights=np.nan_to_num(values[inside])) / readings for values in (usage.cores, usage.mib)
    ]
    cell, cores, mib = _bridged(cell, count, *sums)
    member, slot = cell // count, cell % count
    pod = usage.pod_of[member]
    group = usage.group_of[pod]
    groups = np.unique(group)
    if len(groups) > _MOST:
        used = np.bincount(group, weights=cores)
        groups = groups[np.argsort(-used[groups], kind="stable")[: _MOST - 1]]
    others = len(np.unique(group)) - len(groups)
    names = [usage.groups[index] for index in groups.tolist()] + ([f"{others} others together"] if others else [])
    line_of = np.full(len(usage.groups), len(groups))  # the others have the last line
    line_of[groups] = np.arange(len(groups))
    at, size = line_of[group] * count + slot, len(names) * count
    pods = np.unique(pod * count + slot)
    pods_at = line_of[usage.group_of[pods // count]] * count + pods % count
    replicas = np.bincount(pods_at, minlength=size).astype(np.float64)
    totals: dict[str, Values] = {
        f"CPU of {usage.subject} (cores)": np.bincount(at, weights=cores, minlength=size).astype(np.float64),
        f"memory of {usage.subject} (MiB)": np.bincount(at, weights=mib, minlength=size).astype(np.float64),
    }
    if usage.subject == "pods":
        totals["replicas"] = replicas
    series = []
    for index, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        present = np.flatnonzero(replicas[index * count : (index + 1) * count])
        when: Values = (present + first) * np.float64(width)
        series += [TimeSeries(metric, name, when, values[index * count + present]) for metric, values in totals.items()]
    return series


def _bridged(cell: Codes, count: int, *values: Values) -> tuple[Codes, Values, Values]:
    """The readings, with short gaps between two readings of a member filled with the last one."""
    gap = np.diff(cell)
    short = (gap > 1) & (gap <= _BRIDGED) & (cell[1:] // count == cell[:-1] // count)
    missing = np.where(short, gap - 1, 0)
    source = np.repeat(np.arange(len(missing)), missing)
    offset = np.arange(len(source)) - np.repeat(np.cumsum(missing) - missing, missing) + 1
    cores, mib = (np.concatenate([each, each[source]]) for each in values)
    return np.concatenate([cell, cell[source] + offset]), cores, mib


def _poll_s(at_s: Values, member: Codes) -> float:
    """The usual time between two readings of one node or container."""
    own = np.unique(at_s[member == np.bincount(member).argmax()])
    gaps = np.diff(own)
    gaps = gaps[gaps > 0.5]
    return float(max(1.0, round(float(np.median(gaps))))) if len(gaps) else 5.0


def _numbers(numbers: Sequence[object], unit: int, texts: Sequence[object]) -> Values:
    """The numbers divided by `unit`; where there is none, its text parsed as a quantity."""
    values = np.array(numbers, dtype=np.float64) / unit
    for index in np.flatnonzero(np.isnan(values)).tolist():
        values[index] = quantity(texts[index])
    return values


def _numbered(keys: Sequence[tuple[str | None, str]]) -> dict[tuple[str | None, str], int]:
    """Each key with its index, in order of first appearance."""
    return {key: index for index, key in enumerate(dict.fromkeys(keys))}


def short_names(owners: Iterable[tuple[str | None, str]]) -> list[str]:
    """The names, with the namespace where two are the same."""
    owners = list(owners)
    counts = Counter(name for _, name in owners)
    return [f"{namespace}/{name}" if counts[name] > 1 and namespace else name for namespace, name in owners]


def usage_table(data: Iterable[RunData], usage: Mapping[int, Sequence[TimeSeries]]) -> Table:
    """CPU, memory and replicas during each run."""
    return Table.named(
        "machines",
        RUN_COLUMNS + TEXT("measured", "of") + NUMBER("mean", "max"),
        [
            (*each.run.cells(), series.metric, series.name, float(series.value.mean()), float(series.value.max()))
            for each in data
            for series in usage.get(each.run.id, ())
        ],
    )
