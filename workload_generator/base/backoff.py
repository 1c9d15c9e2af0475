"""Exponential back-off: how long to wait before an operation is retried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

_MOST_DOUBLINGS = 64  # beyond any cap, and below the largest float


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before retry n (from 0) is `first_s` × 2ⁿ, at most `cap_s`, all in seconds.

    With `jitter` (0 to 1), each delay is drawn from its last part of that size, so that many clients of a server that
    comes back do not return at once. The caller decides when to give up.
    """

    first_s: float
    cap_s: float
    jitter: float = 0.0

    def delay_s(self, retry: int) -> float:
        """The delay before this retry."""
        delay_s = min(self.first_s * 2.0 ** min(retry, _MOST_DOUBLINGS), self.cap_s)
        return delay_s * (1 - self.jitter * random.random())

    def delays(self) -> Iterator[float]:
        """The delays in order, without end."""
        return map(self.delay_s, itertools.count())
