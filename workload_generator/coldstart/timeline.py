"""The timeline of all instances: points of their lives, reported in any order and any number of times.

Rules:
- of several readings of a point the most exact counts, then the earliest: repeats change nothing
- an instance exists from its first point until it is gone, also while it terminates; a gone one does not return
- the timeline keeps a limited number of gone instances of each service, since a run may last for days
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from workload_generator.coldstart.proof import InstanceLife, Moment, Zero

KEPT = 2000
"""Gone instances to keep of each service; a burst starts fewer."""
_SCALES = 64


@dataclass(slots=True)
class _Service:
    living: dict[str, InstanceLife] = field(default_factory=dict)
    gone: dict[str, InstanceLife] = field(default_factory=dict)  # in the order of their ends
    last_gone_ns: int = 0
    scales: deque[Moment] = field(default_factory=lambda: deque(maxlen=_SCALES))


class InstanceTimeline:
    """The instances of all services, each service by its name."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._services: defaultdict[str, _Service] = defaultdict(_Service)

    def mark(self, service: str, instance: str, point: str, moment: Moment, *, correct: bool = False) -> None:
        """Add a reading of an instance's `point`; `correct` replaces earlier ones, whose error was too small."""
        points = self.exists(service, instance)
        known = points.get(point)
        if correct or known is None or _rank(moment) < _rank(known):
            points[point] = moment

    def exists(self, service: str, instance: str) -> dict[str, Moment]:
        """Add an instance, if it is new; returns its points."""
        of = self._services[service]
        return (of.gone.get(instance) or of.living.setdefault(instance, InstanceLife(instance, {}))).points

    def set_living(self, service: str, instances: Iterable[str], at_ns: int) -> None:
        """Add the instances that a service has at `at_ns`; all others are gone."""
        named = set(instances)
        for instance in named:
            self.exists(service, instance)
        for instance in self._services[service].living.keys() - named:
            self.gone(service, instance, at_ns)

    def gone(self, service: str, instance: str, at_ns: int) -> None:
        """End an instance."""
        of = self._services[service]
        if instance in of.gone:
            return
        of.gone[instance] = InstanceLife(instance, of.living.pop(instance, InstanceLife("", {})).points, at_ns)
        of.last_gone_ns = max(of.last_gone_ns, at_ns)
        while len(of.gone) > self._kept:
            del of.gone[next(iter(of.gone))]

    def is_gone(self, service: str, instance: str) -> bool:
        """Whether the instance has ended."""
        return instance in self._services[service].gone

    def scale(self, service: str, moment: Moment) -> None:
        """Add a decision to scale the service up from zero."""
        scales = self._services[service].scales
        if moment not in scales:
            scales.append(moment)

    def living(self, service: str) -> tuple[str, ...]:
        """The instances that exist."""
        return tuple(self._services[service].living)

    def zero(self, service: str, seen_since_ns: int) -> Zero:
        """Whether the service has no instance, and since when; it was observed since `seen_since_ns`."""
        living = self.living(service)
        if living:
            return Zero(False, None, living)
        return Zero(True, max(seen_since_ns, self._services[service].last_gone_ns))

    def zero_at(self, service: str, seen_since_ns: int, at_ns: int) -> Zero:
        """The same at an earlier moment: an instance that may have been created after it is none."""
        existing = [life.instance for life in self.lives(service, at_ns) if life.existed_at(at_ns)]
        if existing:
            return Zero(False, None, tuple(existing))
        ends = [life.gone_ns for life in self._services[service].gone.values() if life.gone_ns is not None]
        return Zero(True, max([seen_since_ns, *(end_ns for end_ns in ends if end_ns <= at_ns)]))

    def start(self, service: str, instance: str, sent_ns: int) -> InstanceLife | None:
        """The instance, with the decision behind its start: the first one after the request."""
        of = self._services[service]
        life = of.gone.get(instance) or of.living.get(instance)
        if life is None or not life.points:
            return None
        created = life.points.get("created")
        scales = [each for each in of.scales if each.at_ns + each.error_ns >= sent_ns]
        scale = _before(min(scales), created) if scales and created is not None else None
        return InstanceLife(instance, dict(life.points) if scale is None else {"scale": scale, **life.points})

    def lives(self, service: str, since_ns: int) -> list[InstanceLife]:
        """The instances that existed at `since_ns` or later, in no order."""
        of = self._services[service]
        ended = (life for life in of.gone.values() if life.gone_ns is not None and life.gone_ns >= since_ns)
        return [InstanceLife(life.instance, dict(life.points), life.gone_ns) for life in (*of.living.values(), *ended)]


def _rank(moment: Moment) -> tuple[int, int, bool]:
    return moment.error_ns, moment.at_ns, moment.grid


def _before(scale: Moment, created: Moment) -> Moment | None:
    """The decision, not later than the creation that it caused; None when it cannot have caused it.

    An autoscaler may write its decision after acting on it: then the creation is the latest time of the decision.
    """
    earliest_ns = scale.at_ns - scale.error_ns
    if earliest_ns > created.at_ns + created.error_ns:
        return None
    if scale.at_ns <= created.at_ns:
        return scale
    error_ns = max(created.at_ns - earliest_ns, created.error_ns)
    return Moment(created.at_ns, error_ns, scale.grid)
