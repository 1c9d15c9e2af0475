"""The platform's events, for `/_platform`, the terminal and the proof of cold starts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from workload_generator.base.clock import Anchor, monotonic_ns, rfc3339

MOST_EVENTS = 2000
"""The number of events that are kept; older ones are dropped."""


class PlatformEvent(NamedTuple):
    """One event. `mono_ns` is on the clock that all processes of the machine share; `id` counts from 1."""

    id: int
    time: str
    mono_ns: int
    kind: str
    service: str
    instance: str | None
    message: str


class PlatformEvents:
    """The events of one platform, oldest first. `listener` gets each as it happens."""

    def __init__(self, listener: Callable[[PlatformEvent], None]) -> None:
        self._anchor = Anchor.now()
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._listener = listener
        self._count = 0

    def add(
        self, kind: str, service: str, instance: str | None = None, message: str = "", at_ns: int | None = None
    ) -> None:
        """Record an event that happens now, or happened at `at_ns` (monotonic)."""
        at_ns = monotonic_ns() if at_ns is None else at_ns
        self._count += 1
        event = PlatformEvent(self._count, self.wall(at_ns), at_ns, kind, service, instance, message)
        self._events.append(event._asdict())  # converted once, not at each request for the events
        self._listener(event)

    def wall(self, mono_ns: int) -> str:
        """A monotonic reading as wall clock (RFC 3339)."""
        return rfc3339(self._anchor.wall_at(mono_ns))

    def to_json(self, after: int = 0) -> list[dict[str, Any]]:
        """The events with an id above `after`."""
        return [event for event in self._events if event["id"] > after]
