"""What was seen of instances, whoever saw it: marks on their lives, in any order and as often as they come.

Rules:
- of several readings of one point the most exact counts, and of equals the earlier: a repeated message changes nothing
- an instance is there from its first mark until it is gone, also while it ends; what is gone does not come back
"""

from __future__ import annotations

from collections.abc import Iterable

from workload_generator.coldstarts import Moment, Start, Zero


class Ledger:
    """The instances of all services."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], dict[str, Moment]] = {}
        self._gone: dict[tuple[str, str], int] = {}
        self._scales: dict[str, list[Moment]] = {}
        self._empty_since: dict[str, int] = {}

    def mark(self, service: str, instance: str, point: str, moment: Moment) -> None:
        """An instance got to `point`."""
        points = self._points.setdefault((service, instance), {})
        known = points.get(point)
        if known is None or (moment.error_ns, moment.at_ns) < (known.error_ns, known.at_ns):
            points[point] = moment

    def there(self, instances: Iterable[tuple[str, str]], at_ns: int) -> None:
        """All that are there (service and instance) at `at_ns`: those that nobody saw come, and none of those that are
        not named."""
        named = set(instances)
        for key in named:
            self._points.setdefault(key, {})
        for key in self._points.keys() - named:
            self._gone.setdefault(key, at_ns)

    def gone(self, service: str, instance: str, at_ns: int) -> None:
        """An instance is no more."""
        self._points.setdefault((service, instance), {})
        self._gone.setdefault((service, instance), at_ns)

    def scale(self, service: str, moment: Moment) -> None:
        """It was decided that the service is to have instances, after it had none."""
        scales = self._scales.setdefault(service, [])
        if moment not in scales:
            scales.append(moment)

    def living(self, service: str) -> tuple[str, ...]:
        """Those that are not gone."""
        return tuple(name for owner, name in self._points if owner == service and (owner, name) not in self._gone)

    def zero(self, service: str, seen_since_ns: int) -> Zero:
        """Whether there is none, and since when; `seen_since_ns` is when the looking began."""
        living = self.living(service)
        if living:
            return Zero(False, None, living)
        ends = [at_ns for (owner, _), at_ns in self._gone.items() if owner == service]
        return Zero(True, max([seen_since_ns, *ends]))

    def start(self, service: str, instance: str, sent_ns: int) -> Start | None:
        """The instance's start, with the decision behind it: the first after the send."""
        points = self._points.get((service, instance))
        if not points:
            return None
        created = points.get("created")
        scales = [each for each in self._scales.get(service, ()) if each.at_ns + each.error_ns >= sent_ns]
        if scales and created is not None and min(scales).at_ns <= created.at_ns + created.error_ns:
            return Start(instance, {"scale": min(scales), **points})
        return Start(instance, dict(points))
