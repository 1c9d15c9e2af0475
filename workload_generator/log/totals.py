"""The totals of a run: counts by phase, status and error, and histograms of the measured phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import add, and_, sub
from operator import floordiv as _to_us
from typing import Any

from workload_generator.base.histogram import Histogram
from workload_generator.log.records import Block, ErrorKind, Phase, Result

_COLD_WORDS = {None: "unknown", False: "false", True: "true"}
HISTOGRAMS = ("ttfb", "corrected_ttfb", "total", "lag")


@dataclass(slots=True)
class PhaseCounts:
    """Counts of one phase. `failed` includes errors, unexpected statuses and `cancelled`."""

    sent: int = 0
    ok: int = 0
    dropped: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    cold: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Requests without an expected response."""
        return self.sent - self.ok

    def add(self, shape: Result, count: int, ok: bool) -> None:
        """Add `count` results of one shape."""
        if shape.error is not None:
            self.errors[shape.error.value] += count
        if shape.error is ErrorKind.DROPPED:
            self.dropped += count
            return
        self.sent += count
        self.ok += count if ok else 0
        if shape.status:
            self.statuses[shape.status] += count
            self.cold[_COLD_WORDS[shape.cold]] += count

    def to_json(self) -> dict[str, Any]:
        """The counts as in the trailer and the summary."""
        return {
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "dropped": self.dropped,
            "cancelled": self.errors[ErrorKind.CANCELLED.value],
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": dict(sorted(self.errors.items())),
            "cold": {word: self.cold[word] for word in ("true", "false", "unknown")},
        }


class Totals:
    """Counts every result once. `expected` has the successful statuses of each target."""

    def __init__(self, expected: Sequence[Iterable[int]]) -> None:
        self._expected = [frozenset(statuses) for statuses in expected]
        self.phases = {phase: PhaseCounts() for phase in Phase}
        self.histograms = {name: Histogram() for name in HISTOGRAMS}

    def ok_by_shape(self, block: Block) -> list[bool]:
        """Whether each shape is a complete response with an expected status."""
        return [shape.error is None and shape.status in self._expected[shape.target] for shape in block.shapes]

    def add(self, block: Block, ok: Sequence[bool]) -> None:
        """Add a block. `ok` is by shape."""
        beyond = 0
        for index, count in Counter(block.shape).items():
            shape = block.shapes[index]
            self.phases[shape.phase].add(shape, count, ok[index])
            beyond += count if shape.phase is Phase.MEASURE and not ok[index] else 0
        ttfb, total = block.ttfb_ns, block.total_ns
        measured_lag = lag = _lags(block)
        measured = [shape.phase is Phase.MEASURE and shape.error is not ErrorKind.DROPPED for shape in block.shapes]
        if not (all(measured) and all(ok)):
            served = list(map(and_, measured, ok))
            in_phase, counted = ([of_shape[index] for index in block.shape] for of_shape in (measured, served))
            measured_lag = list(compress(lag, in_phase))
            ttfb, total, lag = (list(compress(column, counted)) for column in (ttfb, total, lag))
        ttfb_us = list(map(_to_us, ttfb, repeat(1000)))
        columns: dict[str, Iterable[int]] = {
            "ttfb": ttfb_us,
            "corrected_ttfb": ttfb_us if block.in_time else map(_to_us, map(add, ttfb, lag), repeat(1000)),
            "total": ttfb_us if block.in_one_piece else map(_to_us, total, repeat(1000)),
            "lag": map(_to_us, measured_lag, repeat(1000)),
        }
        for name, values_us in columns.items():
            self.histograms[name].record_all(values_us, 0 if name == "lag" else beyond)

    def to_json(self) -> dict[str, Any]:
        """`counts` by phase, and `histograms` of the measured phase."""
        return {
            "counts": {phase.label: counts.to_json() for phase, counts in self.phases.items()},
            "histograms": {name: histogram.to_json() for name, histogram in self.histograms.items()},
        }


def _lags(block: Block) -> Sequence[int]:
    if block.in_time:
        return [0] * len(block.seq)
    return list(map(sub, block.start_ns, block.due_ns))
