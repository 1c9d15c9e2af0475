"""`kn-bench compare`: the same groups of two sets of runs against each other, B against A.

Rules:
- only equal conditions are compared: scenario, language, rate, arrival process, concurrency, triggers, workers and
  temperature make the group; platform, version, timeout and, of warm requests, the known path through the cluster must
  be the same on both sides
- a verdict comes from whole runs (exact Mann–Whitney), adjusted for the number of compared figures
  (Benjamini–Hochberg): when nothing changed, the chance of any `worse` or `better` is 5 %
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.terminal import terminal_table
from workload_generator.results.report.answers import read_data
from workload_generator.results.report.comparison import WORSE, Pair, RunGroup, make_groups
from workload_generator.results.report.intervals import CONFIDENCE, difference, false_discovery, median
from workload_generator.results.report.runs import COLD_START, RecordedRun
from workload_generator.results.report.table import MS, NOTHING, SHARE, written

_LEVEL = round(1 - CONFIDENCE, 9)
_TIMES, _FAILED = ("p50", "p99"), "failed"
_HEADER = ("figure", "A", "B", "change", "confidence", "effect", "verdict")

Matching = Callable[[RunGroup], tuple[object, ...]]
GroupPair = tuple[RunGroup, RunGroup]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two sets of runs."""

    name: str
    db: Path
    experiments: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The changes, the groups and runs without a counterpart, and, when forced, the reasons `against` comparing."""

    changes: list[Pair]
    only_a: list[str]
    only_b: list[str]
    left_out: list[str]
    against: list[str]

    @property
    def worse(self) -> bool:
        """Whether any figure is worse."""
        return any(change.verdict == WORSE for change in self.changes)

    @property
    def too_few(self) -> bool:
        """Whether some groups have too few runs to show any difference, even alone."""
        runs = {change.difference.runs for change in self.changes}
        return any(2 / math.comb(a + b, a) > _LEVEL for a, b in runs)


def compare(a: Side, b: Side, *, force: bool = False, include_invalid: bool = False) -> Comparison:
    """B against A. Raises UsageError when they are not comparable, unless forced, and BenchError."""
    groups_a, out_a = _read(a, include_invalid)
    groups_b, out_b = _read(b, include_invalid)
    pairs, matching = _pairs(groups_a, groups_b, force)
    against = (
        [] if pairs else [f"no condition in common: {a.name} has {_some(groups_a)}; {b.name} has {_some(groups_b)}"]
    )
    against += _different_attributes(pairs, a.name, b.name)
    if against and not force:
        reasons = "\n".join(f"  {reason}" for reason in against)
        raise UsageError(f"{a.name} and {b.name} are not comparable (--force compares them anyway):\n{reasons}")
    matched_a, matched_b = {matching(group) for group, _ in pairs}, {matching(group) for _, group in pairs}
    return Comparison(
        changes=_changes(pairs),
        only_a=[group.label for group in groups_a if matching(group) not in matched_a],
        only_b=[group.label for group in groups_b if matching(group) not in matched_b],
        left_out=[*out_a, *out_b],
        against=against,
    )


def comparison_tables(comparison: Comparison) -> Iterable[Table]:
    """For a terminal, one for each pair of groups."""
    for (a, b), changes in itertools.groupby(comparison.changes, key=lambda change: (change.a, change.b)):
        label = a.label if a.label == b.label else f"{a.label}, against {b.label}"
        title = f"{label} ({len(a.samples)} and {len(b.samples)} runs)"
        yield terminal_table(_HEADER, map(_texts, changes), title=title, texts=range(len(_HEADER)))


def _read(side: Side, include_invalid: bool) -> tuple[list[RunGroup], list[str]]:
    """The groups of one side, and the labels of the runs that are left out."""
    data = read_data(side.db, side.experiments)
    kept = [each for each in data if include_invalid or each.run.counts_in]
    out = [f"{side.name}: {each.run.label}" for each in data if not (include_invalid or each.run.counts_in)]
    groups = [group for group in make_groups(sample for each in kept for sample in each.samples) if group.home]
    if not groups:
        why = "no valid run (--include-invalid compares the others)" if data else "no runs"
        raise BenchError(f"{side.name} has {why}")
    return groups, out


def _strict(group: RunGroup) -> tuple[object, ...]:
    condition = group.condition
    return (condition.scenario, condition.rate, condition.variant, group.language, group.temperature)


def _pairs(a: Sequence[RunGroup], b: Sequence[RunGroup], force: bool) -> tuple[list[GroupPair], Matching]:
    """The pairs of groups with equal conditions; with `force`, and without such pairs, with ever fewer in common."""
    attempts: list[Matching] = [_strict]
    if force:
        attempts += [
            lambda group: (group.language, group.temperature),
            lambda group: (group.temperature,),
            lambda _: (),
        ]
    for matching in attempts:
        pairs = [(group, other) for group in a for other in b if matching(group) == matching(other)]
        if pairs:
            return pairs, matching
    return [], _strict


def _different_attributes(pairs: Iterable[GroupPair], a: str, b: str) -> list[str]:
    """The reasons against comparing, each once."""
    reasons: dict[str, None] = {}
    for pair in pairs:
        for name, attribute in _ATTRIBUTES.items():
            left, right = (_known(attribute, group) for group in pair)
            if left and right and left != right:
                reasons[f"{name}: {', '.join(left)} in {a}, {', '.join(right)} in {b}"] = None
        if pair[0].language != pair[1].language:
            reasons[f"language: {pair[0].language} in {a}, {pair[1].language} in {b}"] = None
    return list(reasons)


def _known(attribute: Callable[[RecordedRun], str | None], group: RunGroup) -> list[str]:
    return sorted(filter(None, {attribute(sample.run) for sample in group.samples}))


_ATTRIBUTES: dict[str, Callable[[RecordedRun], str | None]] = {
    "scenario": lambda run: run.condition.scenario,
    "rate": lambda run: run.condition.rate_label,
    "condition": lambda run: run.condition.variant or "constant arrivals",
    "platform": lambda run: str(run.row["platform"]),
    "version of the generator": lambda run: str(run.row["version"]),
    "timeout": lambda run: run.timeout,
    "path": lambda run: None if run.mode == COLD_START else run.path,  # a cold start always waits in the activator
}


def _changes(pairs: Sequence[GroupPair]) -> list[Pair]:
    rows = []
    for a, b in pairs:
        for figure in (*_TIMES, _FAILED):
            change = difference(_values(a, figure), _values(b, figure), relative=figure != _FAILED)
            rows.append((a, b, figure, change))
    adjusted = false_discovery([row[-1].p for row in rows])
    return [Pair(*row, p <= _LEVEL) for row, p in zip(rows, adjusted, strict=True)]


def _values(group: RunGroup, figure: str) -> list[float]:
    return sorted(group.error_shares()) if figure == _FAILED else group.values(figure)


def _texts(change: Pair) -> tuple[str, ...]:
    test, figure = change.difference, change.figure
    readings = [_values(group, figure) for group in (change.a, change.b)]
    ends = (test.estimate, test.interval.low, test.interval.high)
    if figure == _FAILED:
        values = [written(each[len(each) // 2], SHARE) for each in readings]
        middle, low, high = (f"{100 * value:+.2f} pp" for value in ends)
    else:
        figure, values = f"{figure} (ms)", [written(median(each), MS, change.a.beyond) for each in readings]
        middle, low, high = ("+∞" if value == math.inf else f"{value - 1:+.1%}" for value in ends)
    several = min(test.runs) > 1
    interval, confidence = (f" [{low}, {high}]", f"{test.interval.confidence:.1%}") if several else ("", NOTHING)
    return figure, *values, middle + interval, confidence, f"{test.superiority:.2f}", change.verdict


def _some(groups: Sequence[RunGroup]) -> str:
    labels = [group.label for group in groups]
    return "; ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")
