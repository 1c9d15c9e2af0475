"""The sections "Comparison" and "Load": repeats put together, languages ranked, the knee of the load curve.

Rules:
- a group is the runs of one condition, language and temperature; each run gives one number for a quantile
- the figure of a group is the median over its runs; its interval is over runs, from two runs on (`intervals.over_runs`)
- one run alone has only its own interval, which is not evidence about another run: nothing is ranked by it
- languages are ranked only as far as a stepwise test over runs allows (`intervals.pairs_that_differ`): the chance of
  any wrong difference within a condition is 5 %
- the plateau of a load curve is its lowest p99; a rate is off it when its p99 is more than twice as much, or when it
  loses more than 1 % beyond the loss of the best rate; the knee lies between the last rate on the plateau and the first
  rate from which on all are off it

The numbers come from `samples`, and so from the query `request_rows.ROWS_SQL`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median as middle
from typing import NamedTuple

from workload_generator.results.report import intervals
from workload_generator.results.report.intervals import Difference
from workload_generator.results.report.runs import CONDITION_COLUMNS, GROUP_COLUMNS, RunCondition, language_order
from workload_generator.results.report.samples import WHOLE, Sample
from workload_generator.results.report.table import COUNT, MS, NUMBER, SHARE, TEXT, Table, TableColumn, Value

BETTER, WORSE, NONE_SHOWN = "better", "worse", "no difference shown"

_ESTIMATED = ("p50", "p99", "p99.9")
_KNEE_FACTOR = 2.0
_KNEE_LOSS = 0.01
_KNEE_LEAST_RATES = 3


class Estimate(NamedTuple):
    """A figure of a group with its interval. `of` is the interval's basis: `runs` or `one run`. NaN is unknown."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    confidence: float = math.nan
    of: str = ""


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The runs of one condition, language and temperature."""

    condition: RunCondition
    language: str
    temperature: str
    samples: tuple[Sample, ...]

    @property
    def home(self) -> bool:
        """Whether most of its runs measured this temperature on purpose: cold starts of a warm run are incidental."""
        return 2 * sum(sample.home for sample in self.samples) > len(self.samples)

    @property
    def arrivals(self) -> int:
        """The number of arrivals in all runs."""
        return sum(sample.arrivals for sample in self.samples)

    @property
    def served(self) -> int:
        """The number of answered arrivals in all runs."""
        return sum(sample.served for sample in self.samples)

    @property
    def where(self) -> str:
        """The condition, and the temperature where that is not clear from the condition."""
        clear = self.temperature in self.condition.variant or self.temperature == "unknown"
        return self.condition.label + ("" if clear else f", {self.temperature}")

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.language}, {self.condition.label}, {self.temperature}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The values of `GROUP_COLUMNS` and of the column `temperature`."""
        return *self.condition.cells, self.language, self.temperature

    @property
    def beyond(self) -> str:
        """The text of a time beyond the timeout of its requests."""
        return f"> {self.samples[0].run.timeout}"

    def values(self, quantile: str, answered: bool = False) -> list[float]:
        """The quantile of each run that has one, in ms."""
        readings = (sample.ttfb.answered if answered else sample.ttfb.all for sample in self.samples)
        return [value for reading in readings if not math.isnan(value := reading[quantile])]

    def estimate(self, quantile: str, answered: bool = False) -> Estimate:
        """The figure of the group in ms; empty when `answered` and no run has one."""
        values = self.values(quantile, answered)
        if not values:
            return Estimate()
        interval = intervals.over_runs(values)
        if interval is not None:
            return Estimate(intervals.median(values), *interval, of="runs")
        if answered:
            return Estimate(values[0], of="one run")
        return Estimate(values[0], *self.samples[0].within[quantile], of="one run")

    def error_shares(self) -> list[float]:
        """The share of failed and dropped arrivals of each run."""
        return [1 - sample.served / sample.arrivals for sample in self.samples]


def make_groups(samples: Iterable[Sample]) -> list[RunGroup]:
    """The groups of all samples except the `all` ones, in a readable order."""
    groups: dict[tuple[RunCondition, str, str], list[Sample]] = {}
    for sample in samples:
        if sample.temperature != WHOLE:
            groups.setdefault((sample.run.condition, sample.language, sample.temperature), []).append(sample)
    made = [RunGroup(*key, tuple(group)) for key, group in groups.items()]
    return sorted(made, key=lambda group: (group.condition.order, group.temperature, language_order(group.language)))


@dataclass(frozen=True, slots=True)
class Pair:
    """B against A in one figure, of which less is better; `shown` is whether the test shows a difference."""

    a: RunGroup
    b: RunGroup
    figure: str
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
    """The languages of one condition and temperature by one quantile, the fastest first, and each pair's verdict."""

    quantile: str
    groups: tuple[RunGroup, ...]
    pairs: tuple[Pair, ...]

    @property
    def runs_needed(self) -> int:
        """The least number of runs of each language that can show a difference among these languages."""
        level, runs = intervals.pair_level(len(self.groups)), 2
        while 2 / math.comb(2 * runs, runs) > level:
            runs += 1
        return runs


def rank(groups: Sequence[RunGroup], quantile: str) -> list[Ranking]:
    """A ranking for each condition and temperature with at least two languages, incidental temperatures left out."""
    rankings = []
    homes = [group for group in groups if group.home]
    for _, peers in itertools.groupby(homes, key=lambda group: (group.condition, group.temperature)):
        ordered = sorted(peers, key=lambda group: (group.estimate(quantile).value, group.language))
        if len(ordered) > 1:
            values = [group.values(quantile) for group in ordered]
            different = intervals.pairs_that_differ(values)
            confidence = 1 - intervals.pair_level(len(ordered))
            pairs = []
            for i, j in itertools.combinations(range(len(ordered)), 2):
                difference = intervals.difference(values[i], values[j], confidence)
                pairs.append(Pair(ordered[i], ordered[j], quantile, difference, (i, j) in different))
            rankings.append(Ranking(quantile, tuple(ordered), tuple(pairs)))
    return rankings


@dataclass(frozen=True, slots=True)
class Knee:
    """The knee of one language under conditions that differ in nothing but the rate.

    `off` None: on the plateau at every rate; `on` None: even the lowest rate is off it. `off_ms` and `off_errors` are
    the figures of the rate `off`.
    """

    condition: RunCondition
    language: str
    temperature: str
    rates: tuple[float, ...]
    plateau_ms: float
    on: float | None
    off: float | None
    off_ms: float = math.nan
    off_errors: float = math.nan

    @property
    def reason(self) -> str:
        """The figure that left the plateau."""
        if self.off is None:
            return "nothing"
        if self.off_ms > _KNEE_FACTOR * self.plateau_ms:
            off = "beyond the timeout" if math.isinf(self.off_ms) else f"{self.off_ms:,.3g} ms"
            return f"p99 {self.plateau_ms:,.3g} ms → {off}"
        return f"{self.off_errors:.1%} failed or dropped"


def find_knees(groups: Sequence[RunGroup]) -> list[Knee]:
    """The knee of each language that was run at three rates or more."""

    def curve_of(group: RunGroup) -> tuple[str, str, str, str, str]:
        condition = group.condition
        return (condition.scenario, condition.variant, condition.platform, group.language, group.temperature)

    homes = sorted((group for group in groups if group.home and group.condition.rate), key=curve_of)
    curves = [
        sorted(curve, key=lambda group: group.condition.rate or 0) for _, curve in itertools.groupby(homes, curve_of)
    ]
    return [knee for curve in curves if len(curve) >= _KNEE_LEAST_RATES and (knee := _knee(curve)) is not None]


def _knee(curve: Sequence[RunGroup]) -> Knee | None:
    p99 = [group.estimate("p99").value for group in curve]
    errors = [middle(group.error_shares()) for group in curve]
    plateau = min(p99)
    if math.isinf(plateau):
        answered = [group.estimate("p99", answered=True).value for group in curve]
        plateau = min(answered, key=lambda ms: (math.isnan(ms), ms))
    if math.isnan(plateau):
        return None
    floor = min(errors)
    off = [time > _KNEE_FACTOR * plateau or share > floor + _KNEE_LOSS for time, share in zip(p99, errors, strict=True)]
    first = len(off)
    while first and off[first - 1]:
        first -= 1
    rates = tuple(float(group.condition.rate or 0) for group in curve)
    head = (curve[0].condition, curve[0].language, curve[0].temperature, rates, plateau)
    on = rates[first - 1] if first else None
    return Knee(*head, on, None) if first == len(rates) else Knee(*head, on, rates[first], p99[first], errors[first])


def ttfb_table(groups: Iterable[RunGroup]) -> Table:
    """The figures that are compared, with their intervals."""
    figures: list[TableColumn] = []
    for name in _ESTIMATED:
        figures += MS(name, brief=name != "p99.9") + MS(f"{name} low", f"{name} high")
        figures += MS(f"{name} answered", brief=False)
    table = Table.named(
        "ttfb",
        (
            *(GROUP_COLUMNS + TEXT("temperature") + COUNT("runs") + COUNT("arrivals", brief=False) + SHARE("failed")),
            *figures,
            *(SHARE("confidence", brief=False) + TEXT("interval of", brief=False)),
        ),
    )
    for group in groups:
        values: list[Value] = []
        for name in _ESTIMATED:
            estimate = group.estimate(name)
            values += [*estimate[:3], group.estimate(name, answered=True).value]
        counts = (len(group.samples), group.arrivals, 1 - group.served / group.arrivals)
        table.add(*group.cells, *counts, *values, estimate.confidence, estimate.of, beyond=group.beyond)
    return table


def pairs_table(rankings: Iterable[Ranking]) -> Table:
    """Each pair of languages under the same condition."""
    rows: list[tuple[Value, ...]] = []
    for pair in (pair for ranking in rankings for pair in ranking.pairs):
        test = pair.difference
        words = (pair.a.temperature, pair.figure, pair.a.language, pair.b.language, pair.verdict)
        interval = (test.estimate, *test.interval)
        rows.append((*pair.a.condition.cells, *words, *interval, test.superiority, test.p, *test.runs))
    return Table.named(
        "pairs",
        (
            *(CONDITION_COLUMNS + TEXT("temperature", "figure", "A", "B", "B is")),
            *(NUMBER("ratio", "ratio low", "ratio high") + SHARE("confidence", brief=False)),
            *(NUMBER("effect", "p", brief=False) + COUNT("runs of A", "runs of B", brief=False)),
        ),
        rows,
        beyond=["> any"] * len(rows),
    )


def knees_table(knees: Iterable[Knee]) -> Table:
    """Where load curves leave their plateau."""
    rows: list[tuple[Value, ...]] = []
    for knee in knees:
        scenario, _, variant = knee.condition.cells
        rates = (knee.plateau_ms, knee.on, knee.off)
        rows.append((scenario, variant, knee.language, knee.temperature, *rates, knee.reason))
    return Table.named(
        "knees",
        (
            *(TEXT("scenario") + TEXT("variant", brief=False) + TEXT("language") + TEXT("temperature", brief=False)),
            *(MS("plateau p99") + NUMBER("on it up to (rps)", "off it from (rps)") + TEXT("what left")),
        ),
        rows,
    )
