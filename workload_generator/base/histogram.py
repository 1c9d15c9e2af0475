"""Histograms of times: they merge exactly, and their size does not depend on the number of requests.

A failed or dropped arrival counts as slower than any limit: it has no value but a rank. A quantile among such arrivals
is `BEYOND`, and is printed as `> 30 s` (the timeout).
"""

from __future__ import annotations

import math
import zlib
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
    """A high dynamic range histogram of times in whole microseconds, and the number of arrivals without a time.

    Values are exact below 2.048 ms and within 0.1 % above; minimum and maximum are exact. Source of the bucket layout:
    http://hdrhistogram.org
    """

    __slots__ = ("_hdr", "_waiting", "beyond", "max_us", "min_us")

    def __init__(self) -> None:
        from hdrh.histogram import HdrHistogram  # slow to load, and many commands make no histogram

        self._hdr = HdrHistogram(1, _HIGHEST_US, _DIGITS)
        self._waiting: Counter[int] = Counter()  # not in the buckets yet: a Counter is faster
        self.beyond = 0
        self.min_us: int | None = None
        self.max_us: int | None = None

    @property
    def served(self) -> int:
        """The number of values."""
        return int(self._settled().total_count)

    @property
    def count(self) -> int:
        """The number of arrivals, with those that have no value."""
        return self.served + self.beyond

    def record_all(self, values_us: Iterable[int], beyond: int = 0) -> None:
        """Add values (µs, not negative) and the number of arrivals without one."""
        self.beyond += beyond
        self._waiting.update(values_us)
        if len(self._waiting) > _MOST_WAITING:
            self._settled()

    def _settled(self) -> HdrHistogram:
        """The buckets with all values."""
        counts = self._waiting
        if counts:
            self._widen(min(counts), max(counts))
            for value, count in counts.items():
                self._hdr.record_value(min(value, _HIGHEST_US), count)
            self._waiting = Counter()
        return self._hdr

    def quantile_us(self, q: float) -> float | None:
        """The smallest recorded time that at least a share `q` of the arrivals did not exceed (nearest rank).

        None without arrivals; `BEYOND` when the rank falls among those without a time.
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
        """Add all arrivals of `other`."""
        self._settled().add(other._settled())
        self.beyond += other.beyond
        if other.min_us is not None and other.max_us is not None:
            self._widen(other.min_us, other.max_us)

    def _widen(self, low_us: int, high_us: int) -> None:
        self.min_us = low_us if self.min_us is None else min(low_us, self.min_us)
        self.max_us = high_us if self.max_us is None else max(high_us, self.max_us)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as JSON, since the buckets are arrays of ctypes."""
        return Histogram.from_json, (self.to_json(),)

    def to_json(self) -> dict[str, Any]:
        """As in the log; `hdr` is the compressed base64 form that other HdrHistogram tools read (µs)."""
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
        """The histogram of a `to_json`. Raises ValueError for anything else."""
        from hdrh import codec

        histogram = cls()
        try:
            decoded = histogram._hdr.decode(doc["hdr"])
            histogram._hdr.add(decoded)
            histogram.beyond, histogram.min_us, histogram.max_us = doc["beyond"], doc["min"], doc["max"]
            limits = histogram.min_us, histogram.max_us
            is_whole = type(histogram.beyond) is int and all(type(limit) is int for limit in limits if histogram.served)
        except (
            LookupError, TypeError, AttributeError, zlib.error,
            codec.HdrCookieException, codec.HdrLengthException, codec.HdrHistogramSettingsException,
        ) as error:  # fmt: skip
            raise ValueError(f"not a histogram: {error}") from None
        if not is_whole:
            raise ValueError("not a histogram: expected whole numbers as limits")
        return histogram


def format_us(value: float | None, timeout: str) -> str:
    """A time as text: `1.482 ms`, `—` for None, `> 30s` beyond the timeout."""
    if value is None:
        return "—"
    if value == BEYOND:
        return f"> {timeout}"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3f} s"
    return f"{value / 1000:.3f} ms"
