"""The data of a cold start, and the decision whether it is proven.

Rules:
- every moment is on the generator's monotonic clock, with its error; what was not observed is None
- `proven` needs both: at the request no instance existed, not even a terminating one, and the one that responded was
  created after the request
- what cannot be decided is None, never False
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from workload_generator.base.clock import NS_PER_MS

POINTS = ("scale", "created", "scheduled", "pulled", "started", "listening", "queue_ready", "ready", "first_byte")
"""The points of a cold start in their order; each platform shows some of them."""


class Moment(NamedTuple):
    """A monotonic time, exact to ± `error_ns`. With `grid` its source has whole seconds only."""

    at_ns: int
    error_ns: int = 0
    grid: bool = False


@dataclass(frozen=True, slots=True)
class Zero:
    """Whether a service had no instances at some moment; `reached` is None when that could not be observed: `why`.

    `since_ns` is when the last instance ended, as far as observed; `living` are the instances that exist. A `missing`
    service is not deployed: waiting does not help.
    """

    reached: bool | None
    since_ns: int | None = None
    living: tuple[str, ...] = ()
    why: str = ""
    missing: bool = False


@dataclass(frozen=True, slots=True)
class InstanceLife:
    """An instance as far as it was observed; `gone_ns` (monotonic) is None while it exists."""

    instance: str
    points: dict[str, Moment]
    gone_ns: int | None = None

    def existed_at(self, at_ns: int) -> bool:
        """Whether it was created before; not if that may have been later."""
        created = self.points.get("created")
        return created is None or created.at_ns + created.error_ns < at_ns


def is_proven(zero: Zero, start: InstanceLife | None, sent_ns: int) -> tuple[bool | None, str]:
    """Whether a request at `sent_ns` was a cold start, and why not; `start` is the instance that responded."""
    if zero.reached is False:
        return False, f"an instance existed at the request: {', '.join(zero.living)}"
    if zero.reached is None:
        return None, f"instances could not be observed at the request{': ' * bool(zero.why)}{zero.why}"
    if start is None:
        return None, "the instance that responded was not observed"
    created = start.points.get("created")
    if created is None:
        return None, f"the creation of {start.instance} was not observed"
    if created.at_ns - created.error_ns > sent_ns:
        return True, ""
    if start.existed_at(sent_ns):
        return False, f"{start.instance} was created before the request"
    early, late = (
        (created.at_ns + error_ns - sent_ns) / NS_PER_MS for error_ns in (-created.error_ns, created.error_ns)
    )
    by = " by the API server's clock, in whole seconds" if created.grid else ""
    return None, f"{start.instance} was created between {-early:.1f} ms before and {late:.1f} ms after the request{by}"


def phases_json(start: InstanceLife | None, sent_ns: int, first_byte_ns: int | None) -> dict[str, Any]:
    """The points in ms since the request, each with its error, the largest error, and the points with whole seconds."""
    points = {} if start is None else dict(start.points)
    if first_byte_ns is not None:
        points["first_byte"] = Moment(first_byte_ns)
    known = {name: points[name] for name in POINTS if name in points}
    return {
        "points": {name: round((moment.at_ns - sent_ns) / NS_PER_MS, 3) for name, moment in known.items()},
        "errors": {name: round(moment.error_ns / NS_PER_MS, 3) for name, moment in known.items()},
        "error": round(max((moment.error_ns for moment in known.values()), default=0) / NS_PER_MS, 3),
        "grid": [name for name, moment in known.items() if moment.grid],
    }
