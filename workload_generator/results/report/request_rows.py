"""The SQL of a run's requests, and their rows as NumPy columns: the source of all tables and charts of TTFB.

Rules:
- the rows of a run are read once, in batches, and take 14 bytes each; they are freed before those of the next run
- times are whole microseconds, as in a log (the original's: whole milliseconds), and at most `LONGEST_US`
- a failed or dropped arrival has no time; it ranks beyond all others
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
from workload_generator.results.report.runs import UNKNOWN, RecordedRun

RAMP, OK, DROPPED, COLD, WARM = 1, 2, 4, 8, 16
"""Bits of `RequestColumns.flags`."""

ROWS_SQL = f"""SELECT timestamp, target, ttfb, lag, coalesce(error_kind, status) AS outcome,
       (phase = 'ramp') * {RAMP} + (ok IS 1 AND ttfb IS NOT NULL) * {OK} + (error_kind IS 'dropped') * {DROPPED}
       + (is_cold IS 1) * {COLD} + (is_cold IS 0) * {WARM} AS flags
FROM results WHERE experiment_id = :id AND phase IN ('ramp', 'measure')"""

CONNECTIONS_SQL = """SELECT target, dns_time, connect_time, tls_time FROM requests
WHERE experiment_id = :id AND (dns_time > 0 OR connect_time > 0 OR tls_time > 0)"""

LONGEST_US = 2**30 - 1
"""18 minutes. Longer times count as this, so that the sum of two fits 32 bits."""

UNKNOWN_LAG = int(np.iinfo(np.int32).min)
NOWHERE_MS = int(np.iinfo(np.int32).min)
"""The position of an arrival without a valid timestamp."""

_BATCH = 20_000
_NEVER = int(np.iinfo(np.int64).min)  # also numpy's NaT
_US_PER_MS = 1000
_FARTHEST_MS = 2**30 - 1  # twelve days


@dataclass(slots=True)
class RequestColumns:
    """The arrivals of a run's ramp and measure phase, one element each.

    `ttfb_us` is −1 without a successful answer, `lag_us` is `UNKNOWN_LAG` when unknown. `at_ms` is the start of the
    request in ms since `start_ms`, the first start of the measure phase in ms since 1970. `outcomes` counts the
    measured arrivals by language and outcome: a status, a kind of error, or `UNKNOWN`.
    """

    start_ms: int | None
    at_ms: NDArray[np.int32]
    ttfb_us: NDArray[np.int32]
    lag_us: NDArray[np.int32]
    flags: NDArray[np.uint8]
    language: NDArray[np.uint8]
    languages: list[str]
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)


def read_columns(store: Store, run: RecordedRun) -> RequestColumns:
    """The columns of a run, by one query."""
    languages: dict[str, int] = {}
    by_target: dict[str | None, int] = {}
    outcomes: Counter[tuple[str | None, int, int | str | None]] = Counter()
    parts = [[np.zeros(0, dtype=kind)] for kind in (np.int32, np.int32, np.int32, np.uint8, np.uint8)]
    base: int | None = None
    for rows in batches(store, ROWS_SQL, {"id": run.id}):
        at, target, ttfb, lag, outcome, bits = zip(*rows, strict=True)
        for name in dict.fromkeys(target):  # in the order of the rows: the order of a set differs between processes
            if name not in by_target:
                by_target[name] = languages.setdefault(run.language_of(name), len(languages))
        flags = np.array(bits, dtype=np.uint8)
        times, lags = np.array(ttfb, dtype=np.float64), np.array(lag, dtype=np.float64)
        with np.errstate(invalid="ignore"):
            ttfb_us = np.where(flags & OK, np.minimum(np.rint(times * _US_PER_MS), LONGEST_US), -1).astype(np.int32)
            lag_us = np.where(np.isnan(lags), UNKNOWN_LAG, np.clip(np.rint(lags * _US_PER_MS), -LONGEST_US, LONGEST_US))
        numbers = np.fromiter(map(by_target.__getitem__, target), dtype=np.uint8, count=len(rows))
        at_us = wall_us(at)
        valid = known(at_us)
        if base is None and valid.any():
            base = int(at_us[valid][0]) // 1000
        at_ms = np.where(valid, np.clip(at_us // 1000 - (base or 0), -_FARTHEST_MS, _FARTHEST_MS), NOWHERE_MS)
        columns: tuple[NDArray[Any], ...] = (at_ms.astype(np.int32), ttfb_us, lag_us.astype(np.int32), flags, numbers)
        for column, part in zip(parts, columns, strict=True):
            column.append(part)
        outcomes.update(zip(target, bits, outcome, strict=True))
    names = list(languages)
    by_language: dict[str, Counter[str]] = {name: Counter() for name in names}
    for (name, bit, ending), number in outcomes.items():
        if not bit & RAMP:
            by_language[names[by_target[name]]][UNKNOWN if ending is None else str(ending)] += number
    return _joined(parts, base or 0, names, by_language)


def batches(store: Store, sql: str, values: dict[str, object]) -> Iterator[list[Any]]:
    """The rows of a query as tuples, some thousands at a time."""
    yield from store.stream(sql, values, _BATCH)


def wall_us(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Microseconds since 1970 of RFC 3339 texts (also with a space for the T); the least int64 for invalid ones.

    NumPy parses those in UTC, Python the others.
    """
    utc = [text[:26].rstrip("Z") if text and text.endswith("Z") else "" for text in texts]
    try:
        out = np.array(utc, dtype="datetime64[us]").astype(np.int64)
    except ValueError:
        out = np.full(len(texts), _NEVER, dtype=np.int64)
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
    """Which of the results of `wall_us` are valid."""
    valid: NDArray[np.bool_] = times_us != _NEVER
    return valid


def _joined(
    parts: list[list[NDArray[Any]]], base: int, languages: list[str], outcomes: dict[str, Counter[str]]
) -> RequestColumns:
    columns = []
    for column in parts:  # one by one: memory never holds both forms of all columns
        columns.append(np.concatenate(column))
        column.clear()
    at, ttfb, lag, flags, language = columns
    valid = at != NOWHERE_MS
    measured = valid & (flags & RAMP == 0)
    start = int(at[measured].min()) if measured.any() else int(at[valid].min()) if valid.any() else None
    if start:
        np.subtract(at, np.int32(start), out=at, where=valid)
    return RequestColumns(None if start is None else base + start, at, ttfb, lag, flags, language, languages, outcomes)
