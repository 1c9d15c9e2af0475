"""The data of the charts: aggregated columns, small enough for the page.

A dataset is a table whose rows share few different `keys` (panel, scenario, language, rate, run …), stored once, and
have some numbers each. Infinite and unknown numbers are null. The page filters by scenario, language and rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workload_generator.functions import languages
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cold_starts import LAST_IN_CLUSTER, PHASE_NAMES, phases_of, typical
from workload_generator.results.report.intervals import Values, median, over_runs, quantiles
from workload_generator.results.report.nodes_and_pods import TimeSeries
from workload_generator.results.report.runs import COLD_START, RecordedRun, RunCondition, language_order
from workload_generator.results.report.samples import COLD_WORD, CURVE_SHARES, HEAT_EDGES_MS, RunTimeline

NO_TRIGGER = "—"
"""The name of the trigger where receipts name none."""

SENT, RECEIVED = "events sent", "receipts"
FILTERS = ("scenario", "language", "rate")

_DIGITS = 4
_DOTS = 150
_COLD_MARKS = 40
_NUMBERS = {name: number for number, name in enumerate(PHASE_NAMES)}
_LEAST_MS = 1e-3  # a log scale has no zero
_DELIVERY_SHARES = tuple(n / 50 for n in range(51)) + (0.99, 0.999)

Keys = tuple[str, ...]
Rows = Iterator[tuple[Keys, Sequence[float | None]]]
"""Rows of a dataset: keys, the values of `FILTERS` first, and numbers."""


@dataclass(slots=True)
class Dataset:
    """Rows as parallel columns: `group` is the index of a row's keys in `groups`."""

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    groups: dict[tuple[str, ...], int] = field(default_factory=dict)
    group: list[int] = field(default_factory=list)
    columns: list[list[float | None]] = field(default_factory=list)

    def add(self, keys: tuple[str, ...], values: Sequence[float | None]) -> None:
        """Append a row."""
        if not self.columns:
            self.columns = [[] for _ in self.fields]
        self.group.append(self.groups.setdefault(keys, len(self.groups)))
        for column, value in zip(self.columns, values, strict=True):
            column.append(_short(value))

    def to_json(self) -> dict[str, Any]:
        """As the page's script reads it."""
        return {
            "keys": self.keys,
            "groups": list(self.groups),
            "group": self.group,
            "fields": dict(zip(self.fields, self.columns, strict=True)) if self.columns else {},
        }

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, slots=True)
class Detail:
    """The most bins of a chart over time, bins of a heat map over time, and dots of a group."""

    bins: int
    heat_bins: int
    dots: int = _DOTS


def _key(condition: RunCondition, language: str) -> Keys:
    """The values of `FILTERS`."""
    return condition.scenario, language, condition.rate_label


def _groups(answers: Answers, _: Detail) -> Rows:
    """Intervals of groups and points of their runs: p50 and p99. A time beyond the timeout stands at the timeout."""
    for group in (group for group in answers.groups if group.home):
        limit = group.samples[0].run.timeout_ms
        for quantile in ("p50", "p99"):
            keys = (*_key(group.condition, group.language), f"{group.where}, {quantile}", quantile)
            value, low, high, confidence, of = group.estimate(quantile)
            what = f"interval over {len(group.samples)} runs" if of == "runs" else "interval of one run"
            row = (min(value, limit), min(low, limit), min(high, limit), confidence)
            yield (*keys, what, ""), (*row, float(math.isinf(value)))
            for sample in group.samples:
                ms = sample.ttfb.all[quantile]
                yield (
                    (*keys, "one run", sample.run.label),
                    (min(ms, limit), None, None, None, float(math.isinf(ms))),
                )


def _curves(answers: Answers, _: Detail) -> Rows:
    """Quantiles of groups from 0 to p99.99, each with its interval; none beyond the timeout."""
    for group in (group for group in answers.groups if group.home):
        runs, first = len(group.samples), group.samples[0]
        sure = over_runs([0.0] * runs)
        band = f"over {runs} runs, {sure.confidence:.0%}" if sure else "of one run alone, 95%"
        keys = (*_key(group.condition, group.language), group.where, band)
        fewest = min(sample.arrivals for sample in group.samples)
        for index, share in enumerate(CURVE_SHARES):
            if share * fewest > fewest - 1:
                break  # the quantile is the maximum from here on
            values = [float(sample.curve[index]) for sample in group.samples]
            middle, interval = median(values), over_runs(values)
            if not math.isfinite(middle):
                break
            low, high = (interval or first.around[index])[:2]
            ends: list[float | None] = [min(max(end, _LEAST_MS), first.run.timeout_ms) for end in (low, high)]
            if not interval and (not low or math.isinf(high)):
                ends = [None, None]  # too few arrivals for an interval
            yield keys, (share, 1 / (1 - share), max(middle, _LEAST_MS), *ends)


def _timeline(answers: Answers, detail: Detail) -> Rows:
    """Rates (per second) and latency of each run over time; `t` is the middle of a bin of `width` seconds."""
    for line in _timelines(answers):
        run = line.run
        step = max(1, math.ceil(len(line.start_s) / detail.bins))
        width = line.width_s * step
        is_constant = "arrivals" not in run.condition.variant and run.language == line.language and run.mode == "open"
        planned = (run.condition.rate or None) if is_constant else None
        for first in range(0, len(line.start_s), step):
            part = slice(first, first + step)
            ok, failed = int(line.ok[part].sum()), int((line.failed[part] + line.dropped[part]).sum())
            if not ok + failed and run.mode == COLD_START:
                continue
            served = line.ok[part] > 0
            # the greatest of the bins put together, so that no stall is hidden
            p50, p99 = (float(ms[part][served].max()) if served.any() else None for ms in (line.p50, line.p99))
            t = float(line.start_s[first]) + width / 2
            yield _run_keys(line), (t, width, ok / width, failed / width, planned, p50, p99)


def _timelines(answers: Answers) -> list[RunTimeline]:
    """The timelines of all runs in the order of their conditions and languages."""
    lines = [line for each in answers.data for line in each.timelines]
    return sorted(lines, key=lambda line: (line.run.condition.order, language_order(line.language), line.run.id))


def _panel_keys(line: RunTimeline) -> Keys:
    condition = line.run.condition
    return *_key(condition, line.language), f"{line.language}: {condition.label}"


def _run_keys(line: RunTimeline) -> Keys:
    return *_panel_keys(line), line.run.label, "" if line.run.counts_in else line.run.state


def _cold_marks(answers: Answers, _: Detail) -> Rows:
    """Some of the cold requests of each run, evenly over its time."""
    for line in _timelines(answers):
        picked = np.unique(np.linspace(0, max(0, len(line.cold_ms) - 1), _COLD_MARKS).astype(int))[: len(line.cold_ms)]
        yield from _rows(_run_keys(line), line.cold_at_s[picked], np.maximum(line.cold_ms[picked], _LEAST_MS))


def _ramps(answers: Answers, _: Detail) -> Rows:
    """The ramp of each panel over time: the longest of its runs."""
    begins: dict[Keys, float] = {}
    for line in _timelines(answers):
        keys = _panel_keys(line)
        begins[keys] = min(begins.get(keys, 0.0), float(line.start_s[0]))
    for keys, begin in begins.items():
        if begin < 0:
            yield keys, (begin, 0.0)


def _heat(answers: Answers, detail: Detail) -> Rows:
    """Answers per second by time and latency, all runs of a condition and language together."""
    panels: dict[Keys, list[RunTimeline]] = {}
    for line in _timelines(answers):
        if answers.compares(line.run) and not line.run.condition.variant.endswith("cold starts"):
            panels.setdefault(_panel_keys(line), []).append(line)
    for keys, lines in panels.items():
        first = min(float(line.start_s.min()) for line in lines)
        last = max(float(line.start_s.max()) + line.width_s for line in lines)
        width = max(line.width_s for line in lines)
        width *= math.ceil((last - first) / width / detail.heat_bins)
        bins = math.ceil((last - first) / width + 1e-9)
        total = np.zeros((bins, len(HEAT_EDGES_MS) - 1))
        for line in lines:
            np.add.at(total, ((line.start_s - first) / width + 1e-9).astype(np.int64), line.heat)
        for at, level in zip(*(axis.tolist() for axis in np.nonzero(total)), strict=True):
            start = first + at * width
            rate = float(total[at, level]) / width / len(lines)
            yield keys, (start, start + width, float(HEAT_EDGES_MS[level]), float(HEAT_EDGES_MS[level + 1]), rate)


def _cold(answers: Answers, detail: Detail) -> Rows:
    """Cold starts: dots, spread by rank, and the quartiles of each group."""
    for group in sorted(answers.groups, key=lambda group: not group.home):
        if group.temperature != COLD_WORD or not group.served:
            continue
        values = np.sort(np.concatenate([sample.picked for sample in group.samples]))
        keys = (*_key(group.condition, group.language), group.condition.label)
        q1, middle, q3 = quantiles(values, 0, (0.25, 0.5, 0.75)).tolist()
        yield (*keys, "quartiles"), (middle, q1, q3, 0.0, float(group.served))
        picked = np.unique(np.linspace(0, len(values) - 1, detail.dots).astype(int))
        for index in picked.tolist():
            offset = (index * 0.618034) % 1 - 0.5  # the golden ratio spreads neighbours evenly and reproducibly
            yield (*keys, "cold start"), (float(values[index]), None, None, offset, None)


def _phases(answers: Answers, _: Detail) -> Rows:
    """The mean of each phase over proven cold starts, which add up; its quantiles are for the tooltip."""
    for group in answers.group_starts():
        for phase in phases_of(group.starts):
            keys = (*_key(group.condition, group.language), group.condition.label, PHASE_NAMES[phase.name])
            p50, p90 = quantiles(phase.ms, 0, (0.5, 0.9)).tolist()
            times = (_tenth(ms) for ms in (phase.mean, p50, p90, phase.error_ms, phase.ready_ms))
            yield keys, (_NUMBERS[phase.name], len(phase.ms), *times)


def _waterfall(answers: Answers, _: Detail) -> Rows:
    """The median proven cold start of each language, phase by phase."""
    for group in answers.group_starts():
        start = typical(group.starts)
        if start is None:
            continue
        for name, (begin, end) in start.phases.items():
            which = f"run {start.run.id}, arrival {start.seq}" + (", 1 s grid" if name in start.grid else "")
            panel = f"{group.condition.label}, {group.language}"
            keys = (*_key(group.condition, group.language), panel, PHASE_NAMES[name], which)
            ready = start.ready_ms if name == LAST_IN_CLUSTER else None
            times = (_tenth(ms) for ms in (begin, end, end - begin, start.errors_ms[name], ready))
            yield keys, (_NUMBERS[name], *times)


def _tenth(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 1)


def _outcomes(answers: Answers, _: Detail) -> Rows:
    """How the arrivals of compared runs ended, all runs of a condition and language together."""
    totals: dict[tuple[RunCondition, str], Counter[str]] = {}
    for each in answers.data:
        for language, counter in each.outcomes.items() if answers.compares(each.run) else ():
            totals.setdefault((each.run.condition, language), Counter()).update(counter)
    for (condition, language), total in sorted(
        totals.items(), key=lambda each: (each[0][0].order, language_order(each[0][1]))
    ):
        for name, number in sorted(total.items()):
            keys = (*_key(condition, language), condition.label, name, outcome_class(name))
            yield keys, (float(number), number / total.total())


def outcome_class(outcome: str) -> str:
    """The class of an outcome, which has the colour."""
    if outcome.isdigit() and outcome != "0":
        return f"{outcome[0]}xx"
    return outcome if outcome in ("timeout", "dropped") else "other error"


def _load(answers: Answers, _: Detail) -> Rows:
    """The load curve by rate: p50, p99, the share of failed arrivals and the achieved share of the plan."""
    groups = [
        group
        for group in answers.groups
        if group.home and group.condition.rate and not group.condition.variant.endswith("cold starts")
    ]
    rates: dict[str, set[float | None]] = {}
    for group in groups:
        rates.setdefault(group.condition.without_rate, set()).add(group.condition.rate)
    for group in groups:
        panel = group.condition.without_rate
        if len(rates[panel]) < 2:
            continue  # one rate is not a curve
        limit = group.samples[0].run.timeout_ms
        p50, p99 = (group.estimate(quantile) for quantile in ("p50", "p99"))
        times = [min(value, limit) for estimate in (p50, p99) for value in estimate[:3]]
        beyond = float(math.isinf(p99.value))
        failed, achieved = sorted(group.error_shares()), sorted(_achieved(sample.run) for sample in group.samples)
        shares = (failed[len(failed) // 2], achieved[len(achieved) // 2])
        keys = (*_key(group.condition, group.language), panel, "p99 beyond the timeout" if beyond else "answered")
        yield keys, (group.condition.rate, *times, beyond, *shares, float(len(group.samples)))


def _achieved(run: RecordedRun) -> float:
    planned, sent = run.row["planned"], run.row["sent"]
    return sent / planned if planned and sent is not None else math.nan


def _delivery(answers: Answers, _: Detail) -> Rows:
    """The delay from request to first receipt, by shares of all events: lost events leave the curve below 100 %."""
    for each in answers.deliveries:
        if len(each.delay_ms):
            shares = np.array(_DELIVERY_SHARES) * (len(each.delay_ms) / each.ranked)
            delays = np.maximum(quantiles(each.delay_ms, 0, _DELIVERY_SHARES), _LEAST_MS)
            yield from _rows((*_event_keys(each.run), each.trigger or NO_TRIGGER), shares, delays)


def _delivery_rates(answers: Answers, _: Detail) -> Rows:
    """Events sent, and receipts by trigger, per second, over time."""
    seen = set()
    for each in answers.deliveries:
        keys = _event_keys(each.run)
        if each.run.id not in seen:
            yield from _rows((*keys, NO_TRIGGER, SENT), each.at_s, each.sent_per_s)
        seen.add(each.run.id)
        yield from _rows((*keys, each.trigger or NO_TRIGGER, RECEIVED), each.at_s, each.received_per_s)


def _event_keys(run: RecordedRun) -> Keys:
    return *_key(run.condition, run.language or languages.ALL), run.condition.label, run.label


def _series(answers: Answers, by_run: Mapping[int, Sequence[TimeSeries]]) -> Rows:
    """The latency of a run and series of the cluster on the same time axis, a row for each metric."""
    for each in answers.data:
        run, series = each.run, by_run.get(each.run.id, ())
        keys = (*_key(run.condition, run.language or languages.ALL), f"{run.label}: {run.condition.label}", run.label)
        for line in each.timelines if series else ():
            yield from _rows((*keys, "TTFB p99 (ms)", line.language), line.start_s + line.width_s / 2, line.p99)
        for own in sorted(series, key=lambda own: (own.metric != "replicas", own.metric)):
            yield from _rows((*keys, own.metric, own.name), own.at_s, own.value)


def _rows(keys: Keys, *columns: Values) -> Rows:
    """Rows with the same keys."""
    return ((keys, row) for row in zip(*(column.tolist() for column in columns), strict=True))


_LOAD = "rps p50 p50_low p50_high p99 p99_low p99_high beyond failed achieved runs"
_DATASETS: Mapping[str, tuple[Callable[[Answers, Detail], Rows], str, str]] = {
    "groups": (_groups, "panel quantile what run", "ms low high confidence beyond"),
    "curves": (_curves, "panel band", "share nines ms low high"),
    "timeline": (_timeline, "panel run state", "t width ok failed planned p50 p99"),
    "cold_marks": (_cold_marks, "panel run state", "t ms"),
    "ramps": (_ramps, "panel", "begin end"),
    "heat": (_heat, "panel", "t end low high per_s"),
    "cold": (_cold, "panel what", "ms low high offset count"),
    "phases": (_phases, "panel phase", "number starts ms p50 p90 error ready"),
    "waterfall": (_waterfall, "panel phase start", "number begin end ms error ready"),
    "outcomes": (_outcomes, "panel outcome ended", "arrivals share"),
    "load": (_load, "panel what", _LOAD),
    "delivery": (_delivery, "panel run trigger", "share ms"),
    "delivery_rates": (_delivery_rates, "panel run trigger what", "t per_s"),
    "machines": (lambda answers, _: _series(answers, answers.usage), "panel run metric name", "t value"),
    "scaling": (lambda answers, _: _series(answers, answers.scaling), "panel run metric name", "t value"),
}
"""The rows of each dataset, its keys behind `FILTERS`, and its fields."""


def make_datasets(answers: Answers, detail: Detail) -> dict[str, Dataset]:
    """The datasets by name; a chart without rows is left out of the page."""
    datasets = {}
    for name, (rows, keys, fields) in _DATASETS.items():
        data = datasets[name] = Dataset((*FILTERS, *keys.split()), tuple(fields.split()))
        for own, values in rows(answers, detail):
            data.add(own, values)
    return datasets


def languages_of(answers: Answers) -> list[str]:
    """All languages, in order."""
    return sorted({sample.language for each in answers.data for sample in each.samples}, key=language_order)


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 1e9:
        return int(value)
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 1000 else round(value, 1)
