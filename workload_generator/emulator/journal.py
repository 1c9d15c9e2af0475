"""What happened on the platform, newest last: for `/_platform`, the terminal, and whoever proves cold starts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from workload_generator.base.clock import Anchor, monotonic_ns, rfc3339

MOST_EVENTS = 2000
"""How many are kept; what was before is only counted."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `mono_ns` is on the clock of every process of this machine; `id` counts from 1."""

    id: int
    time: str
    mono_ns: int
    kind: str
    service: str
    instance: str | None
    message: str


class Journal:
    """The events of one platform. `listener` is told each as it happens."""

    def __init__(self, listener: Callable[[Event], None]) -> None:
        self.anchor = Anchor.now()
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._listener = listener
        self._count = 0

    def add(
        self, kind: str, service: str, instance: str | None = None, message: str = "", at_ns: int | None = None
    ) -> None:
        """Something happened, now or at `at_ns`."""
        at_ns = monotonic_ns() if at_ns is None else at_ns
        self._count += 1
        event = Event(self._count, self.wall(at_ns), at_ns, kind, service, instance, message)
        self._events.append(asdict(event))  # once, not each time that somebody looks
        self._listener(event)

    def wall(self, mono_ns: int) -> str:
        """A monotonic reading as RFC 3339."""
        return rfc3339(self.anchor.wall_at(mono_ns))

    def to_json(self, after: int = 0) -> list[dict[str, Any]]:
        """The events that are kept, and have a higher id than `after`."""
        return [event for event in self._events if event["id"] > after]
