"""Clocks and durations.

A duration is the difference of two readings of one clock. A run measures everything on the monotonic clock; its
wall-clock times derive from one pair of readings at its start (`Anchor`), so that they never jump.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
NS_PER_US = 1_000

_UNITS_NS = {
    "ns": 1,
    "us": NS_PER_US,
    "µs": NS_PER_US,  # U+00B5, micro sign
    "μs": NS_PER_US,  # U+03BC, Greek mu: Go accepts both
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")
_MAX_NS = 2**63 - 1
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LONGEST_TEXT = 100

monotonic_ns = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class Anchor:
    """One reading of both clocks, as close together as possible."""

    wall_ns: int
    mono_ns: int

    @classmethod
    def now(cls, monotonic: Callable[[], int] = monotonic_ns, wall: Callable[[], int] = time.time_ns) -> Anchor:
        """The closest of a few pairs of readings."""
        best_gap_ns, best = _MAX_NS, (0, 0)
        for _ in range(5):
            before_ns, wall_ns, after_ns = monotonic(), wall(), monotonic()
            if after_ns - before_ns < best_gap_ns:
                best_gap_ns, best = after_ns - before_ns, (wall_ns, (before_ns + after_ns) // 2)
        return cls(*best)

    def wall_at(self, mono_ns: int) -> int:
        """The wall-clock time of a monotonic reading, in ns."""
        return self.wall_ns + mono_ns - self.mono_ns


def rfc3339(wall_ns: int) -> str:
    """RFC 3339 in UTC with microseconds: `2026-11-24T05:02:40.123456Z`."""
    seconds, rest = divmod(wall_ns, NS_PER_S)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // NS_PER_US:06d}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time with its zone; digits beyond the ninth are cut.

    Raises ValueError.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:_LONGEST_TEXT]!r} is not an RFC 3339 time")
    seconds, fraction, zone = match.groups()
    whole = datetime.fromisoformat(seconds + ("+00:00" if zone in "Zz" else zone))
    return int(whole.timestamp()) * NS_PER_S + int(f"{fraction or '':0<9.9}")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration (`1h30m`, `90s`, `1.5h`, `250µs`), exactly as `time.ParseDuration` reads it.

    Raises ValueError, also for a number without a unit (except `0`) and for spaces.
    Source: https://pkg.go.dev/time#ParseDuration
    """
    if text in ("0", "+0", "-0"):
        return 0
    match = _DURATION.fullmatch(text) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        shown = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
        raise ValueError(f"{shown!r} is not a duration: write a number with its unit, such as 90s, 1h30m or 500ms")
    total = 0
    for number, unit in _PART.findall(match[2]):
        total += int(Fraction(number) * _UNITS_NS[unit])  # Go cuts each part to whole nanoseconds
    if total > _MAX_NS:
        raise ValueError(f"{text!r} is longer than 292 years, the limit of a duration")
    return -total if match[1] == "-" else total


def format_duration(ns: int) -> str:
    """The shortest Go duration that `parse_duration` reads back as `ns`: `90s` is `1m30s`, 1_500_000 is `1.5ms`."""
    if ns < 0:
        return "-" + format_duration(-ns)
    if ns == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", NS_PER_US), ("ms", NS_PER_MS)):
        if ns < size * 1000:
            return _decimal(ns, size) + unit
    hours, rest = divmod(ns, 3600 * NS_PER_S)
    minutes, rest = divmod(rest, 60 * NS_PER_S)
    parts = [
        f"{hours}h" if hours else "",
        f"{minutes}m" if minutes else "",
        f"{_decimal(rest, NS_PER_S)}s" if rest else "",
    ]
    return "".join(parts)


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{rest:0{len(str(unit)) - 1}d}".rstrip("0")
