"""The measurements of one run: quantiles by language and temperature, and rates and latency over time.

Rules:
- a measured arrival has exactly one temperature. Without an answer it counts as the run's home temperature: cold in a
  cold-start run, else the temperature of most answers of its language
- the reading `all` ranks failed and dropped arrivals slower than any limit; `answered` leaves them out
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.report import request_rows as rows
from workload_generator.results.report.intervals import Interval, Values, quantile_intervals, quantiles
from workload_generator.results.report.runs import COLD_START, RecordedRun

COLD_WORD, WARM_WORD, UNKNOWN_WORD, WHOLE = "cold", "warm", "unknown", "all"

TABLE_SHARES = {
    "min": 0.0, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0,
}  # fmt: skip
"""The quantiles of the tables."""

CURVE_SHARES = tuple(
    sorted({0.0, 0.001, 0.01, *(n / 40 for n in range(1, 40)), *(1 - 10 ** (-n / 8) for n in range(8, 33)), 0.999})
)
"""The quantiles of the curves, dense towards the slow end: to p99.99."""

_US_PER_MS = 1000.0
_PICKED = 4000
_BINS = 120
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
HEAT_PER_DECADE = 8
HEAT_EDGES_MS = 10 ** np.arange(-2, 5 + 1 / HEAT_PER_DECADE, 1 / HEAT_PER_DECADE)


@dataclass(frozen=True, slots=True)
class Readings:
    """Quantiles in ms at `TABLE_SHARES`, of all arrivals and of the answered ones; NaN without any."""

    all: dict[str, float]
    answered: dict[str, float]
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One run's measured arrivals of one language and one temperature (or `all`). Times in ms.

    `curve` is of all arrivals at `CURVE_SHARES`, `around` its intervals by this run alone, `within` those at
    `TABLE_SHARES`; `picked` are at most some thousand answered times, evenly by rank. `home` is whether the run
    measures this temperature on purpose.
    """

    run: RecordedRun
    language: str
    temperature: str
    home: bool
    arrivals: int
    served: int
    ttfb: Readings
    corrected: Readings | None
    within: dict[str, Interval]
    curve: Values
    around: list[Interval]
    picked: Values


@dataclass(frozen=True, slots=True)
class RunTimeline:
    """A run's arrivals of one language by the time of their start, in bins of `width_s`.

    `start_s` of a bin counts from the start of the measure phase, and is negative in the ramp. `heat[i, j]` counts the
    answers of bin i between the edges j and j + 1 of `HEAT_EDGES_MS`.
    """

    run: RecordedRun
    language: str
    width_s: float
    start_s: Values
    ok: NDArray[np.int64]
    failed: NDArray[np.int64]
    dropped: NDArray[np.int64]
    cold: NDArray[np.int64]
    p50: Values
    p99: Values
    heat: NDArray[np.int64]
    cold_at_s: Values
    cold_ms: Values


@dataclass(frozen=True, slots=True)
class RunData:
    """The measurements of one run. `start_ms` of the measure phase counts from 1970, `length_s` is to the last arrival.

    `seconds` has for each language a row per second of the measure phase: ok, failed, dropped, cold. `whole_ms` is
    whether all times are whole milliseconds.
    """

    run: RecordedRun
    start_ms: int | None
    length_s: float
    samples: list[Sample]
    timelines: list[RunTimeline]
    outcomes: dict[str, Counter[str]]
    seconds: dict[str, NDArray[np.int64]]
    whole_ms: bool

    def rates(self) -> tuple[float | None, float | None]:
        """Planned and achieved rate of the measure phase; None is unknown, or no plan (the closed loop)."""
        row, planned_s = self.run.row, self.run.planned_s
        length_s = max(planned_s, self.length_s)
        achieved = row["sent"] / length_s if row["sent"] is not None and length_s else None
        if not planned_s or row["planned"] is None or self.run.mode == "closed":
            return None, achieved
        return row["planned"] / planned_s, achieved


def analyse(run: RecordedRun, columns: rows.RequestColumns) -> RunData:
    """The measurements of a run from its rows."""
    measured = columns.flags & rows.RAMP == 0
    samples: list[Sample] = []
    for number, language in enumerate(columns.languages):
        mine = measured & (columns.language == number)
        if mine.any():
            samples += _samples(run, language, columns, mine)
    at = columns.at_ms[measured]
    placed = at[at != rows.NOWHERE_MS]
    times = columns.ttfb_us[columns.ttfb_us >= 0]
    return RunData(
        run=run,
        start_ms=columns.start_ms,
        length_s=float(placed.max()) / 1000 if len(placed) else 0.0,
        samples=samples,
        timelines=[_timeline(run, name, columns, index) for index, name in enumerate(columns.languages)]
        if columns.start_ms is not None
        else [],
        outcomes=columns.outcomes,
        seconds={name: _seconds(columns, measured, index) for index, name in enumerate(columns.languages)},
        whole_ms=bool(len(times)) and bool((times % 1000 == 0).all()),
    )


def _samples(run: RecordedRun, language: str, columns: rows.RequestColumns, mine: NDArray[np.bool_]) -> list[Sample]:
    flags, ok = columns.flags, columns.flags & rows.OK != 0
    cold, warm = flags & rows.COLD != 0, flags & rows.WARM != 0
    words = {UNKNOWN_WORD: ~(cold | warm), WARM_WORD: warm, COLD_WORD: cold}
    answered = {word: int((mine & ok & which).sum()) for word, which in words.items()}
    home = COLD_WORD if run.mode == COLD_START else max(answered, key=answered.__getitem__)
    beyond = int((mine & ~ok).sum())
    samples = [_sample((run, language, WHOLE, False), columns, mine & ok, beyond)]
    for word, which in words.items():
        lost = beyond if word == home else 0
        if answered[word] or lost:
            samples.append(_sample((run, language, word, word == home), columns, mine & ok & which, lost))
    return samples


def _sample(
    head: tuple[RecordedRun, str, str, bool], columns: rows.RequestColumns, ok: NDArray[np.bool_], beyond: int
) -> Sample:
    """`head` are run, language, temperature and `home`; `ok` marks the answered arrivals, the others are `beyond`."""
    ttfb = np.sort(columns.ttfb_us[ok])
    lag = columns.lag_us[ok]
    corrected = None
    if (lag != rows.UNKNOWN_LAG).all():
        lag += columns.ttfb_us[ok]
        lag.sort()
        corrected = _readings(lag, beyond)
    within = quantile_intervals(ttfb, beyond, tuple(TABLE_SHARES.values()), _US_PER_MS)
    around = quantile_intervals(ttfb, beyond, CURVE_SHARES, _US_PER_MS)
    ranks = np.unique(np.linspace(0, max(0, len(ttfb) - 1), _PICKED).astype(np.int64))
    return Sample(
        *head,
        arrivals=len(ttfb) + beyond,
        served=len(ttfb),
        ttfb=_readings(ttfb, beyond),
        corrected=corrected,
        within=dict(zip(TABLE_SHARES, within, strict=True)),
        curve=quantiles(ttfb, beyond, CURVE_SHARES) / _US_PER_MS,
        around=around,
        picked=ttfb[ranks] / _US_PER_MS if len(ttfb) else np.zeros(0),
    )


def _readings(ranked: NDArray[np.signedinteger], beyond: int) -> Readings:
    shares = tuple(TABLE_SHARES.values())
    return Readings(
        all=dict(zip(TABLE_SHARES, (quantiles(ranked, beyond, shares) / _US_PER_MS).tolist(), strict=True)),
        answered=dict(zip(TABLE_SHARES, (quantiles(ranked, 0, shares) / _US_PER_MS).tolist(), strict=True)),
        mean=float(ranked.mean()) / _US_PER_MS if len(ranked) else math.nan,
        std=float(ranked.std(ddof=1)) / _US_PER_MS if len(ranked) > 1 else math.nan,
    )


def _seconds(columns: rows.RequestColumns, measured: NDArray[np.bool_], number: int) -> NDArray[np.int64]:
    mine = measured & (columns.language == number) & (columns.at_ms >= 0)
    flags, second = columns.flags[mine], columns.at_ms[mine] // 1000
    ok, dropped = flags & rows.OK != 0, flags & rows.DROPPED != 0
    seconds = int(second.max()) + 1 if len(second) else 0
    parts = (ok, ~ok & ~dropped, dropped, ok & (flags & rows.COLD != 0))
    return np.stack([np.bincount(second[part], minlength=seconds) for part in parts], axis=1).astype(np.int64)


def _levels(us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of times between the edges of `HEAT_EDGES_MS`; times beyond the first or last edge count there."""
    levels = len(HEAT_EDGES_MS) - 1
    level = np.floor((np.log10(np.maximum(us, 1) / _US_PER_MS) + 2) * HEAT_PER_DECADE + 1e-9)
    return np.bincount(np.clip(level, 0, levels - 1).astype(np.int64), minlength=levels)


def bin_width_s(length_s: float) -> float:
    """The smallest round width with which at most `_BINS` bins cover the length."""
    step = next((step for step in _STEPS_S if length_s <= step * _BINS), math.ceil(length_s / _BINS / 3600) * 3600)
    return float(step)


def _timeline(run: RecordedRun, language: str, columns: rows.RequestColumns, number: int) -> RunTimeline:
    mine = (columns.language == number) & (columns.at_ms != rows.NOWHERE_MS)
    at, flags, us = columns.at_ms[mine], columns.flags[mine], columns.ttfb_us[mine]
    first, last = (int(at.min()), int(at.max())) if len(at) else (0, 0)
    width_s = bin_width_s((last - first) / 1000)
    width = int(width_s * 1000)
    low = first // width
    bins = (last // width) - low + 1
    index = at // np.int32(width) - np.int32(low)
    ok, dropped = flags & rows.OK != 0, flags & rows.DROPPED != 0
    failed = ~ok & ~dropped
    cold = (flags & rows.COLD != 0) & ok
    key = index[ok].astype(np.int64)
    key <<= 32
    key += us[ok]
    key.sort()
    edges = np.searchsorted(key, np.arange(bins + 1, dtype=np.int64) << 32)
    p50, p99 = np.full(bins, np.nan), np.full(bins, np.nan)
    heat = np.zeros((bins, len(HEAT_EDGES_MS) - 1), dtype=np.int64)
    for each in range(bins):
        part = key[edges[each] : edges[each + 1]] & 0xFFFFFFFF
        if len(part):
            p50[each], p99[each] = quantiles(part, 0, (0.5, 0.99)) / _US_PER_MS
            heat[each] = _levels(part)
    return RunTimeline(
        run=run,
        language=language,
        width_s=width_s,
        start_s=(np.arange(bins) + low).astype(np.float64) * width_s,
        ok=np.bincount(index[ok], minlength=bins),
        failed=np.bincount(index[failed], minlength=bins),
        dropped=np.bincount(index[dropped], minlength=bins),
        cold=np.bincount(index[cold], minlength=bins),
        p50=p50,
        p99=p99,
        heat=heat,
        cold_at_s=at[cold][:_PICKED] / 1000.0,
        cold_ms=us[cold][:_PICKED] / _US_PER_MS,
    )
