"""The section "Cold starts": which are proven, how long their phases take, and bursts at zero.

The phases are the view `cold_start_phases`, the counts `cold_start_proofs`; here are their distributions. Only proven
cold starts have phases: refuted and unknown ones are counted, not drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workload_generator.results.database import Store
from workload_generator.results.report.comparison import RunGroup
from workload_generator.results.report.intervals import Values, quantiles
from workload_generator.results.report.runs import GROUP_COLUMNS, RUN_COLUMNS, RecordedRun, RunCondition, language_order
from workload_generator.results.report.samples import COLD_WORD, UNKNOWN_WORD
from workload_generator.results.report.table import COUNT, MS, NUMBER, SHARE, TENTHS, TEXT, Table, Value

PHASES_SQL = """SELECT experiment_id AS run, target, shard, seq, phase, number, begin, "end", ms, error, grid, ready
FROM cold_start_phases WHERE experiment_id = :id AND cold_proven = 1 ORDER BY shard, seq, number"""

PROOFS_SQL = "SELECT * FROM cold_start_proofs WHERE experiment_id = :id ORDER BY target"
BURSTS_SQL = "SELECT * FROM cold_burst_costs WHERE experiment_id = :id ORDER BY shard, seq"
WAITS_SQL = "SELECT target, wait FROM cold_burst_requests WHERE experiment_id = :id AND wait IS NOT NULL"

PHASE_NAMES = {
    "scale": "scale decision", "created": "instance created", "scheduled": "scheduled", "pulled": "image pulled",
    "started": "containers started", "listening": "listens", "queue_ready": "queue-proxy ready", "ready": "ready",
    "first_byte": "first byte", "application_start_and_probe": "application start and probe",
}  # fmt: skip
"""A phase is named by the point at which it ends, but for the last one in a cluster."""

LAST_IN_CLUSTER = "application_start_and_probe"

_PROOFS = ("requests", "proven", "refuted", "unknown", "skipped")


@dataclass(frozen=True, slots=True)
class ProvenStart:
    """One proven cold start: its phases in order as (begin, end) in ms since the send, and the error of each end.

    `grid` are the phases whose end is known to whole seconds only. `ready_ms` is when Kubernetes knew that the pod was
    ready, where that does not end a phase.
    """

    run: RecordedRun
    seq: int
    phases: Mapping[str, tuple[float, float]]
    errors_ms: Mapping[str, float]
    grid: frozenset[str]
    ready_ms: float | None

    @property
    def ms(self) -> float:
        """The time to the first byte."""
        return max(end for _, end in self.phases.values())


@dataclass(frozen=True, slots=True)
class LanguageStarts:
    """The cold starts of one language in the runs of one condition, at least one.

    `proofs` counts them by what is known: `requests`, of these `proven`, `refuted`, `unknown` and `skipped` (not sent).
    """

    runs: tuple[RecordedRun, ...]
    language: str
    proofs: Counter[str]
    starts: tuple[ProvenStart, ...]

    @property
    def condition(self) -> RunCondition:
        """The condition of the runs."""
        return self.runs[0].condition


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """One phase of several starts: `ms` are its lengths, ranked; `mean` counts starts without the phase as 0.

    `error_ms` is the largest; `ready_ms` is the mean beside the last phase in a cluster, None elsewhere.
    """

    name: str
    ms: Values
    mean: float
    error_ms: float
    on_grid: int
    ready_ms: float | None


@dataclass(frozen=True, slots=True)
class RunBursts:
    """The bursts of one run and language: rows of `cold_burst_costs`, and the waits of their requests, ranked (ms)."""

    run: RecordedRun
    language: str
    costs: tuple[Mapping[str, float | None], ...]
    waits: Values

    def total(self, name: str) -> float:
        """The sum of one column of the costs."""
        return sum(cost[name] or 0 for cost in self.costs)

    def mean(self, name: str) -> float | None:
        """The mean of one column of the costs; None unless it is known of every burst."""
        known = [value for cost in self.costs if (value := cost[name]) is not None]
        return sum(known) / len(known) if len(known) == len(self.costs) and known else None


def read_starts(store: Store, run: RecordedRun) -> list[LanguageStarts]:
    """The run's cold starts by language; empty when none was observed."""
    proofs: dict[str, Counter[str]] = {}
    for row in store.execute(PROOFS_SQL, {"id": run.id}):
        counts = proofs.setdefault(run.language_of(row["target"]), Counter())
        counts.update({name: row[name] for name in _PROOFS})
    phases: dict[str, dict[tuple[int, int], list[Mapping[str, Any]]]] = {}
    for row in store.execute(PHASES_SQL, {"id": run.id}) if proofs else ():
        starts = phases.setdefault(run.language_of(row["target"]), {})
        starts.setdefault((row["shard"], row["seq"]), []).append(dict(row))
    return [
        LanguageStarts((run,), language, counts, tuple(_start(run, rows) for rows in phases.get(language, {}).values()))
        for language, counts in sorted(proofs.items())
    ]


def read_bursts(store: Store, run: RecordedRun) -> list[RunBursts]:
    """The run's bursts by language; empty when there are none."""
    costs: dict[str, list[Mapping[str, float | None]]] = {}
    for row in store.execute(BURSTS_SQL, {"id": run.id}):
        costs.setdefault(run.language_of(row["target"]), []).append(dict(row))
    waits: dict[str, list[float]] = {}
    for target, wait in store.execute(WAITS_SQL, {"id": run.id}) if costs else ():
        waits.setdefault(run.language_of(target), []).append(wait)
    return [
        RunBursts(run, name, tuple(own), np.sort(np.array(waits.get(name, [])))) for name, own in sorted(costs.items())
    ]


def group_starts(runs: Iterable[LanguageStarts]) -> list[LanguageStarts]:
    """The cold starts by condition and language, in a readable order."""
    groups: dict[tuple[RunCondition, str], list[LanguageStarts]] = {}
    for each in sorted(runs, key=lambda each: (each.condition.order, language_order(each.language))):
        groups.setdefault((each.condition, each.language), []).append(each)
    return [
        LanguageStarts(
            runs=tuple(run for each in group for run in each.runs),
            language=language,
            proofs=sum((each.proofs for each in group), Counter()),
            starts=tuple(start for each in group for start in each.starts),
        )
        for (_, language), group in groups.items()
    ]


def phases_of(starts: Sequence[ProvenStart]) -> list[PhaseTimes]:
    """The phases that any of the starts has, in order. Their means add up to the mean time to the first byte."""
    phases = []
    for name in PHASE_NAMES:
        own = [start for start in starts if name in start.phases]
        if own:
            ms = np.sort(np.array([start.phases[name][1] - start.phases[name][0] for start in own]))
            mean, error_ms = float(ms.sum()) / len(starts), max(start.errors_ms[name] for start in own)
            ready = [start.ready_ms for start in own if start.ready_ms is not None] if name == LAST_IN_CLUSTER else []
            on_grid = sum(name in start.grid for start in own)
            phases.append(PhaseTimes(name, ms, mean, error_ms, on_grid, sum(ready) / len(ready) if ready else None))
    return phases


def typical(starts: Sequence[ProvenStart]) -> ProvenStart | None:
    """The start with the median time to the first byte."""
    ranked = sorted(starts, key=lambda start: (start.ms, start.run.id, start.seq))
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def _start(run: RecordedRun, rows: list[Mapping[str, Any]]) -> ProvenStart:
    phases = {row["phase"]: (float(row["begin"]), float(row["end"])) for row in rows}
    errors = {row["phase"]: float(row["error"] or 0) for row in rows}
    grid = frozenset(row["phase"] for row in rows if row["grid"])
    return ProvenStart(run, rows[0]["seq"], phases, errors, grid, rows[-1]["ready"])


def starts_table(groups: Sequence[RunGroup]) -> Table:
    """Cold starts by language."""
    names = ("min", "p25", "p50", "p75", "p90", "max")
    table = Table.named(
        "cold_starts",
        (
            *(GROUP_COLUMNS + COUNT("runs", "cold", "failed") + MS(*names, "p50 low", "p50 high")),
            *SHARE("confidence", "told", brief=False),
        ),
    )
    for group in groups:
        if group.temperature != COLD_WORD:
            continue
        peers = [each for each in groups if (each.condition, each.language) == (group.condition, group.language)]
        served = sum(each.served for each in peers)
        unknown = sum(each.served for each in peers if each.temperature == UNKNOWN_WORD)
        median = group.estimate("p50")
        table.add(
            *group.cells[:-1],
            *(len(group.samples), group.served, group.arrivals - group.served),
            min(group.values("min"), default=None),
            *(group.estimate(name).value for name in names[1:-1]),
            max(group.values("max"), default=None),
            *(median.low, median.high, median.confidence),
            (served - unknown) / served if served else None,
            beyond=group.beyond,
        )
    return table


def proofs_table(groups: Iterable[LanguageStarts]) -> Table:
    """How many cold starts are proven."""
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        share = group.proofs["proven"] / group.proofs["requests"] if group.proofs["requests"] else 0.0
        rows.append((*group.condition.cells, group.language, *(group.proofs[name] for name in _PROOFS), share))
    return Table.named("cold_proofs", GROUP_COLUMNS + COUNT(*_PROOFS) + SHARE("share"), rows)


def phases_table(groups: Iterable[LanguageStarts]) -> Table:
    """The phases of proven cold starts."""
    rows = []
    for group in groups:
        phases = phases_of(group.starts)
        whole = sum(phase.mean for phase in phases)
        for phase in phases:
            times = quantiles(phase.ms, 0, (0.25, 0.5, 0.75, 0.9, 1.0)).tolist()
            share = phase.mean / whole if whole else None
            head = (*group.condition.cells, group.language, PHASE_NAMES[phase.name], len(phase.ms))
            rows.append((*head, phase.mean, *times, share, phase.error_ms, phase.ready_ms, phase.on_grid))
    return Table.named(
        "cold_phases",
        (
            *(GROUP_COLUMNS + TEXT("phase") + COUNT("starts") + TENTHS("mean", "p25", "p50", "p75", "p90", "max")),
            *(SHARE("share") + TENTHS("error", "ready") + COUNT("1 s grid", brief=False)),
        ),
        rows,
    )


def bursts_table(bursts: Iterable[RunBursts]) -> Table:
    """The waits and costs of bursts at zero."""
    sums, means = ("requests", "ok", "waiting"), ("started", "needed", "overshoot", "instance_s", "wasted_s")
    rows = []
    for each in bursts:
        waits = quantiles(each.waits, 0, (0.5, 0.9, 1.0)).tolist()
        counts = (len(each.costs), *map(each.total, sums))
        rows.append((*each.run.cells(each.language), *counts, *waits, *map(each.mean, means)))
    return Table.named(
        "cold_bursts",
        (
            *(RUN_COLUMNS + COUNT("bursts", *sums) + MS("wait p50", "wait p90", "wait max")),
            *NUMBER(*(name.replace("_", " ") for name in means)),
        ),
        rows,
    )
