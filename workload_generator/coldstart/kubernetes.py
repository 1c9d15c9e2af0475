"""The source of a cluster: pods, revisions and autoscalers of one namespace, as points of the timeline.

Rules:
- a point is the moment at which the API server stored it, between two readings of our clock
- from the send of a request until its start is known, the server is asked for its current version: a change of a later
  version came after that request, another one before its response. Watches report the changes, and their latest time.
  The first request goes out with the send; the pauses grow with the time since, so a start costs some dozen of them
- a change that a gap in a watch hid (410, listed again) has the whole second that the object itself gives: a 1 s grid
- zero comes from a list made for that question, since a silent watch may be a dead one

Versions are compared as numbers: they are revisions of one etcd, and KEP-5504 makes that an API promise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.coldstart import kubernetes_objects
from workload_generator.coldstart.api_clock import ServerClock
from workload_generator.coldstart.kubernetes_objects import version_of
from workload_generator.coldstart.proof import Moment
from workload_generator.coldstart.timeline import InstanceTimeline
from workload_generator.coldstart.watcher import ServiceMissing
from workload_generator.kube.client import Kube, TimedListing
from workload_generator.kube.errors import ApiError, Forbidden
from workload_generator.kube.names import SERVICE_LABEL
from workload_generator.kube.reflector import ObjectChange, Reflector
from workload_generator.kube.resources import EVENTS, POD_AUTOSCALERS, PODS, REVISIONS, Object, Resource

_PAUSE_S = 0.02
_GROWTH = 4  # a pause is this part of the time since the send: the bounds are about as wide
_FREE_READINGS = 100  # in a minute; more starts than those of ten services get longer pauses
_LONGEST_NS = 120 * NS_PER_S  # a start that takes longer has wider bounds
_CLOCK_S = 2.2  # meets the edge of two seconds
_CLOCK_GOOD_NS = 15 * NS_PER_MS
_READINGS = 256
_SIGHTS = 512
_NO_PODS = "metadata.name=no-such-pod"  # an empty list, for its version
_EARLY_EVENTS = 1000


@dataclass(slots=True)
class _Sight:
    """A point and its bounds; `low_ns` is None when there is no lower one. `service` and `instance` say whose."""

    service: str
    instance: str
    point: str
    version: int | None
    second_ns: int | None
    low_ns: int | None
    high_ns: int
    listed: bool

    def comes_after(self, version: int | None) -> bool:
        """Whether an object of this version shows the point's moment better."""
        if version is None or self.version is None:
            return False
        return version < self.version or (version == self.version and self.listed)

    def narrow(self, sent_ns: int, received_ns: int, current: int) -> bool:
        """Use a reading of the server's version; returns whether the bounds are narrower now."""
        bounds = self.low_ns, self.high_ns
        if self.version is None or self.listed:
            return False
        if current >= self.version:
            self.high_ns = min(self.high_ns, max(received_ns, self.low_ns or 0))
        elif sent_ns <= self.high_ns:
            self.low_ns = max(sent_ns, self.low_ns or 0)
        return (self.low_ns, self.high_ns) != bounds


class KubernetesSource:
    """See `watcher.Source`. `connect` returns a client of the API, with the rights of the run's account."""

    name = "kubernetes"

    def __init__(self, namespace: str, timeline: InstanceTimeline, connect: Callable[[], Awaitable[Kube]]) -> None:
        self.seen_since_ns = 0
        self.missed_readings = 0
        """Failed requests for the server's version; each makes bounds wider."""
        self._namespace = namespace
        self._timeline = timeline
        self._connect = connect
        self._stack = AsyncExitStack()
        self._clock = ServerClock()
        self._readings: deque[tuple[int, int, int]] = deque(maxlen=_READINGS)  # sent, received, version
        self._sights: deque[_Sight] = deque(maxlen=_SIGHTS)
        self._seen: dict[str, dict[str, _Sight]] = {}  # by pod, until it is gone
        self._early: dict[str, list[ObjectChange]] = {}  # events of pods that have not been seen yet
        self._fault: BenchError | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._start = 0  # counts the starts that were expected, and their ends
        self._lists = 0

    async def open(self) -> None:
        """List and watch, and compare clocks, which takes up to two seconds. Raises BenchError."""
        try:
            self._kube = await self._stack.enter_async_context(await self._connect())
            await self._compare_clocks()
            self._pods = await self._follow(PODS, kubernetes_objects.pod, self._take_pod)
            self._revisions = await self._follow(REVISIONS, kubernetes_objects.meta, lambda _change: None)
            await self._follow(POD_AUTOSCALERS, kubernetes_objects.autoscaler, self._take_autoscaler)
            with suppress(Forbidden):  # only the point `pulled` needs events; without them it is unknown
                await self._follow(EVENTS, kubernetes_objects.event, self._take_event)
        except BaseException:
            await self.close()
            raise

    async def refresh(self, host: str) -> None:
        """Bring the timeline up to date: a service with instances is watched; one without any is listed."""
        service, _, rest = host.partition(":")[0].lower().partition(".")
        if rest.partition(".")[0] != self._namespace:
            raise BenchError(f"{host} is not a service of the watched namespace {self._namespace}")
        if self._fault is not None:
            raise self._fault
        if self._pods.lists != self._lists:
            self._lists, self.seen_since_ns = self._pods.lists, monotonic_ns()
        if self._timeline.living(service):
            return
        if not any(each["service"] == service for each in self._revisions.objects.values()):
            raise ServiceMissing(f"there is no revision of {service} in the namespace {self._namespace}")
        reading = await self._kube.timed_list(PODS, self._namespace, labels=f"{SERVICE_LABEL}={service}")
        self._read(reading)
        for obj in reading.listing.items:
            self._take_pod(ObjectChange("ADDED", kubernetes_objects.pod(obj), None, reading.received_ns, listed=True))

    def expect(self) -> None:
        """Read the server's version from the next step of the loop on, which is when the request has been sent."""
        self._start += 1
        self._run(self._follow_start(self._start))

    def rest(self) -> None:
        """The start is known: read no more versions."""
        self._start += 1

    def clock(self) -> tuple[float, float] | None:
        """See `watcher.Source`."""
        anchor = Anchor.now()
        offset = self._clock.offset(anchor.mono_ns)
        if offset is None:
            return None
        ahead_ns = offset[0] - (anchor.wall_ns - anchor.mono_ns)
        return round(ahead_ns / NS_PER_MS, 3), round(offset[1] / NS_PER_MS, 3)

    async def close(self) -> None:
        """End watches and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    # Watches

    async def _follow(
        self, resource: Resource, shrink: Callable[[Object], Object], take: Callable[[ObjectChange], None]
    ) -> Reflector:
        reflector = Reflector(self._kube, resource, self._namespace, shrink=shrink)
        await self._stack.enter_async_context(reflector)
        self._run(self._take_all(reflector, take))
        await asyncio.sleep(0)  # the task subscribes to changes, before the server is asked for them
        now_ns = monotonic_ns()
        for obj in list(reflector.objects.values()):
            take(ObjectChange("ADDED", obj, None, now_ns, listed=True))
        return reflector

    async def _take_all(self, reflector: Reflector, take: Callable[[ObjectChange], None]) -> None:
        try:
            async for change in reflector.changes():
                take(change)
        except ApiError as error:
            self._fault = error
        except Exception as error:  # a fault of the generator makes cold starts unknown, as any other does
            self._fault = BenchError(f"watching the API: {type(error).__name__}: {error}")

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Changes

    def _take_pod(self, change: ObjectChange) -> None:
        obj, name = change.object, str(change.object["metadata"]["name"])
        service = obj["service"]
        if not service or self._timeline.is_gone(service, name):
            return
        if change.type == "DELETED":
            self._timeline.gone(service, name, change.mono_ns)
            self._seen.pop(name, None)
            return
        sights, version = self._seen.setdefault(name, {}), version_of(obj)
        for point, second_ns in obj["points"].items():
            known = sights.get(point)
            if known is not None and (change.listed or not known.comes_after(version)):
                continue
            sight = sights[point] = self._sight(service, name, point, second_ns, change)
            if known is not None:
                # Out of order, or after a list: this version has the point too, so it happened before both were seen.
                sight.high_ns = min(sight.high_ns, known.high_ns)
            self._show(sight, correct=known is not None)
        for early in self._early.pop(name, ()):
            self._take_event(early)

    def _take_autoscaler(self, change: ObjectChange) -> None:
        obj, before = change.object, change.before
        if change.type == "DELETED" or before is None or not obj["service"] or not obj["wanted"] or before["wanted"]:
            return
        version, earlier = version_of(obj), version_of(before)
        if version is not None and earlier is not None and version <= earlier:
            return  # a repeated change
        self._show(self._sight(obj["service"], "", "scale", obj["since"], change))

    def _take_event(self, change: ObjectChange) -> None:
        obj = change.object
        if change.type == "DELETED" or obj["point"] is None:
            return
        sights = self._seen.get(obj["pod"])
        if not sights:
            self._early.setdefault(obj["pod"], []).append(change)
            while len(self._early) > _EARLY_EVENTS:
                del self._early[next(iter(self._early))]
            return
        service = next(iter(sights.values())).service
        if obj["point"] == "pulled":  # the last one of several containers counts
            sight = self._sight(service, obj["pod"], "pulled", obj["second"], change)
            known = sights.get("pulled")
            if known is None or known.high_ns < sight.high_ns:
                sights["pulled"] = sight
                self._show(sight, correct=True)
        exact = self._clock.second_of(obj["exact"]) if obj["exact"] is not None else None
        if obj["point"] == "scheduled" and exact is not None and not change.listed:
            low_ns, high_ns = exact[0], exact[1] - NS_PER_S  # a moment, not the second that begins with it
            if low_ns <= change.mono_ns:  # else the scheduler's clock is not the API server's
                moment = Moment((low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2)
                self._timeline.mark(service, obj["pod"], "scheduled", moment)

    # Bounds

    def _sight(self, service: str, name: str, point: str, second_ns: int | None, change: ObjectChange) -> _Sight:
        obj, low_ns = change.object, None
        written = self._clock.second_of(obj["written"]) if obj["written"] and not change.listed else None
        if written is not None and written[0] <= change.mono_ns:
            low_ns = written[0]
        sight = _Sight(service, name, point, version_of(obj), second_ns, low_ns, change.mono_ns, change.listed)
        for reading in self._readings:
            sight.narrow(*reading)
        return sight

    def _show(self, sight: _Sight, *, correct: bool = False) -> None:
        """Put a point on the timeline, and keep it for the readings that are on their way."""
        self._mark(sight, correct=correct)
        if not sight.listed:
            self._sights.append(sight)

    def _mark(self, sight: _Sight, *, correct: bool = False) -> None:
        moment = self._moment(sight)
        if sight.point == "scale":
            if moment is not None:
                self._timeline.scale(sight.service, moment)
        elif not self._timeline.is_gone(sight.service, sight.instance):
            self._timeline.exists(sight.service, sight.instance)  # also at an unknown time
            if moment is not None:
                self._timeline.mark(sight.service, sight.instance, sight.point, moment, correct=correct)

    def _moment(self, sight: _Sight) -> Moment | None:
        """The narrower one of the bounds from watch and readings, and of the second that the object gives."""
        grid = self._clock.second_of(sight.second_ns) if sight.second_ns is not None else None
        if sight.low_ns is not None:
            width_ns = max(0, sight.high_ns - sight.low_ns)
            if grid is None or width_ns <= grid[1] - grid[0]:
                return Moment(sight.high_ns, width_ns)
        if grid is None or grid[0] > sight.high_ns:
            return None
        low_ns, high_ns = grid[0], min(grid[1], sight.high_ns)
        return Moment((low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2, grid=True)

    def _read(self, reading: TimedListing) -> None:
        """Take a reading of the server's clock and version, and narrow the bounds of the latest points by it."""
        if reading.date_ns is not None:
            self._clock.add(reading.sent_ns, reading.date_ns, reading.received_ns)
        text = reading.listing.resource_version
        if not (text.isascii() and text.isdigit()):
            return
        newest = reading.sent_ns, reading.received_ns, int(text)
        self._readings.append(newest)
        while self._sights and self._sights[0].high_ns < reading.sent_ns:
            self._sights.popleft()  # no reading from now on says more about it
        for sight in self._sights:
            if sight.narrow(*newest):
                self._mark(sight)

    async def _follow_start(self, start: int) -> None:
        began_ns = monotonic_ns()
        while self._start == start and (passed_ns := monotonic_ns() - began_ns) < _LONGEST_NS:
            try:
                self._read(await self._ask_version())
            except ApiError:
                self.missed_readings += 1
            minute_ago_ns = monotonic_ns() - 60 * NS_PER_S
            recent = sum(sent_ns > minute_ago_ns for sent_ns, _, _ in self._readings)
            more = 1 + max(0, recent - _FREE_READINGS) / 30
            await asyncio.sleep(max(_PAUSE_S, passed_ns / NS_PER_S / _GROWTH) * more)

    async def _ask_version(self) -> TimedListing:
        return await self._kube.timed_list(PODS, self._namespace, fields=_NO_PODS, limit=1)

    async def _compare_clocks(self) -> None:
        """Read the server's clock until a second changes. Raises ApiError when there is no response at all."""
        until_ns = monotonic_ns() + int(_CLOCK_S * NS_PER_S)
        while True:
            reading = await self._ask_version()
            self._read(reading)
            offset = self._clock.offset(reading.received_ns)
            if offset is None or offset[1] <= _CLOCK_GOOD_NS or monotonic_ns() > until_ns:
                return
            await asyncio.sleep(_PAUSE_S)
