"""`kn-bench compare`: the same cells of two sets of runs against each other, B against A.

Rules:
- only what is alike is compared: scenario, language, rate, arrival process, concurrency, triggers, workers and
  temperature make the cell; platform, version and timeout have to be the same on both sides
- a verdict comes from whole runs (exact Mann–Whitney), adjusted for all figures that are looked at
  (Benjamini–Hochberg): when nothing changed, the chance of any `worse` or `better` is 5 %
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.results.report.answers import read_data
from workload_generator.results.report.comparison import BETTER, NONE_SHOWN, WORSE, RunGroup, make_groups
from workload_generator.results.report.intervals import CONFIDENCE, Difference, difference, false_discovery, median
from workload_generator.results.report.runs import RecordedRun
from workload_generator.results.report.samples import RunData
from workload_generator.results.report.table import MS, SHARE, Table, TableColumn, written

_LEVEL = round(1 - CONFIDENCE, 9)

Matching = Callable[[RunGroup], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two sets of runs."""

    name: str
    db: Path
    experiments: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class FigureChange:
    """One figure of one cell; `relative` ones are times, the others shares. `p` is adjusted for all compared ones."""

    a: RunGroup
    b: RunGroup
    figure: str
    relative: bool
    values: tuple[float, float]
    difference: Difference
    p: float

    @property
    def verdict(self) -> str:
        """Of B; less is better in every figure."""
        if self.p > _LEVEL:
            return NONE_SHOWN
        return WORSE if self.difference.superiority > 0.5 else BETTER


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, what could not be, and why it should not have been (only when forced)."""

    changes: list[FigureChange]
    only_a: list[str]
    only_b: list[str]
    left_out: list[str]
    against: list[str]

    @property
    def worse(self) -> bool:
        """Whether anything got worse."""
        return any(change.verdict == WORSE for change in self.changes)

    @property
    def too_few(self) -> bool:
        """Whether some cell has too few runs to show any difference, even by itself."""
        runs = {change.difference.runs for change in self.changes}
        return any(2 / math.comb(a + b, a) > _LEVEL for a, b in runs)


def compare(a: Side, b: Side, *, force: bool = False, include_invalid: bool = False) -> Comparison:
    """B against A. Raises UsageError for what is not comparable, unless forced, and BenchError."""
    runs_a, cells_a, out_a = _read(a, include_invalid)
    runs_b, cells_b, out_b = _read(b, include_invalid)
    pairs, matching = _pairs(cells_a, cells_b, force)
    against = [] if pairs else [f"nothing is alike: {a.name} has {_some(cells_a)}; {b.name} has {_some(cells_b)}"]
    against += _differing(pairs, a.name, b.name)
    if against and not force:
        reasons = "\n".join(f"  {reason}" for reason in against)
        raise UsageError(f"{a.name} and {b.name} are not comparable (--force compares them all the same):\n{reasons}")
    if not pairs:
        raise BenchError(f"{a.name} and {b.name} have nothing that could be compared, not even by force")
    known_a, known_b = {matching(cell) for cell, _ in pairs}, {matching(cell) for _, cell in pairs}
    return Comparison(
        changes=_changes(pairs),
        only_a=[cell.label for cell in cells_a if matching(cell) not in known_a],
        only_b=[cell.label for cell in cells_b if matching(cell) not in known_b],
        left_out=[*out_a, *out_b],
        against=against,
    )


def _read(side: Side, include_invalid: bool) -> tuple[list[RecordedRun], list[RunGroup], list[str]]:
    data: list[RunData] = read_data(side.db, side.experiments)
    kept = [each for each in data if include_invalid or each.run.counts_in]
    out = [f"{side.name}: {each.run.label}" for each in data if each not in kept]
    cells = [cell for cell in make_groups(sample for each in kept for sample in each.samples) if cell.home]
    if not cells:
        why = "no valid run (--include-invalid compares the others)" if data else "no runs"
        raise BenchError(f"{side.name} has {why}")
    return [each.run for each in kept], cells, out


def _strict(cell: RunGroup) -> tuple[object, ...]:
    condition = cell.condition
    return (condition.scenario, condition.rate, condition.variant, cell.language, cell.temperature)


def _pairs(
    a: Sequence[RunGroup], b: Sequence[RunGroup], force: bool
) -> tuple[list[tuple[RunGroup, RunGroup]], Matching]:
    """What belongs together; when forced, and nothing is alike, ever less has to be."""
    looser: list[Matching] = [_strict]
    if force:
        looser += [lambda cell: (cell.language, cell.temperature), lambda cell: (cell.temperature,), lambda _: ()]
    for matching in looser:
        places: dict[tuple[object, ...], list[RunGroup]] = {}
        for cell in b:
            places.setdefault(matching(cell), []).append(cell)
        pairs = [(cell, other) for cell in a for other in places.get(matching(cell), ())]
        if pairs:
            return pairs, matching
    return [], _strict


def _differing(pairs: Iterable[tuple[RunGroup, RunGroup]], a: str, b: str) -> list[str]:
    """Why pairs should not be compared, each reason once."""
    found: dict[str, None] = {}
    for mine, other in pairs:
        for name, of in _ATTRIBUTES.items():
            left, right = ({of(sample.run) for sample in cell.samples} for cell in (mine, other))
            if left != right:
                found[f"{name}: {_listed(left)} in {a}, {_listed(right)} in {b}"] = None
        if mine.language != other.language:
            found[f"language: {mine.language} in {a}, {other.language} in {b}"] = None
    return list(found)


_ATTRIBUTES: dict[str, Callable[[RecordedRun], str]] = {
    "scenario": lambda run: run.condition.scenario,
    "rate": lambda run: run.condition.rate_label,
    "condition": lambda run: run.condition.variant or "constant arrivals",
    "platform": lambda run: str(run.row["platform"]),
    "version of the generator": lambda run: str(run.row["version"]),
    "timeout": lambda run: run.timeout,
}


def _changes(pairs: Sequence[tuple[RunGroup, RunGroup]]) -> list[FigureChange]:
    found: list[tuple[RunGroup, RunGroup, str, bool, tuple[float, float], Difference]] = []
    for a, b in pairs:
        for figure in ("p50", "p99"):
            x, y = a.values(figure), b.values(figure)
            if x and y:
                found.append((a, b, figure, True, (median(x), median(y)), difference(x, y)))
        x, y = a.error_shares(), b.error_shares()
        middles = (sorted(x)[len(x) // 2], sorted(y)[len(y) // 2])
        found.append((a, b, "lost", False, middles, difference(x, y, relative=False)))
    adjusted = false_discovery([each[-1].p for each in found])
    return [FigureChange(*each, p) for each, p in zip(found, adjusted, strict=True)]


def tables_of(comparison: Comparison) -> Iterable[Table]:
    """For a terminal: one for each cell."""
    for (a, b), changes in itertools.groupby(comparison.changes, key=lambda change: (change.a, change.b)):
        runs = f"{len(a.samples)} and {len(b.samples)} runs"
        title = a.label if a.label == b.label else f"{a.label}, against {b.label}"
        names = ("figure", "A", "B", "change", "confidence", "effect", "verdict")
        table = Table("changes", f"{title} ({runs})", "", tuple(TableColumn(name) for name in names))
        for change in changes:
            table.add(*_texts(change))
        yield table


def _texts(change: FigureChange) -> tuple[str, ...]:
    found = change.difference
    beyond = f"> {change.a.samples[0].run.timeout}"
    values = [written(value, MS if change.relative else SHARE, beyond) for value in change.values]
    ends = (found.estimate, found.interval.low, found.interval.high)
    if change.relative:
        middle, low, high = ("+∞" if value == math.inf else f"{value - 1:+.1%}" for value in ends)
    else:
        middle, low, high = (f"{100 * value:+.2f} pp" for value in ends)
    interval = f" [{low}, {high}]" if min(found.runs) > 1 else ""
    figure = f"{change.figure} (ms)" if change.relative else change.figure
    sure = f"{found.interval.confidence:.1%}" if interval else ""
    return figure, *values, middle + interval, sure, f"{found.superiority:.2f}", change.verdict


def _some(cells: Sequence[RunGroup]) -> str:
    labels = [cell.label for cell in cells]
    return "; ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))
