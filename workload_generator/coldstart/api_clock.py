"""The API server's clock against this machine's, from the `Date` header of its responses.

A `Date` is the second D in which a response was made, between its request at s and its arrival at r. So the server's
clock is ahead of ours (monotonic) by at least D - r, and by less than D + 1 s - s. Responses at different parts of a
second give different bounds; their intersection is soon as narrow as a round trip.
"""

from __future__ import annotations

from workload_generator.base.clock import NS_PER_S

_DRIFT_PPM = 500  # the limit of adjtimex for slewing a clock


class ServerClock:
    """Bounds of the server's clock. `steps` counts readings that contradict earlier ones, which are dropped then."""

    def __init__(self) -> None:
        self._bounds_ns: tuple[int, int] | None = None
        self._at_ns = 0
        self.steps = 0

    def add(self, sent_ns: int, date_ns: int, received_ns: int) -> None:
        """Add a response of the second `date_ns` (since the epoch), between two readings of our monotonic clock."""
        low_ns, high_ns = date_ns - received_ns, date_ns + NS_PER_S - sent_ns
        before = self._bounds(received_ns)
        if before is not None:
            if max(low_ns, before[0]) <= min(high_ns, before[1]):
                low_ns, high_ns = max(low_ns, before[0]), min(high_ns, before[1])
            else:
                self.steps += 1
        self._bounds_ns, self._at_ns = (low_ns, high_ns), received_ns

    def offset(self, now_ns: int) -> tuple[int, int] | None:
        """The server's wall clock − our monotonic clock, and its error, in ns; None before the first response."""
        bounds = self._bounds(now_ns)
        if bounds is None:
            return None
        low_ns, high_ns = bounds
        return (low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2

    def second_of(self, wall_ns: int) -> tuple[int, int] | None:
        """The bounds, on our clock, of the server's second that begins at `wall_ns`."""
        if self._bounds_ns is None:
            return None
        return wall_ns - self._bounds_ns[1], wall_ns + NS_PER_S - self._bounds_ns[0]

    def _bounds(self, now_ns: int) -> tuple[int, int] | None:
        if self._bounds_ns is None:
            return None
        drift_ns = max(0, now_ns - self._at_ns) * _DRIFT_PPM // 1_000_000
        return self._bounds_ns[0] - drift_ns, self._bounds_ns[1] + drift_ns
