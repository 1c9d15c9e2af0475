"""Cold starts: what is known of one, and what the generator asks of whoever can see instances come and go.

Rules:
- every moment is on the generator's monotonic clock, with how far it may be off; what nobody saw is None
- `proven` needs both: no instance that is not gone was there at the send, and the one that answered was made after it
- whatever cannot be decided is None, never false
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from workload_generator.base.clock import NS_PER_MS

POINTS = ("scale", "created", "scheduled", "pulled", "started", "listening", "queue_ready", "ready", "first_byte")
"""The points of a cold start in their order; a platform shows some of them."""


class Moment(NamedTuple):
    """A point in time (monotonic), right to ± `error_ns`. With `grid` its source knows whole seconds only."""

    at_ns: int
    error_ns: int = 0
    grid: bool = False


@dataclass(frozen=True, slots=True)
class Zero:
    """What was seen of a target's instances just before a request: `reached` None is that nobody could look.

    `since_ns` is since when there is none, as far as that was seen; `living` are those that are not gone; `why` is why
    nobody could look.
    """

    reached: bool | None
    since_ns: int | None = None
    living: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Start:
    """The life of the instance that answered, as far as it was seen, up to its first answer."""

    instance: str
    points: Mapping[str, Moment] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Life:
    """An instance as far as it was seen; `gone_ns` (monotonic) is None while it is there."""

    instance: str
    points: Mapping[str, Moment]
    gone_ns: int | None


class Watcher(Protocol):
    """Sees the instances of targets, which are known by their host (`<service>.<namespace>…`)."""

    source: str

    async def open(self) -> str | None:
        """Begin to look; what keeps it from seeing anything, or None."""

    async def until_zero(self, host: str, settle_ns: int, max_wait_ns: int) -> Zero:
        """Wait until the host's service has had no instance for `settle_ns`; at most `max_wait_ns`."""

    async def look(self, host: str) -> Zero:
        """Whether it has an instance now."""

    async def start_of(self, host: str, instance: str | None, sent_ns: int) -> Start | None:
        """What is known of the instance that answered a request sent at `sent_ns`; None: it was never seen."""

    def lives(self, host: str, since_ns: int) -> list[Life]:
        """The host's instances that were there at `since_ns` or later, in no order."""

    def clock(self) -> tuple[float, float] | None:
        """Milliseconds by which the source's clock is ahead of this machine's, and how far that may be off.

        None: it has no clock of its own.
        """

    async def close(self) -> None:
        """Look no more."""


def is_proven(zero: Zero, start: Start | None, sent_ns: int) -> tuple[bool | None, str]:
    """Whether a request was a cold start, and why."""
    if zero.reached is False:
        return False, f"there was an instance at the send: {', '.join(zero.living)}"
    if zero.reached is None:
        return None, f"nobody could see whether there was an instance{': ' * bool(zero.why)}{zero.why}"
    if start is None:
        return None, "the instance that answered was not seen"
    created = start.points.get("created")
    if created is None:
        return None, f"nobody saw when {start.instance} was made"
    if created.at_ns - created.error_ns > sent_ns:
        return True, ""
    if created.at_ns + created.error_ns < sent_ns:
        return False, f"{start.instance} was made before the send"
    return None, f"{start.instance} was made within the clocks' error of the send"


def phases_json(start: Start | None, sent_ns: int, first_byte_ns: int | None) -> dict[str, Any]:
    """The points in ms since the send, the largest error among them, and those known to whole seconds only."""
    points = {} if start is None else dict(start.points)
    if first_byte_ns is not None:
        points["first_byte"] = Moment(first_byte_ns)
    known = {name: points[name] for name in POINTS if name in points}
    return {
        "points": {name: round((moment.at_ns - sent_ns) / NS_PER_MS, 3) for name, moment in known.items()},
        "error": round(max((moment.error_ns for moment in known.values()), default=0) / NS_PER_MS, 3),
        "grid": [name for name, moment in known.items() if moment.grid],
    }
