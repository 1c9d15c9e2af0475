"""What the pictures are drawn from: aggregated columns, small enough to be shipped in the page.

A dataset is a table whose rows share few different `keys` (panel, scenario, language, rate, run …), stored once, and
have some numbers each. Infinite and unknown numbers are null. The page filters by scenario, language and rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workload_generator.coldstart.proof import POINTS
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cells import Cell
from workload_generator.results.report.intervals import median, over_runs, quantiles
from workload_generator.results.report.machines import Line
from workload_generator.results.report.runs import Condition, Run
from workload_generator.results.report.samples import (
    COLD_WORD,
    CURVE_SHARES,
    HEAT_EDGES_MS,
    WHOLE,
    Timeline,
)
from workload_generator.results.report.specs import RECEIVED, SENT, phase_word
from workload_generator.results.report.starts import phases_of, typical

NO_TRIGGER = "—"
"""Where no trigger is named."""

FILTERS = ("scenario", "language", "rate")

_DIGITS = 4
_DOTS = 150
_COLD_MARKS = 40
_LEAST_MS = 1e-3  # a log scale has no zero
_DELIVERY_SHARES = tuple(n / 50 for n in range(51)) + (0.99, 0.999)


@dataclass(slots=True)
class Dataset:
    """Rows as a number of their keys and parallel columns of numbers."""

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    groups: dict[tuple[str, ...], int] = field(default_factory=dict)
    group: list[int] = field(default_factory=list)
    columns: list[list[float | None]] = field(default_factory=list)

    def add(self, keys: tuple[str, ...], *values: float | None) -> None:
        """One row."""
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
    """How fine the pictures over time may be: bins in all, and their number for one run or cell at most."""

    bins: int
    heat_bins: int
    dots: int = _DOTS


def make_datasets(answers: Answers, detail: Detail) -> dict[str, Dataset]:
    """All of them, by name; those without rows have no picture."""
    return {
        "cells": _cells(answers),
        "curves": _curves(answers),
        "timeline": _timeline(answers, detail),
        "cold_marks": _cold_marks(answers),
        "ramps": _ramps(answers),
        "heat": _heat(answers, detail),
        "cold": _cold(answers, detail),
        "phases": _phases(answers),
        "waterfall": _waterfall(answers),
        "outcomes": _outcomes(answers),
        "load": _load(answers),
        "delivery": _delivery(answers),
        "delivery_rates": _delivery_rates(answers),
        "machines": _machines(answers, answers.machines),
        "scaling": _machines(answers, answers.scaling),
    }


def _key(condition: Condition, language: str) -> tuple[str, str, str]:
    return condition.scenario, language, condition.rate_label


def _panel(cell: Cell) -> str:
    """What one small picture holds: a condition and a temperature."""
    told = cell.temperature in cell.condition.variant or cell.temperature == "unknown"
    return cell.condition.label + ("" if told else f", {cell.temperature}")


def _cells(answers: Answers) -> Dataset:
    """Points of runs and intervals of cells: p50 and p99. A time beyond the timeout stands at it, and `beyond` is 1."""
    data = Dataset((*FILTERS, "panel", "quantile", "what", "run"), ("ms", "low", "high", "confidence", "beyond"))
    for cell in answers.cells:
        if not cell.home:
            continue
        timeout = cell.samples[0].run.timeout_ms
        for quantile in ("p50", "p99"):
            keys = (*_key(cell.condition, cell.language), f"{_panel(cell)}, {quantile}", quantile)
            estimate = cell.estimate(quantile)
            if estimate is not None:
                interval = estimate.interval
                low, high, sure = (interval.low, interval.high, interval.confidence) if interval else (None,) * 3
                shown = min(estimate.value, timeout)
                what = f"interval over {len(cell.samples)} runs" if estimate.of == "runs" else "interval of one run"
                high = min(high, timeout) if high is not None else None
                low = min(low, timeout) if low is not None else None
                data.add((*keys, what, ""), shown, low, high, sure, float(math.isinf(estimate.value)))
            for sample in cell.samples:
                value = sample.ttfb.all[quantile]
                if not math.isnan(value):
                    beyond = float(math.isinf(value))
                    data.add((*keys, "one run", sample.run.label), min(value, timeout), None, None, None, beyond)
    return data


def _curves(answers: Answers) -> Dataset:
    """Quantiles of cells from 0 to p99.99, and the interval of each; nothing where they lie beyond the timeout."""
    data = Dataset((*FILTERS, "panel", "band"), ("share", "nines", "ms", "low", "high"))
    for cell in answers.cells:
        if not cell.home:
            continue
        runs = len(cell.samples)
        if runs > 1:
            sure = over_runs([0.0] * runs)
            band = f"over {runs} runs, {sure.confidence:.0%}" if sure else ""
        else:
            band = "of one run alone, 95%"
        keys = (*_key(cell.condition, cell.language), _panel(cell), band)
        fewest = min(sample.arrivals for sample in cell.samples)
        limit = cell.samples[0].run.timeout_ms
        for index, share in enumerate(CURVE_SHARES):
            if share * fewest > fewest - 1:
                break  # the quantile is the maximum from here on
            low: float | None
            high: float | None
            if runs > 1:
                values = [float(sample.curve[index]) for sample in cell.samples]
                interval = over_runs(values)
                middle = median(values)
                low, high = (interval.low, interval.high) if interval else (None, None)
            else:
                sample = cell.samples[0]
                middle, low, high = (float(each[index]) for each in (sample.curve, sample.low, sample.high))
                if not low or math.isinf(high):
                    low = high = None  # too few arrivals for an interval
            if not math.isfinite(middle):
                break
            ends = [None if end is None else min(max(end, _LEAST_MS), limit) for end in (low, high)]
            data.add(keys, share, 1 / (1 - share), max(middle, _LEAST_MS), *ends)
    return data


def _state(run: Run) -> str:
    return "" if run.counts_in else run.state


def _timeline(answers: Answers, detail: Detail) -> Dataset:
    """Rates (a second) and latency of each run over time; `t` is the middle of a bin of `width` seconds."""
    data = Dataset((*FILTERS, "panel", "run", "state"), ("t", "width", "ok", "lost", "planned", "p50", "p99"))
    for line in _lines(answers):
        run = line.run
        keys = (*_key(run.condition, line.language), _over_time(line), run.label, _state(run))
        step = max(1, math.ceil(len(line.start_s) / detail.bins))
        width = line.width_s * step
        planned = _planned(run, line.language, answers)
        for first in range(0, len(line.start_s), step):
            part = slice(first, first + step)
            ok, lost = int(line.ok[part].sum()), int((line.failed[part] + line.dropped[part]).sum())
            if not ok + lost and run.mode == "cold-start":
                continue
            p50, p99 = (_of_bins(values[part], line.ok[part]) for values in (line.p50, line.p99))
            t = float(line.start_s[first]) + width / 2
            data.add(keys, t, width, ok / width, lost / width, planned, p50, p99)
    return data


def _lines(answers: Answers) -> list[Timeline]:
    """Of all runs, in the order of their conditions and languages."""
    lines = [line for each in answers.data for line in each.timelines if len(line.start_s)]
    return sorted(lines, key=lambda line: (line.run.condition.order, line.language, line.run.id))


def _of_bins(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Of bins put together: the slowest one's, which hides no stall."""
    there = values[weights > 0]
    return float(there.max()) if len(there) else None


def _planned(run: Run, language: str, answers: Answers) -> float | None:
    """The planned rate, where it is one number: a constant one, to one language."""
    if "arrivals" in run.condition.variant or run.language != language or run.mode != "open":
        return None
    return run.condition.rate or None


def _over_time(line: Timeline) -> str:
    return f"{line.language}: {line.run.condition.label}"


def _cold_marks(answers: Answers) -> Dataset:
    """Some of the cold requests of each run, evenly over its time."""
    data = Dataset((*FILTERS, "panel", "run", "state"), ("t", "ms"))
    for line in _lines(answers):
        keys = (*_key(line.run.condition, line.language), _over_time(line), line.run.label, _state(line.run))
        picked = np.unique(np.linspace(0, max(0, len(line.cold_ms) - 1), _COLD_MARKS).astype(int))
        for index in picked[: len(line.cold_ms)]:
            data.add(keys, float(line.cold_at_s[index]), max(float(line.cold_ms[index]), _LEAST_MS))
    return data


def _ramps(answers: Answers) -> Dataset:
    """Where the ramp lies, for each picture over time: the longest of its runs."""
    data = Dataset((*FILTERS, "panel"), ("begin", "end"))
    begins: dict[tuple[str, str, str, str], float] = {}
    for line in _lines(answers):
        keys = (*_key(line.run.condition, line.language), _over_time(line))
        begins[keys] = min(begins.get(keys, 0.0), float(line.start_s[0]))
    for keys, begin in begins.items():
        if begin < 0:
            data.add(keys, begin, 0.0)
    return data


def _heat(answers: Answers, detail: Detail) -> Dataset:
    """Answers a second by time and latency, all runs of a condition and language together."""
    data = Dataset((*FILTERS, "panel"), ("t", "end", "low", "high", "per_s"))
    groups: dict[tuple[Condition, str], list[Timeline]] = {}
    for line in _lines(answers):
        if line.run.counts_in or answers.include_invalid or answers.nothing_valid:
            groups.setdefault((line.run.condition, line.language), []).append(line)
    for (condition, language), lines in groups.items():
        if condition.variant.endswith("cold starts"):
            continue
        first = min(float(line.start_s.min()) for line in lines)
        last = max(float(line.start_s.max()) + line.width_s for line in lines)
        width = max(line.width_s for line in lines)
        width *= math.ceil((last - first) / width / detail.heat_bins)
        bins = math.ceil((last - first) / width + 1e-9)
        total = np.zeros((bins, len(HEAT_EDGES_MS) - 1))
        for line in lines:
            index = ((line.start_s - first) / width + 1e-9).astype(np.int64)
            np.add.at(total, index, line.heat)
        keys = (*_key(condition, language), _over_time(lines[0]))
        for at, level in zip(*(axis.tolist() for axis in np.nonzero(total)), strict=True):
            start = first + at * width
            rate = float(total[at, level]) / width / len(lines)
            data.add(keys, start, start + width, float(HEAT_EDGES_MS[level]), float(HEAT_EDGES_MS[level + 1]), rate)
    return data


def _cold(answers: Answers, detail: Detail) -> Dataset:
    """Cold starts: dots (spread by rank, at most so many a cell) and the quartiles of each cell."""
    data = Dataset((*FILTERS, "panel", "what"), ("ms", "low", "high", "offset", "count"))
    for cell in sorted(answers.cells, key=lambda cell: not cell.home):
        if cell.temperature != COLD_WORD or not cell.served:
            continue
        values = np.sort(np.concatenate([sample.picked for sample in cell.samples]))
        keys = (*_key(cell.condition, cell.language), cell.condition.label)
        q1, middle, q3 = quantiles(values, 0, (0.25, 0.5, 0.75)).tolist()
        data.add((*keys, "quartiles"), middle, q1, q3, 0.0, float(cell.served))
        picked = np.unique(np.linspace(0, len(values) - 1, detail.dots).astype(int))
        for index in picked.tolist():
            offset = (index * 0.618034) % 1 - 0.5  # the golden ratio spreads neighbours evenly, and always the same
            data.add((*keys, "cold start"), float(values[index]), None, None, offset, None)
    return data


def _phases(answers: Answers) -> Dataset:
    """The mean of each phase over proven cold starts, which add up; its quantiles are for the pointer."""
    data = Dataset((*FILTERS, "panel", "phase"), ("number", "ms", "p50", "p90", "starts", "error"))
    for (condition, language), found in answers.starts_of().items():
        starts = [start for each in found for start in each.starts]
        for phase in phases_of(starts):
            keys = (*_key(condition, language), condition.label, phase_word(phase.name))
            p50, p90 = quantiles(phase.ms, 0, (0.5, 0.9)).tolist()
            data.add(keys, POINTS.index(phase.name), phase.mean, p50, p90, len(phase.ms), phase.error_ms)
    return data


def _waterfall(answers: Answers) -> Dataset:
    """The middle one of each language's proven cold starts, phase by phase."""
    data = Dataset((*FILTERS, "panel", "phase", "start"), ("number", "begin", "end", "ms", "error"))
    for (condition, language), found in answers.starts_of().items():
        start = typical([start for each in found for start in each.starts])
        if start is None:
            continue
        for name, (begin, end) in start.phases.items():
            told = f"run {start.run.id}, arrival {start.seq}" + (", 1 s grid" if name in start.grid else "")
            keys = (*_key(condition, language), f"{condition.label}, {language}", phase_word(name), told)
            data.add(keys, POINTS.index(name), begin, end, end - begin, start.error_ms)
    return data


def _outcomes(answers: Answers) -> Dataset:
    """How the arrivals of compared runs ended, all runs of a condition and language together."""
    data = Dataset((*FILTERS, "panel", "outcome", "ended"), ("arrivals", "share"))
    totals: dict[tuple[Condition, str], dict[str, int]] = {}
    for each in answers.data:
        if each.run.counts_in or answers.include_invalid or answers.nothing_valid:
            for language, counter in each.outcomes.items():
                total = totals.setdefault((each.run.condition, language), {})
                for outcome, number in counter.items():
                    name = "unknown" if outcome is None else str(outcome)
                    total[name] = total.get(name, 0) + number
    for (condition, language), total in sorted(totals.items(), key=lambda each: (each[0][0].order, each[0][1])):
        whole = sum(total.values())
        for name, number in sorted(total.items()):
            keys = (*_key(condition, language), condition.label, name, outcome_class(name))
            data.add(keys, float(number), number / whole)
    return data


def outcome_class(outcome: str) -> str:
    """The class by which an ending is coloured."""
    if outcome.isdigit() and outcome != "0":
        return f"{outcome[0]}xx"
    return outcome if outcome in ("timeout", "dropped") else "other error"


def _load(answers: Answers) -> Dataset:
    """The load curve: by rate p50, p99, the share that was lost and the share of the plan that was achieved."""
    fields = ("rps", "p50", "p50_low", "p50_high", "p99", "p99_low", "p99_high", "beyond", "lost", "achieved", "runs")
    data = Dataset((*FILTERS, "panel", "what"), fields)
    cells = [
        c for c in answers.cells if c.home and c.condition.rate and not c.condition.variant.endswith("cold starts")
    ]
    rates: dict[str, set[float | None]] = {}
    for cell in cells:
        rates.setdefault(cell.condition.without_rate, set()).add(cell.condition.rate)
    for cell in cells:
        condition = cell.condition
        panel = condition.without_rate
        if len(rates[panel]) < 2:
            continue  # one rate is no curve
        limit = cell.samples[0].run.timeout_ms
        lost = sorted(cell.error_shares())
        achieved = sorted(_achieved(sample.run) for sample in cell.samples)
        row: list[float | None] = [condition.rate]
        beyond = 0.0
        for quantile in ("p50", "p99"):
            estimate = cell.estimate(quantile)
            interval = estimate.interval if estimate else None
            row.append(min(estimate.value, limit) if estimate else None)
            row += [min(interval.low, limit), min(interval.high, limit)] if interval else [None, None]
            beyond = float(estimate is not None and math.isinf(estimate.value))
        row += [beyond, lost[len(lost) // 2], achieved[len(achieved) // 2], float(len(cell.samples))]
        what = "p99 beyond the timeout" if beyond else "answered"
        data.add((*_key(condition, cell.language), panel, what), *row)
    return data


def _achieved(run: Run) -> float:
    planned, sent = run.row["planned"], run.row["sent"]
    return sent / planned if planned and sent is not None else math.nan


def _delivery(answers: Answers) -> Dataset:
    """The delay from request to first receipt, by shares of all events: what never came leaves it below 100 %."""
    data = Dataset((*FILTERS, "panel", "run", "trigger"), ("share", "ms"))
    for each in answers.deliveries:
        if not len(each.delay_ms):
            continue
        filters = _key(each.run.condition, each.run.language or "unknown")
        keys = (*filters, each.run.condition.label, each.run.label, each.trigger or NO_TRIGGER)
        came = len(each.delay_ms) / each.ranked
        found = quantiles(each.delay_ms, 0, _DELIVERY_SHARES)
        for share, ms in zip(_DELIVERY_SHARES, found.tolist(), strict=True):
            if math.isfinite(ms):
                data.add(keys, share * came, max(ms, _LEAST_MS))
    return data


def _delivery_rates(answers: Answers) -> Dataset:
    """Events sent, and receipts by trigger, a second, over time."""
    data = Dataset((*FILTERS, "panel", "run", "trigger", "what"), ("t", "per_s"))
    seen = set()
    for each in answers.deliveries:
        keys = (*_key(each.run.condition, each.run.language or "unknown"), each.run.condition.label, each.run.label)
        lines = [(each.trigger or NO_TRIGGER, RECEIVED, each.received_per_s)]
        if each.run.id not in seen:
            lines.insert(0, (NO_TRIGGER, SENT, each.sent_per_s))
        seen.add(each.run.id)
        for trigger, what, values in lines:
            for t, rate in zip(each.at_s.tolist(), values.tolist(), strict=True):
                data.add((*keys, trigger, what), t, rate)
    return data


def _machines(answers: Answers, lines_of: Mapping[int, list[Line]]) -> Dataset:
    """Latency of a run, and under it replicas, CPU and memory on the same time axis; a panel for each measure."""
    data = Dataset((*FILTERS, "panel", "run", "metric", "name"), ("t", "value"))
    for each in answers.data:
        lines = lines_of.get(each.run.id)
        if not lines:
            continue
        run = each.run
        keys = (*_key(run.condition, run.language or "all"), f"{run.label}: {run.condition.label}", run.label)
        for timeline in each.timelines:
            for t, p99 in zip(timeline.start_s.tolist(), timeline.p99.tolist(), strict=True):
                data.add((*keys, "TTFB p99 (ms)", timeline.language), t + timeline.width_s / 2, p99)
        order = sorted(lines, key=lambda line: (line.metric != "replicas", line.metric))  # names as they came
        for line in order:
            for t, value in zip(line.at_s.tolist(), line.value.tolist(), strict=True):
                data.add((*keys, line.metric, line.name), t, value)
    return data


def languages_of(answers: Answers) -> list[str]:
    """All languages, in order."""
    return sorted({sample.language for each in answers.data for sample in each.samples if sample.temperature == WHOLE})


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 1e9:
        return int(value)
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 1000 else round(value, 1)
