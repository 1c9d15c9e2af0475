"""Thresholds: conditions on the results of an experiment, such as `ttfb.p99 < 50ms` or `errors < 1%`.

The same code evaluates them at the end of a run and in a report. They do not affect the verdict: a run that fails one
may have measured the system correctly.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workload_generator.base.clock import NS_PER_US, parse_duration
from workload_generator.base.histogram import BEYOND, Histogram
from workload_generator.experiment.field_kinds import one_of, short
from workload_generator.experiment.fields import scalar
from workload_generator.experiment.yaml_lines import Scalar

TIMES = ("ttfb", "corrected_ttfb", "lag")
SHARES = ("errors", "failed", "dropped")

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
_FORM = re.compile(r"\s*([\w-]+)(?:\.([\w.]+))?\s*(<=|>=|<|>)\s*(\S+)\s*")
_QUANTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?)")
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)(%?)")
_EXAMPLES = "use for example ttfb.p99 < 50ms or errors < 1%"


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition. `limit` is in µs for a time, and from 0 to 1 for a share; a share has no `quantile`."""

    text: str
    figure: str
    quantile: float | None
    comparison: str
    limit: float


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """The result of a threshold. `value` has the unit of the limit; infinite: beyond the timeout; None: no arrivals."""

    threshold: Threshold
    value: float | None
    passed: bool

    @property
    def value_text(self) -> str:
        """The value for people."""
        if self.value is None:
            return "nothing was measured"
        if self.threshold.quantile is None:
            return f"{100 * self.value:.4g}%"
        return "beyond the timeout" if self.value == BEYOND else f"{self.value / 1000:.3f} ms"

    def to_json(self) -> dict[str, Any]:
        """The result in the trailer of the log and in the JSON summary: times in ms, `beyond` after the timeout."""
        value: float | str | None = self.value
        if value == BEYOND:
            value = "beyond"
        elif self.value is not None and self.threshold.quantile is not None:
            value = self.value / 1000
        return {"threshold": self.threshold.text, "value": value, "passed": self.passed}


def threshold(value: object) -> Threshold:
    """The threshold in a scalar. Raises ValueError with the message for the user."""
    if not isinstance(value, Scalar):
        raise ValueError(f"must be text: {_EXAMPLES}")
    match = _FORM.fullmatch(value)
    if match is None:
        raise ValueError(f"{short(value)} is not a threshold: {_EXAMPLES}")
    figure, aggregate, comparison, limit = match.groups()
    figure = one_of(Scalar(figure), (*TIMES, *SHARES))
    text = f"{figure}{'.' + aggregate if aggregate else ''} {comparison} {limit}"
    if figure in SHARES:
        if aggregate:
            raise ValueError(f"{figure} is a share and has no .{aggregate}: use for example {figure} < 1%")
        return Threshold(text, figure, None, comparison, _share(limit))
    return Threshold(text, figure, _quantile(figure, aggregate), comparison, parse_duration(limit) / NS_PER_US)


def _quantile(figure: str, aggregate: str | None) -> float:
    if aggregate in ("min", "max"):
        return 0.0 if aggregate == "min" else 1.0
    match = _QUANTILE.fullmatch(aggregate or "")
    if match is None:
        raise ValueError(f"{figure} needs min, max or a quantile such as p50, p99 or p99.9: {figure}.p99")
    return float(match[1]) / 100


def _share(text: str) -> float:
    match = _PERCENT.fullmatch(text)
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{short(text)} is not a share: use for example 1% or 0.01")
    return share


def judge_thresholds(
    thresholds: Iterable[Threshold], counts: Mapping[str, Any], histograms: Mapping[str, Histogram]
) -> tuple[ThresholdResult, ...]:
    """Evaluate thresholds with the counts and the histograms of the measure phase. Without arrivals they fail."""
    judged = []
    for each in thresholds:
        value = _value(each, counts, histograms)
        passed = value is not None and _OPERATORS[each.comparison](value, each.limit)
        judged.append(ThresholdResult(each, value, passed))
    return tuple(judged)


def _value(each: Threshold, counts: Mapping[str, Any], histograms: Mapping[str, Histogram]) -> float | None:
    if each.quantile is not None:
        histogram = histograms.get(each.figure)
        return None if histogram is None else histogram.quantile_us(each.quantile)
    whole = counts["sent"] + counts["dropped"]
    lost = {"errors": counts["failed"] + counts["dropped"], "failed": counts["failed"], "dropped": counts["dropped"]}
    return lost[each.figure] / whole if whole else None


THRESHOLD = scalar(threshold, lambda each: each.text)
