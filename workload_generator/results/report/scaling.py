"""Autoscaling while a run went on: the tables `replicas`, `scales` and `conditions` of `kn-bench top`.

Rules:
- a row holds until the next one of its revision; a service is the sum of its revisions
- where a recording began or ended, what was known before no longer holds
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from workload_generator.results.database import Store, columns_of
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.machines import POINTS, Line, window_of
from workload_generator.results.report.samples import RunData
from workload_generator.results.report.scan import batches, known, wall_us

NAMES = ("desired", "actual", "pending", "running", "ready", "terminating")
"""What is wanted, what the autoscaler counts, and the pods by their state (`running` is not ready yet)."""

REPLICAS_SQL = (
    "SELECT timestamp, namespace, coalesce(service, revision) AS service, revision, pending, running, ready, "
    "terminating FROM replicas ORDER BY timestamp, id"
)
SCALES_SQL = (
    "SELECT timestamp, namespace, coalesce(service, revision) AS service, revision, desired, actual "
    "FROM scales ORDER BY timestamp, id"
)
CONDITIONS_SQL = (
    "SELECT timestamp, kind, namespace || '/' || name AS name, type, status, coalesce(reason, '') AS reason "
    "FROM conditions WHERE listed = 0 ORDER BY timestamp, id"
)
_ENDS_SQL = "SELECT timestamp FROM metric_gaps WHERE subject = 'recording' ORDER BY timestamp, id"
_MOST = 8


Change = tuple[str, str, str, str, str]
"""Of a condition: kind, namespace and name, type, status, reason."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What one revision had: from each time on, `value`."""

    at_ms: Values
    value: Values


@dataclass(frozen=True, slots=True)
class Scaling:
    """Of each service and name, the steps of its revisions; and the changes of conditions, in their order."""

    steps: dict[str, dict[str, list[Steps]]]
    condition_ms: Values
    conditions: list[Change]


def read_scaling(store: Store) -> Scaling | None:
    """All of it; None when there is nothing."""
    ends = [at for (at,) in _rows(store, "metric_gaps", _ENDS_SQL)]
    steps: dict[str, dict[str, list[Steps]]] = {}
    for table, sql, names in (("scales", SCALES_SQL, NAMES[:2]), ("replicas", REPLICAS_SQL, NAMES[2:])):
        found: dict[tuple[str, str, str], tuple[list[float], list[tuple[float, ...]]]] = {}
        for at, namespace, service, revision, *values in _rows(store, table, sql):
            times, told = found.setdefault((namespace, service, revision), ([], []))
            times.append(at)
            told.append(tuple(max(0.0, float(value or 0)) for value in values))
        for (namespace, service, _), (times, told) in found.items():
            at_ms, whole = _with_ends(np.array(times), np.array(told), np.array(ends, dtype=np.float64))
            own = steps.setdefault(f"{namespace}/{service}", {})
            for index, name in enumerate(names):
                own.setdefault(name, []).append(Steps(at_ms, whole[:, index]))
    conditions = list(_rows(store, "conditions", CONDITIONS_SQL))
    if not steps and not conditions:
        return None
    return Scaling(
        _short(steps), np.array([row[0] for row in conditions], dtype=np.float64), [row[1:] for row in conditions]
    )


def scaling_of(data: RunData, scaling: Scaling | None) -> list[Line]:
    """Lines of the services with most replicas in this run, one for each of `NAMES` that is known of it."""
    if scaling is None or data.start_ms is None:
        return []
    first, last = window_of(data)
    found: list[tuple[float, list[Line]]] = []
    for service, names in scaling.steps.items():
        lines = [
            line
            for name in NAMES
            if (line := _line(service, name, names.get(name, ()), data.start_ms, first, last)) is not None
        ]
        most = max((float(line.value.max()) for line in lines), default=0.0)
        if most > 0:
            found.append((most, lines))
    found.sort(key=lambda pair: (-pair[0], pair[1][0].metric))
    return [line for _, lines in found[:_MOST] for line in lines]


def conditions_of(data: RunData, scaling: Scaling | None) -> Iterator[tuple[float, Change]]:
    """When (s since the start of the measure phase) which condition changed: kind, name, type, status, reason."""
    if scaling is None or data.start_ms is None:
        return
    first, last = window_of(data)
    at_s = (scaling.condition_ms - data.start_ms) / 1000
    for index in np.flatnonzero((at_s >= first) & (at_s <= last)).tolist():
        yield float(at_s[index]), scaling.conditions[index]


def _line(
    service: str, name: str, revisions: Iterable[Steps], start_ms: float, first: float, last: float
) -> Line | None:
    """The sum of the revisions; None when nothing was known of them before the window ends."""
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
    return Line(f"replicas of {service}", name, np.append(at[keep], last), np.append(value[keep], value[-1]))


def _with_ends(at_ms: Values, values: Values, ends: Values) -> tuple[Values, Values]:
    """With zeros where a recording ended or another one began, which then says what is still there."""
    later = ends[ends > at_ms[0]]
    every = np.concatenate([later, at_ms])  # in this order, so that a zero comes first at the same moment
    whole = np.concatenate([np.zeros((len(later), values.shape[1])), values])
    order = np.argsort(every, kind="stable")
    return every[order], whole[order]


def _rows(store: Store, table: str, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows with their times in ms since 1970; those without a readable one are left out."""
    if not columns_of(store, table):
        return
    for rows in batches(store, sql, {}):
        at_us = wall_us([row[0] for row in rows])
        for index in np.flatnonzero(known(at_us)).tolist():
            yield at_us[index] / 1000, *rows[index][1:]


def _short(steps: dict[str, dict[str, list[Steps]]]) -> dict[str, dict[str, list[Steps]]]:
    """Without the namespace, where no two have the same name."""
    names = [key.partition("/")[2] for key in steps]
    return {key if names.count(name) > 1 else name: own for name, (key, own) in zip(names, steps.items(), strict=True)}
