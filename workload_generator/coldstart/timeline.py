"""What was seen of instances, whoever saw it: marks on their lives, in any order and as often as they come.

Rules:
- of several readings of one point the most exact counts, and of equals the earlier: a repeat changes nothing
- an instance is there from its first mark until it is gone, also while it ends; what is gone does not come back
- of what is gone the latest of each service are kept, which is what may still be asked for: a run may last for days
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from workload_generator.coldstart.proof import Life, Moment, Start, Zero

KEPT = 2000
"""Gone instances of a service that are remembered; a burst starts fewer."""
_SCALES = 64


@dataclass(slots=True)
class _Service:
    living: dict[str, dict[str, Moment]] = field(default_factory=dict)
    gone: dict[str, tuple[dict[str, Moment], int]] = field(default_factory=dict)  # in the order of their ends
    last_gone_ns: int = 0
    scales: deque[Moment] = field(default_factory=lambda: deque(maxlen=_SCALES))

    def points(self, instance: str) -> dict[str, Moment] | None:
        if instance in self.gone:
            return self.gone[instance][0]
        return self.living.get(instance)


class Ledger:
    """The instances of all services."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._services: dict[str, _Service] = {}

    def mark(self, service: str, instance: str, point: str, moment: Moment) -> None:
        """An instance got to `point`."""
        points = self._points(service, instance)
        known = points.get(point)
        if known is None or _rank(moment) < _rank(known):
            points[point] = moment

    def correct(self, service: str, instance: str, point: str, moment: Moment) -> None:
        """What was said of a point was more than could be known: this instead."""
        self._points(service, instance)[point] = moment

    def there(self, service: str, instances: Iterable[str], at_ns: int) -> None:
        """All that a service has at `at_ns`: those that nobody saw come, and none of those that are not named."""
        named = set(instances)
        for instance in named:
            self._points(service, instance)
        for instance in self._service(service).living.keys() - named:
            self.gone(service, instance, at_ns)

    def exists(self, service: str, instance: str) -> None:
        """An instance is there, and that is all that is known of it."""
        self._points(service, instance)

    def gone(self, service: str, instance: str, at_ns: int) -> None:
        """An instance is no more."""
        of = self._service(service)
        if instance in of.gone:
            return
        of.gone[instance] = (of.living.pop(instance, {}), at_ns)
        of.last_gone_ns = max(of.last_gone_ns, at_ns)
        while len(of.gone) > self._kept:
            del of.gone[next(iter(of.gone))]

    def is_gone(self, service: str, instance: str) -> bool:
        """Whether it was there and is no more."""
        return instance in self._service(service).gone

    def scale(self, service: str, moment: Moment) -> None:
        """It was decided that the service is to have instances, after it had none."""
        scales = self._service(service).scales
        if moment not in scales:
            scales.append(moment)

    def living(self, service: str) -> tuple[str, ...]:
        """Those that are not gone."""
        return tuple(self._service(service).living)

    def zero(self, service: str, seen_since_ns: int) -> Zero:
        """Whether there is none, and since when; `seen_since_ns` is when the looking began."""
        living = self.living(service)
        if living:
            return Zero(False, None, living)
        return Zero(True, max(seen_since_ns, self._service(service).last_gone_ns))

    def start(self, service: str, instance: str, sent_ns: int) -> Start | None:
        """The instance's start, with the decision behind it: the first after the send."""
        of = self._service(service)
        points = of.points(instance)
        if not points:
            return None
        created = points.get("created")
        scales = [each for each in of.scales if each.at_ns + each.error_ns >= sent_ns]
        if scales and created is not None:
            scale = _before(min(scales), created)
            if scale is not None:
                return Start(instance, {"scale": scale, **points})
        return Start(instance, dict(points))

    def lives(self, service: str, since_ns: int) -> list[Life]:
        """Those that were there at `since_ns` or later, and when they were gone, in no order."""
        of = self._service(service)
        ended = [Life(name, dict(points), at) for name, (points, at) in of.gone.items() if at >= since_ns]
        return [*(Life(name, dict(points), None) for name, points in of.living.items()), *ended]

    def _service(self, service: str) -> _Service:
        found = self._services.get(service)
        if found is None:
            found = self._services[service] = _Service()
        return found

    def _points(self, service: str, instance: str) -> dict[str, Moment]:
        of = self._service(service)
        known = of.points(instance)
        if known is None:
            known = of.living[instance] = {}
        return known


def _rank(moment: Moment) -> tuple[int, int, bool]:
    return moment.error_ns, moment.at_ns, moment.grid


def _before(scale: Moment, created: Moment) -> Moment | None:
    """The decision as a moment not later than what it led to; None when it cannot have led to it.

    Whoever decides may write it down after having acted: then the act is the latest that the decision can be.
    """
    earliest_ns = scale.at_ns - scale.error_ns
    if earliest_ns > created.at_ns + created.error_ns:
        return None
    if scale.at_ns <= created.at_ns:
        return scale
    error_ns = max(created.at_ns - earliest_ns, created.error_ns)
    return Moment(created.at_ns, error_ns, scale.grid)
