"""The section "Cluster": autoscaling during a run, from the tables of `kn-bench top`.

Rules:
- a row holds until the next one of its revision; a service is the sum of its revisions
- values are zero before a recording begins and after it ends
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workload_generator.results.database import Store, columns_of
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.nodes_and_pods import POINTS, TimeSeries, short_names, window_of
from workload_generator.results.report.request_rows import batches, known, wall_us
from workload_generator.results.report.runs import RUN_COLUMNS
from workload_generator.results.report.samples import RunData
from workload_generator.results.report.table import NUMBER, TEXT, Table

NAMES = ("desired", "actual", "pending", "running", "ready", "terminating")
"""The desired scale, the scale that the autoscaler counts, and the pods by state (`running`: not ready yet)."""

STEPS_SQL = (
    "SELECT timestamp, namespace, coalesce(service, revision) AS service, revision, {} FROM {} ORDER BY timestamp, id"
)
CONDITIONS_SQL = (
    "SELECT timestamp, kind, namespace || '/' || name AS name, type, status, coalesce(reason, '') AS reason "
    "FROM conditions WHERE listed = 0 ORDER BY timestamp, id"
)
_ENDS_SQL = "SELECT timestamp FROM metric_gaps WHERE subject = 'recording' ORDER BY timestamp, id"
_MOST = 8  # services of a run

ConditionChange = tuple[str, str, str, str, str]
"""Kind, namespace and name, type, status and reason of a condition."""


@dataclass(frozen=True, slots=True)
class StepSeries:
    """A figure of one revision: `value` from each time on."""

    at_ms: Values
    value: Values


@dataclass(frozen=True, slots=True)
class Scaling:
    """The steps of the revisions by service and name, and the changes of conditions by time."""

    steps: dict[str, dict[str, list[StepSeries]]]
    condition_ms: Values
    conditions: list[ConditionChange]


def read_scaling(store: Store) -> Scaling | None:
    """All rows of the three tables; None when there are none."""
    ends = np.array([at for (at,) in _rows(store, "metric_gaps", _ENDS_SQL)], dtype=np.float64)
    steps: dict[tuple[str, str], dict[str, list[StepSeries]]] = {}
    for table, names in (("scales", NAMES[:2]), ("replicas", NAMES[2:])):
        revisions: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
        for at, namespace, service, revision, *values in _rows(store, table, STEPS_SQL.format(", ".join(names), table)):
            row = (at, *(max(0.0, float(value or 0)) for value in values))
            revisions.setdefault((namespace, service, revision), []).append(row)
        for (namespace, service, _), rows in revisions.items():
            times_and_values = np.array(rows)
            at_ms, values_at = _with_ends(times_and_values[:, 0], times_and_values[:, 1:], ends)
            own = steps.setdefault((namespace, service), {})
            for index, name in enumerate(names):
                own.setdefault(name, []).append(StepSeries(at_ms, values_at[:, index]))
    conditions = list(_rows(store, "conditions", CONDITIONS_SQL))
    if not steps and not conditions:
        return None
    times = np.array([row[0] for row in conditions], dtype=np.float64)
    return Scaling(dict(zip(short_names(steps), steps.values(), strict=True)), times, [row[1:] for row in conditions])


def scaling_series(data: RunData, scaling: Scaling | None) -> list[TimeSeries]:
    """The series of the services with most replicas in this run, by service and in the order of `NAMES`."""
    if scaling is None or data.start_ms is None:
        return []
    first, last = window_of(data)
    services: list[tuple[float, list[TimeSeries]]] = []
    for service, names in scaling.steps.items():
        every = (_sum(service, name, names.get(name, ()), data.start_ms, (first, last)) for name in NAMES)
        series = [each for each in every if each is not None]
        most = max((float(each.value.max()) for each in series), default=0.0)
        if most > 0:
            services.append((most, series))
    services.sort(key=lambda pair: (-pair[0], pair[1][0].metric))
    return [each for _, series in services[:_MOST] for each in series]


def condition_changes(data: RunData, scaling: Scaling | None) -> Iterator[tuple[float, ConditionChange]]:
    """The changes of conditions during a run, each with its time in s since the start of the measure phase."""
    if scaling is None or data.start_ms is None:
        return
    first, last = window_of(data)
    at_s = (scaling.condition_ms - data.start_ms) / 1000
    for index in np.flatnonzero((at_s >= first) & (at_s <= last)).tolist():
        yield float(at_s[index]), scaling.conditions[index]


def _sum(
    service: str, name: str, revisions: Iterable[StepSeries], start_ms: float, window: tuple[float, float]
) -> TimeSeries | None:
    """The sum of the revisions; None when none has a value before the end of the window."""
    first, last = window
    times: list[Values] = [np.array([first])]
    changes: list[Values] = []
    initial, is_known = 0.0, False
    for steps in revisions:
        at_s = (steps.at_ms - start_ms) / 1000
        begin, end = np.searchsorted(at_s, [first, last], side="right")
        before = float(steps.value[begin - 1]) if begin else 0.0
        is_known = is_known or bool(end)
        initial += before
        times.append(at_s[begin:end])
        changes.append(np.diff(steps.value[begin:end], prepend=before))
    if not is_known:
        return None
    at, change = np.concatenate(times), np.concatenate([[initial], *changes])
    order = np.argsort(at, kind="stable")
    at, value = at[order], np.cumsum(change[order])
    slot = np.floor((at - first) / ((last - first) / POINTS)) if len(at) > POINTS else np.arange(len(at))
    keep = np.append(np.flatnonzero(np.diff(slot)), len(at) - 1)  # the last of each slot
    return TimeSeries(f"replicas of {service}", name, np.append(at[keep], last), np.append(value[keep], value[-1]))


def _with_ends(at_ms: Values, values: Values, ends: Values) -> tuple[Values, Values]:
    """The steps, with zeros at the begin and the end of each recording."""
    later = ends[ends > at_ms[0]]
    every = np.concatenate([later, at_ms])  # in this order: at the same time the zero comes first
    every_value = np.concatenate([np.zeros((len(later), values.shape[1])), values])
    order = np.argsort(every, kind="stable")
    return every[order], every_value[order]


def _rows(store: Store, table: str, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows with their times in ms since 1970; rows without a valid time are left out."""
    if not columns_of(store, table):
        return
    for rows in batches(store, sql, {}):
        at_us = wall_us([row[0] for row in rows])
        for index in np.flatnonzero(known(at_us)).tolist():
            yield at_us[index] / 1000, *rows[index][1:]


def scaling_table(data: Iterable[RunData], scaling: Mapping[int, Sequence[TimeSeries]]) -> Table:
    """Desired and actual scale and pods by state, of each service during each run."""
    rows = []
    for each in data:
        for series in scaling.get(each.run.id, ()):
            held = np.diff(series.at_s)
            mean = float((series.value[:-1] * held).sum() / held.sum()) if held.sum() else float(series.value[0])
            values = (float(series.value.min()), mean, float(series.value.max()), float(series.value[0]))
            rows.append((*each.run.cells(), series.metric.removeprefix("replicas of "), series.name, *values))
    return Table.named("scaling", RUN_COLUMNS + TEXT("of", "what") + NUMBER("min", "mean", "max", "at first"), rows)


def conditions_table(data: Iterable[RunData], changes: Mapping[int, Sequence[tuple[float, ConditionChange]]]) -> Table:
    """The conditions of Revisions and PodAutoscalers that changed during each run."""
    return Table.named(
        "conditions",
        RUN_COLUMNS + NUMBER("s") + TEXT("kind", "name", "condition", "status", "reason"),
        [
            (*each.run.cells(), at_s, *(word or None for word in change))
            for each in data
            for at_s, change in changes.get(each.run.id, ())
        ],
    )
