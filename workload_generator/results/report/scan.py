"""One pass over the rows of a run: from SQLite into columns of numbers, and from those into what a report needs.

Rules:
- a run's rows are read once, in batches, and kept as 14 bytes an arrival; when the next run comes they are gone
- times are whole microseconds, which is what a log has (the original's: whole milliseconds), and at most `LONGEST_US`
- a failed or dropped arrival has no time; it is counted `beyond` all others
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.database import Store
from workload_generator.results.report.runs import Run

RAMP, OK, DROPPED, COLD, WARM = 1, 2, 4, 8, 16
"""Bits of `Columns.flags`."""

ROWS_SQL = f"""SELECT timestamp, target, ttfb, lag, coalesce(error_kind, status) AS outcome,
       (phase = 'ramp') * {RAMP} + (ok IS 1 AND ttfb IS NOT NULL) * {OK} + (error_kind IS 'dropped') * {DROPPED}
       + (is_cold IS 1) * {COLD} + (is_cold IS 0) * {WARM} AS flags
FROM results WHERE experiment_id = :id AND phase IN ('ramp', 'measure')"""

_BATCH = 20_000
_NEVER = np.iinfo(np.int64).min

LONGEST_US = 2**30 - 1
"""18 minutes; what was longer counts as that, and the sum of two still fits 32 bits."""

_US_PER_MS = 1000


Outcome = int | str | None
"""How an arrival ended: a status, or a kind of error."""


@dataclass(slots=True)
class Columns:
    """A run's arrivals of the ramp and the measure phase, an element each.

    `ttfb_us` is −1 without an answer that counts; `lag_us` is −2^31 when unknown; `at_ms` is the start of the request,
    in ms since `start_ms`, the first start of the measure phase (itself in ms since 1970).
    """

    start_ms: int | None
    at_ms: NDArray[np.int32]
    ttfb_us: NDArray[np.int32]
    lag_us: NDArray[np.int32]
    flags: NDArray[np.uint8]
    language: NDArray[np.uint8]
    languages: list[str]
    outcomes: dict[str, Counter[Outcome]] = field(default_factory=dict)


UNKNOWN_LAG = int(np.iinfo(np.int32).min)
NOWHERE_MS = int(np.iinfo(np.int32).min)
"""Where an arrival without a readable timestamp is."""

_FARTHEST_MS = 2**30 - 1  # twelve days


def read_columns(store: Store, run: Run) -> Columns:
    """All of them, by one query."""
    languages: dict[str, int] = {}
    by_target: dict[str | None, int] = {}
    outcomes: Counter[tuple[str | None, int, Outcome]] = Counter()
    parts: tuple[list[NDArray[Any]], ...] = ([], [], [], [], [])
    base: int | None = None
    for rows in batches(store, ROWS_SQL, {"id": run.id}):
        at, target, ttfb, lag, outcome, bits = zip(*rows, strict=True)
        for name in dict.fromkeys(target):  # in the order of the rows: a set's order differs between processes
            if name not in by_target:
                by_target[name] = languages.setdefault(run.language_of(name), len(languages))
        flags = np.array(bits, dtype=np.uint8)
        times, lags = np.array(ttfb, dtype=np.float64), np.array(lag, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            ttfb_us = np.where(flags & OK, np.minimum(np.rint(times * _US_PER_MS), LONGEST_US), -1).astype(np.int32)
            lag_us = np.where(np.isnan(lags), UNKNOWN_LAG, np.clip(np.rint(lags * _US_PER_MS), -LONGEST_US, LONGEST_US))
        numbers = np.fromiter(map(by_target.__getitem__, target), dtype=np.uint8, count=len(rows))
        at_us = wall_us(at)
        there = known(at_us)
        if base is None and there.any():
            base = int(at_us[there][0]) // 1000
        at_ms = np.where(there, np.clip(at_us // 1000 - (base or 0), -_FARTHEST_MS, _FARTHEST_MS), NOWHERE_MS)
        columns: tuple[NDArray[Any], ...] = (at_ms.astype(np.int32), ttfb_us, lag_us.astype(np.int32), flags, numbers)
        for column, part in zip(parts, columns, strict=True):
            column.append(part)
        outcomes.update(zip(target, bits, outcome, strict=True))
    by_language: dict[str, Counter[Outcome]] = {name: Counter() for name in languages}
    names = list(languages)
    for (name, bit, ending), number in outcomes.items():
        if not bit & RAMP:
            by_language[names[by_target[name]]][ending] += number
    return _joined(parts, base or 0, names, by_language)


def batches(store: Store, sql: str, values: dict[str, object]) -> Iterator[list[Any]]:
    """The rows of a query as tuples, some thousands at a time."""
    yield from store.stream(sql, values, _BATCH)


def wall_us(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Microseconds since 1970 of RFC 3339 texts (a space for the T, an offset for the Z will do), else the least int.

    Those in UTC are read in columns of digits, the others one by one.
    """
    out = np.full(len(texts), _NEVER, dtype=np.int64)
    try:
        raw = np.array(texts, dtype="S30")
    except UnicodeEncodeError:
        raw = np.full(len(texts), b"", dtype="S30")
    chars = np.ascontiguousarray(raw.view(np.uint8).reshape(len(texts), 30).T)  # a row for each position
    digits = chars - np.uint8(ord("0"))  # what lies below wraps around to above 9
    plain = (chars[19:] == ord("Z")).any(axis=0)
    for at in (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18):
        plain &= digits[at] <= 9
    days = raw.astype("S10")
    same_day = days == days[0] if len(days) else plain
    for day in [days[0]] if same_day.all() else np.unique(days[plain]):
        out[plain & (days == day)] = _one_wall_us(day.decode() + "T00:00:00Z")
    hour, minute, second = (digits[at] * np.int64(10) + digits[at + 1] for at in (11, 14, 17))
    us = ((hour * 60 + minute) * 60 + second) * 1_000_000
    fraction = chars[19] == ord(".")
    for at, worth in enumerate((100_000, 10_000, 1000, 100, 10, 1), 20):
        fraction = fraction & (digits[at] <= 9)
        us += np.where(fraction, digits[at] * np.int64(worth), 0)
    out[out != _NEVER] += us[out != _NEVER]
    for index in np.flatnonzero(out == _NEVER).tolist():
        out[index] = _one_wall_us(texts[index])
    return out


def _one_wall_us(text: str | None) -> int:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return _NEVER
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return math.floor(moment.timestamp() * 1_000_000)


def known(times_us: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of what `wall_us` gave are times."""
    there: NDArray[np.bool_] = times_us != _NEVER
    return there


def _joined(
    parts: tuple[list[NDArray[Any]], ...], base: int, languages: list[str], outcomes: dict[str, Counter[Outcome]]
) -> Columns:
    if not parts[0]:
        nothing = np.zeros(0, dtype=np.int32)
        none = np.zeros(0, dtype=np.uint8)
        return Columns(None, nothing, nothing, nothing, none, none, [])
    columns = []
    for column in parts:  # one after the other, so that memory never holds both forms of all
        columns.append(np.concatenate(column))
        column.clear()
    at, ttfb, lag, flags, language = columns
    there = at != NOWHERE_MS
    measured = there & (flags & RAMP == 0)
    start = int(at[measured].min()) if measured.any() else int(at[there].min()) if there.any() else None
    if start:
        np.subtract(at, np.int32(start), out=at, where=there)
    return Columns(
        start_ms=None if start is None else base + start,
        at_ms=at,
        ttfb_us=ttfb,
        lag_us=lag,
        flags=flags,
        language=language,
        languages=languages,
        outcomes=outcomes,
    )
