"""The API server's clock as this machine sees it, from the `Date` of its answers.

A `Date` says the second D in which an answer was made, between s, when it was asked for, and r, when it was here. So
the server's clock is ahead of ours (monotonic) by at least D - r, and by less than D + 1 s - s. Each answer says so of
another part of a second; what all of them allow is soon as narrow as the way there and back.
"""

from __future__ import annotations

from workload_generator.base.clock import NS_PER_S

_DRIFT_PPM = (
    500  # the most by which a clock is slewed (adjtimex), so also the most by which two drift apart in practice
)


class ServerClock:
    """`steps` counts how often what was said before could not be true any more: then it begins anew."""

    def __init__(self) -> None:
        self._low_ns = self._high_ns = self._at_ns = 0
        self._known = False
        self.steps = 0

    def add(self, sent_ns: int, date_ns: int, received_ns: int) -> None:
        """An answer of the second `date_ns` (since the epoch), between two readings of our monotonic clock."""
        low_ns, high_ns = date_ns - received_ns, date_ns + NS_PER_S - sent_ns
        if self._known:
            older_low_ns, older_high_ns = self._bounds(received_ns)
            if max(low_ns, older_low_ns) <= min(high_ns, older_high_ns):
                low_ns, high_ns = max(low_ns, older_low_ns), min(high_ns, older_high_ns)
            else:
                self.steps += 1
        self._low_ns, self._high_ns, self._at_ns, self._known = low_ns, high_ns, received_ns, True

    def offset(self, now_ns: int) -> tuple[int, int] | None:
        """What to add to our monotonic clock to get the server's wall clock, and how far that may be off, ns."""
        if not self._known:
            return None
        low_ns, high_ns = self._bounds(now_ns)
        return (low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2

    def second_of(self, wall_ns: int) -> tuple[int, int] | None:
        """Between which readings of our clock a second of the server's, which begins at `wall_ns`, lay or lies."""
        if not self._known:
            return None
        return wall_ns - self._high_ns, wall_ns + NS_PER_S - self._low_ns

    def _bounds(self, now_ns: int) -> tuple[int, int]:
        drift_ns = max(0, now_ns - self._at_ns) * _DRIFT_PPM // 1_000_000
        return self._low_ns - drift_ns, self._high_ns + drift_ns
