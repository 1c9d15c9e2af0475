"""Repeats of one condition put together, and what may be said of one language against another.

Rules:
- a cell is a condition, a language and a temperature; each of its runs gives one number for a quantile
- the figure of a cell is the median over its runs; its interval is over runs, from two runs on (`intervals.over_runs`)
- a run alone has only its own interval, which says nothing about another run: nothing is ranked by it
- languages are ranked only as far as a stepwise test over runs allows (`intervals.pairs_that_differ`): the chance that
  any pair of a condition is called different and is not is 5 %
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workload_generator.results.report.intervals import (
    Difference,
    Interval,
    difference,
    median,
    over_runs,
    pair_level,
    pairs_that_differ,
)
from workload_generator.results.report.runs import Condition
from workload_generator.results.report.samples import WHOLE, Sample

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
    def home(self) -> bool:
        """Whether this temperature is what most of its runs were for: the cold starts of a warm run are by the way."""
        return 2 * sum(sample.home for sample in self.samples) > len(self.samples)

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
    return sorted(cells, key=lambda cell: (cell.condition.order, cell.temperature, cell.language))


@dataclass(frozen=True, slots=True)
class Pair:
    """B against A in one figure, of which less is better; `shown` says whether a difference is shown."""

    a: Cell
    b: Cell
    difference: Difference
    shown: bool

    @property
    def verdict(self) -> str:
        """Of B."""
        if not self.shown:
            return NONE_SHOWN
        return WORSE if self.difference.superiority > 0.5 else BETTER


@dataclass(frozen=True, slots=True)
class Ranking:
    """The languages of one condition and temperature by one quantile, the fastest first, and every pair's verdict."""

    condition: Condition
    temperature: str
    quantile: str
    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]

    @property
    def runs_needed(self) -> int:
        """How many runs of each are the least that can show a difference among so many languages."""
        return runs_needed(pair_level(len(self.cells)))

    @property
    def enough(self) -> bool:
        """Whether every language has as many."""
        return all(len(cell.samples) >= self.runs_needed for cell in self.cells)


def runs_needed(level: float) -> int:
    """How many runs on each side could show a difference at this level: when all of one are above all of the other."""
    runs = 2
    while 2 / math.comb(2 * runs, runs) > level:
        runs += 1
    return runs


def rank(cells: Sequence[Cell], quantile: str) -> list[Ranking]:
    """A ranking for each condition and temperature with at least two languages, of what the runs were for."""
    rankings = []
    homes = [cell for cell in cells if cell.home]
    for (condition, temperature), group in itertools.groupby(homes, key=lambda c: (c.condition, c.temperature)):
        known = [(estimate.value, cell) for cell in group if (estimate := cell.estimate(quantile)) is not None]
        ordered = [cell for _, cell in sorted(known, key=lambda each: (each[0], each[1].language))]
        if len(ordered) > 1:
            values = [cell.values(quantile) for cell in ordered]
            different = pairs_that_differ(values)
            confidence = 1 - pair_level(len(ordered))
            pairs = [
                Pair(ordered[i], ordered[j], difference(values[i], values[j], confidence), (i, j) in different)
                for i, j in itertools.combinations(range(len(ordered)), 2)
            ]
            rankings.append(Ranking(condition, temperature, quantile, tuple(ordered), tuple(pairs)))
    return rankings
