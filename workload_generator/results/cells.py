"""Repeats of one condition put together, and what may be said of one language against another.

Rules:
- a cell is a condition, a language and a temperature; each of its runs gives one number for a quantile
- the figure of a cell is the median over its runs; its interval is over runs, from two runs on (`intervals.over_runs`)
- a run alone has only its own interval, which says nothing about another run: nothing is ranked by it
- a difference is shown when its p, adjusted for all the pairs that are looked at together, is at most 5 %
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workload_generator.results.intervals import CONFIDENCE, Difference, Interval, difference, holm, median, over_runs
from workload_generator.results.runs import Condition
from workload_generator.results.samples import WHOLE, Sample

LEVEL = round(1 - CONFIDENCE, 9)

BETTER, WORSE, NONE_SHOWN = "better", "worse", "no difference shown"


class Estimate(NamedTuple):
    """A figure of a cell. `of` says what its interval speaks of: `runs`, `one run`, or nothing."""

    value: float
    interval: Interval | None
    of: str


@dataclass(frozen=True, slots=True)
class Cell:
    """The runs of one condition, language and temperature."""

    condition: Condition
    language: str
    temperature: str
    samples: tuple[Sample, ...]

    @property
    def arrivals(self) -> int:
        """Of all runs."""
        return sum(sample.arrivals for sample in self.samples)

    @property
    def served(self) -> int:
        """Of all runs."""
        return sum(sample.served for sample in self.samples)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.language}, {self.condition.label}, {self.temperature}"

    def values(self, quantile: str, answered: bool = False) -> list[float]:
        """One for each run, in ms, without the runs that have none."""
        readings = (sample.ttfb.answered if answered else sample.ttfb.all for sample in self.samples)
        return [value for reading in readings if not math.isnan(value := reading[quantile])]

    def estimate(self, quantile: str, answered: bool = False) -> Estimate | None:
        """The cell's figure in ms; None when no run has one."""
        values = self.values(quantile, answered)
        if not values:
            return None
        if len(values) == 1:
            within = None if answered else self.samples[0].within[quantile]
            return Estimate(values[0], within, "one run")
        return Estimate(median(values), over_runs(values), "runs")

    def error_shares(self) -> list[float]:
        """Failed and dropped of all, one for each run."""
        return [1 - sample.served / sample.arrivals for sample in self.samples]


def make_cells(samples: Iterable[Sample]) -> list[Cell]:
    """The cells of all samples but the `all` ones, in a readable order."""
    groups: dict[tuple[Condition, str, str], list[Sample]] = {}
    for sample in samples:
        if sample.temperature != WHOLE:
            groups.setdefault((sample.run.condition, sample.language, sample.temperature), []).append(sample)
    cells = [Cell(*key, tuple(group)) for key, group in groups.items()]
    return sorted(cells, key=_order)


def _order(cell: Cell) -> tuple[object, ...]:
    condition = cell.condition
    rate = -1.0 if condition.rate is None else condition.rate
    return (condition.scenario, rate, condition.variant, condition.platform, cell.temperature, cell.language)


@dataclass(frozen=True, slots=True)
class Pair:
    """B against A in one figure. `p` is adjusted for all pairs that were looked at together."""

    a: Cell
    b: Cell
    difference: Difference
    p: float
    least_p: float

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.p <= LEVEL

    @property
    def verdict(self) -> str:
        """Of B, for a figure of which less is better."""
        if not self.shown:
            return NONE_SHOWN
        return WORSE if self.difference.superiority > 0.5 else BETTER

    @property
    def could_show(self) -> bool:
        """Whether so many runs could have shown any difference at all."""
        return self.least_p <= LEVEL


def judge_pairs(pairs: Sequence[tuple[Cell, Cell]], values: Callable[[Cell], list[float]]) -> list[Pair]:
    """All pairs of which both have values, looked at together."""
    known = [(a, b) for a, b in pairs if values(a) and values(b)]
    differences = [difference(values(a), values(b)) for a, b in known]
    adjusted = holm([each.p for each in differences])
    # The least that a pair can reach is its own least p at the most favourable place in Holm's order: the last.
    return [Pair(a, b, each, p, each.least_p) for (a, b), each, p in zip(known, differences, adjusted, strict=True)]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The languages of one condition and temperature by one quantile, the fastest first, and every pair's verdict."""

    condition: Condition
    temperature: str
    quantile: str
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]

    def runs_needed(self) -> int:
        """How many runs of each could show a difference, with so many pairs."""
        runs = 2
        while min(1.0, 2 / math.comb(2 * runs, runs)) * max(1, len(self.pairs)) > LEVEL:
            runs += 1
        return runs

    @property
    def enough(self) -> bool:
        """Whether every language has as many."""
        return all(len(cell.samples) >= self.runs_needed() for cell in self.cells)


def rank(cells: Sequence[Cell], quantile: str) -> list[Ranking]:
    """A ranking for each condition and temperature with at least two languages."""
    rankings = []
    for (condition, temperature), group in itertools.groupby(cells, key=lambda c: (c.condition, c.temperature)):
        known = [(estimate.value, cell) for cell in group if (estimate := cell.estimate(quantile)) is not None]
        ordered = [cell for _, cell in sorted(known, key=lambda each: (each[0], each[1].language))]
        if len(ordered) > 1:
            pairs = judge_pairs(list(itertools.combinations(ordered, 2)), lambda cell: cell.values(quantile))
            rankings.append(Ranking(condition, temperature, quantile, tuple(ordered), tuple(pairs)))
    return rankings
