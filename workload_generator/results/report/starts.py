"""Cold starts taken apart, for a report: what was proven of each run's, and how long their phases took.

The phases are the view `cold_start_phases`, the counts `cold_start_proofs`; here are only their distributions.
Phases are those of proven starts: what was no cold start, or may have been none, is counted and not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workload_generator.coldstart.proof import POINTS
from workload_generator.results.database import Store
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.runs import Run

PHASES_SQL = """SELECT experiment_id AS run, target, shard, seq, phase, number, begin, "end", ms, error, grid
FROM cold_start_phases WHERE experiment_id = :id AND cold_proven = 1 ORDER BY shard, seq, number"""

PROOFS_SQL = "SELECT * FROM cold_start_proofs WHERE experiment_id = :id ORDER BY target"


@dataclass(frozen=True, slots=True)
class Proofs:
    """How many cold-start requests were sent, or given up (`skipped`), and what is known of them."""

    requests: int = 0
    proven: int = 0
    refuted: int = 0
    unknown: int = 0
    skipped: int = 0

    def __add__(self, other: Proofs) -> Proofs:
        return Proofs(
            self.requests + other.requests, self.proven + other.proven, self.refuted + other.refuted,
            self.unknown + other.unknown, self.skipped + other.skipped,
        )  # fmt: skip

    @property
    def share(self) -> float:
        """Of all requests, those that were given up too."""
        return self.proven / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """One proven cold start: its phases in order as (begin, end) in ms since the send."""

    run: Run
    seq: int
    phases: Mapping[str, tuple[float, float]]
    error_ms: float
    grid: frozenset[str]

    @property
    def ms(self) -> float:
        """To the first byte."""
        return max(end for _, end in self.phases.values())


@dataclass(frozen=True, slots=True)
class Starts:
    """The cold starts of one run and language."""

    run: Run
    language: str
    proofs: Proofs
    starts: tuple[Start, ...]


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of several starts: `ms` is its length in each that shows it, ranked; `mean` counts the others as 0."""

    name: str
    ms: Values
    mean: float
    error_ms: float
    on_grid: int


def read_starts(store: Store, run: Run) -> list[Starts]:
    """By language; nothing when no cold start was watched."""
    proofs: dict[str, Proofs] = {}
    for row in store.execute(PROOFS_SQL, {"id": run.id}):
        language = run.language_of(row["target"])
        own = Proofs(row["requests"], row["proven"], row["refuted"], row["unknown"], row["skipped"])
        proofs[language] = proofs.get(language, Proofs()) + own
    found: dict[str, dict[tuple[int, int], list[dict[str, object]]]] = {}
    for row in store.execute(PHASES_SQL, {"id": run.id}) if proofs else ():
        one = found.setdefault(run.language_of(row["target"]), {}).setdefault((row["shard"], row["seq"]), [])
        one.append(dict(row))
    return [
        Starts(run, language, own, tuple(_start(run, rows) for rows in found.get(language, {}).values()))
        for language, own in sorted(proofs.items())
    ]


BURSTS_SQL = "SELECT * FROM cold_burst_costs WHERE experiment_id = :id ORDER BY shard, seq"
WAITS_SQL = "SELECT target, wait FROM cold_burst_requests WHERE experiment_id = :id AND wait IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Bursts:
    """The bursts of one run and language: rows of `cold_burst_costs`, and how long requests waited, ranked (ms)."""

    run: Run
    language: str
    costs: tuple[Mapping[str, float | None], ...]
    waits: Values


def read_bursts(store: Store, run: Run) -> list[Bursts]:
    """By language; nothing when there were none."""
    costs: dict[str, list[Mapping[str, float | None]]] = {}
    for row in store.execute(BURSTS_SQL, {"id": run.id}):
        costs.setdefault(run.language_of(row["target"]), []).append(dict(row))
    waits: dict[str, list[float]] = {}
    for target, wait in store.execute(WAITS_SQL, {"id": run.id}) if costs else ():
        waits.setdefault(run.language_of(target), []).append(wait)
    return [
        Bursts(run, name, tuple(own), np.sort(np.array(waits.get(name, [])))) for name, own in sorted(costs.items())
    ]


def phases_of(starts: list[Start]) -> list[Phase]:
    """The phases that any of them shows, in their order. Their means add up to the mean time to the first byte."""
    phases = []
    for name in POINTS:
        own = [start for start in starts if name in start.phases]
        if own:
            ms = np.sort(np.array([start.phases[name][1] - start.phases[name][0] for start in own]))
            error_ms = max(start.error_ms for start in own)
            phases.append(
                Phase(name, ms, float(ms.sum()) / len(starts), error_ms, sum(name in start.grid for start in own))
            )
    return phases


def typical(starts: list[Start]) -> Start | None:
    """The one in the middle by its time to the first byte."""
    ranked = sorted(starts, key=lambda start: (start.ms, start.run.id, start.seq))
    return ranked[(len(ranked) - 1) // 2] if ranked else None


def _start(run: Run, rows: list[dict[str, object]]) -> Start:
    phases = {str(row["phase"]): (_ms(row["begin"]), _ms(row["end"])) for row in rows}
    grid = frozenset(str(row["phase"]) for row in rows if row["grid"])
    return Start(run, int(_ms(rows[0]["seq"])), phases, _ms(rows[0]["error"]), grid)


def _ms(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
