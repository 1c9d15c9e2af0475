"""Distributions that can be merged exactly and never grow with the number of requests.

A failed or dropped arrival counts as slower than any limit: it has no value, but it has a rank. A quantile that falls
among such arrivals is `BEYOND`, and is printed as `> 30 s` (the timeout), not left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdrh.histogram import HdrHistogram

BEYOND = math.inf

QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
"""The quantiles of a summary, by their names in the header of a table."""

_HIGHEST_US = 86_400_000_000  # one day
_MOST_WAITING = 20_000
_DIGITS = 3  # relative error of a quantile at most 0.1 %


class Histogram:
    """A high dynamic range histogram of times in whole microseconds, with the arrivals that never had one.

    Values are exact below 2.048 ms and within 0.1 % above; minimum and maximum are exact. Source of the bucket layout:
    http://hdrhistogram.org
    """

    __slots__ = ("_hdr", "_waiting", "beyond", "max_us", "min_us")

    def __init__(self) -> None:
        from hdrh.histogram import HdrHistogram  # not for commands that only name a threshold

        self._hdr = HdrHistogram(1, _HIGHEST_US, _DIGITS)
        self._waiting: Counter[int] = Counter()  # counted, but not in the buckets yet: counting is a loop in C
        self.beyond = 0
        self.min_us: int | None = None
        self.max_us: int | None = None

    @property
    def served(self) -> int:
        """How many values there are."""
        return int(self._settled().total_count)

    @property
    def count(self) -> int:
        """How many arrivals there are, those without a value included."""
        return self.served + self.beyond

    def record_all(self, values_us: Iterable[int], beyond: int = 0) -> None:
        """Add a batch of values (µs, from 0 on) and the number of arrivals that have none."""
        self.beyond += beyond
        self._waiting.update(values_us)
        if len(self._waiting) > _MOST_WAITING:
            self._settled()

    def _settled(self) -> HdrHistogram:
        """The buckets, with everything that was waiting in them."""
        counts = self._waiting
        if counts:
            low, high = min(counts), max(counts)
            self.min_us = low if self.min_us is None else min(low, self.min_us)
            self.max_us = high if self.max_us is None else max(high, self.max_us)
            for value, count in counts.items():
                self._hdr.record_value(min(value, _HIGHEST_US), count)
            self._waiting = Counter()
        return self._hdr

    def quantile_us(self, q: float) -> float | None:
        """The smallest recorded time that at least a share `q` of the arrivals did not exceed (nearest rank).

        None without arrivals; `BEYOND` when the rank falls among those that never had a time.
        """
        if not self.count:
            return None
        rank = max(1, math.ceil(q * self.count - 1e-9))
        if rank > self.served:
            return BEYOND
        assert self.min_us is not None and self.max_us is not None
        if rank == 1:
            return self.min_us
        if rank == self.served:
            return self.max_us
        value = self._settled().get_value_at_percentile(100.0 * rank / self.served)
        return float(min(max(value, self.min_us), self.max_us))

    def merge(self, other: Histogram) -> None:
        """Add everything that `other` holds."""
        self._settled().add(other._settled())
        self.beyond += other.beyond
        if other.min_us is not None and other.max_us is not None:
            self.min_us = other.min_us if self.min_us is None else min(self.min_us, other.min_us)
            self.max_us = other.max_us if self.max_us is None else max(self.max_us, other.max_us)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as `to_json` writes it: the buckets are arrays of C."""
        return Histogram.from_json, (self.to_json(),)

    def to_json(self) -> dict[str, Any]:
        """As the log holds it; `hdr` is the standard compressed base64 form that other HdrHistogram tools read (µs)."""
        return {
            "unit": "us",
            "served": self.served,
            "beyond": self.beyond,
            "min": self.min_us,
            "max": self.max_us,
            "hdr": self._settled().encode().decode("ascii"),
        }

    @classmethod
    def from_json(cls, doc: dict[str, Any]) -> Histogram:
        """The histogram that `to_json` wrote."""
        histogram = cls()
        histogram._hdr = histogram._hdr.decode(doc["hdr"])
        histogram.beyond, histogram.min_us, histogram.max_us = doc["beyond"], doc["min"], doc["max"]
        return histogram


def format_us(value: float | None, timeout: str) -> str:
    """A time for people: `1.482 ms`, `—` when there is none, `> 30s` when it lies beyond the timeout."""
    if value is None:
        return "—"
    if value == BEYOND:
        return f"> {timeout}"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3f} s"
    return f"{value / 1000:.3f} ms"
