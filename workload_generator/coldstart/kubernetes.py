"""Pods, revisions and autoscalers of one namespace, as the Kubernetes API tells of them, brought into the ledger.

Rules:
- a point is the moment at which the API server had it written down, between two readings of our clock
- the server is asked for its present version every 20 ms while a start is waited for: a change with a later version
  came after that was asked, another before it was answered; watches say what changed, and when at the latest
- what a gap in a watch has hidden (410, listed again) is known to the second that the object itself gives: a 1 s grid
- zero is what a list says that was asked for just now; a watch that is silent may be a dead one

Versions are compared as numbers: they are revisions of one etcd, and KEP-5504 makes that an API promise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.coldstart import kubernetes_objects
from workload_generator.coldstart.api_clock import ServerClock
from workload_generator.coldstart.proof import Moment
from workload_generator.coldstart.timeline import Ledger
from workload_generator.kube.client import Kube, TimedListing
from workload_generator.kube.errors import ApiError, Forbidden
from workload_generator.kube.names import SERVICE_LABEL
from workload_generator.kube.reflector import ObjectChange, Reflector
from workload_generator.kube.resources import EVENTS, POD_AUTOSCALERS, PODS, REVISIONS, Object, Resource

_PULSE_S = 0.02
_FAILED_PAUSE_S = 0.2
_AWAKE_NS = 120 * NS_PER_S  # a start that takes longer has coarser bounds
_CLOCK_S = 2.2  # each second's edge is met twice
_CLOCK_GOOD_NS = 15 * NS_PER_MS
_READINGS = 8192
_SIGHTS = 512
_NOBODY = "metadata.name=nobody"  # a list of nothing: its version is what is asked for
_EARLY_EVENTS = 1000


@dataclass(slots=True)
class _Sight:
    """A point as it was seen; `low_ns` None: nothing says when at the earliest."""

    service: str
    instance: str
    point: str
    version: int | None
    second_ns: int | None
    low_ns: int | None
    high_ns: int
    listed: bool


class KubernetesSource:
    """See `watcher.Source`. `connect` gives the API as the account may see it."""

    name = "kubernetes"

    def __init__(self, namespace: str, ledger: Ledger, connect: Callable[[], Awaitable[Kube]]) -> None:
        self.seen_since_ns = 0
        self.missed_readings = 0
        """How often the server's version could not be asked for; bounds are wider then."""
        self._namespace = namespace
        self._ledger = ledger
        self._connect = connect
        self._stack = AsyncExitStack()
        self._clock = ServerClock()
        self._readings: deque[tuple[int, int, int]] = deque(maxlen=_READINGS)  # asked, answered, version
        self._sights: deque[_Sight] = deque(maxlen=_SIGHTS)
        self._seen: dict[str, dict[str, _Sight]] = {}  # by pod, until it is gone
        self._early: dict[str, list[ObjectChange]] = {}  # events of pods that are not known yet
        self._fault: BenchError | None = None
        self._pulse_until_ns = 0
        self._pulsing = asyncio.Event()
        self._lists = 0

    async def open(self) -> None:
        """List and watch, and compare clocks, which takes up to two seconds. Raises BenchError."""
        try:
            self._kube = await self._stack.enter_async_context(await self._connect())
            await self._compare_clocks()
            self._pods = await self._follow(PODS, kubernetes_objects.pod, self._take_pod)
            self._revisions = await self._follow(REVISIONS, kubernetes_objects.revision, lambda _change: None)
            await self._follow(POD_AUTOSCALERS, kubernetes_objects.autoscaler, self._take_autoscaler)
            try:
                await self._follow(EVENTS, kubernetes_objects.event, self._take_event)
            except Forbidden:
                pass  # a right that only the image's pull asks for: without it that point is unknown
        except BaseException:
            await self.close()
            raise
        self._run(self._pulse())

    async def refresh(self, host: str) -> None:
        """Bring the ledger up to date for the host's service: what has an instance is watched, zero is asked for."""
        service = self._service(host)
        if self._fault is not None:
            raise self._fault
        if self._pods.lists != self._lists:
            self._lists, self.seen_since_ns = self._pods.lists, monotonic_ns()
        if self._ledger.living(service):
            return
        if not any(each["service"] == service for each in self._revisions.objects.values()):
            raise BenchError(f"there is no revision of {service} in the namespace {self._namespace}")
        labels = f"{SERVICE_LABEL}={service}"
        glance = await self._kube.timed_list(PODS, self._namespace, labels=labels)
        self._read(glance)
        for obj in glance.listing.items:
            self._take_pod(ObjectChange("ADDED", kubernetes_objects.pod(obj), None, glance.received_ns, listed=True))
        self._pulse_until_ns = monotonic_ns() + _AWAKE_NS
        self._pulsing.set()

    def clock(self) -> tuple[float, float] | None:
        """See `coldstarts.Watcher.clock`: the API server's."""
        anchor = Anchor.now()
        offset = self._clock.offset(anchor.mono_ns)
        if offset is None:
            return None
        ahead_ns = offset[0] - (anchor.wall_ns - anchor.mono_ns)
        return round(ahead_ns / NS_PER_MS, 3), round(offset[1] / NS_PER_MS, 3)

    async def close(self) -> None:
        """End watches and connections."""
        await self._stack.aclose()

    # Following

    def _service(self, host: str) -> str:
        service, _, rest = host.partition(":")[0].lower().partition(".")
        if rest.partition(".")[0] != self._namespace:
            raise BenchError(f"{host} is not a service of the namespace {self._namespace}, which is watched")
        return service

    async def _follow(
        self, resource: Resource, shrink: Callable[[Object], Object], take: Callable[[ObjectChange], None]
    ) -> Reflector:
        reflector = Reflector(self._kube, resource, self._namespace, shrink=shrink)
        await self._stack.enter_async_context(reflector)
        self._run(self._take_all(reflector, take))
        await asyncio.sleep(0)  # it listens from here on, and the server has not been asked for changes yet
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
        except Exception as error:  # a fault of ours makes things unknown, like any other; whoever asks is told
            self._fault = BenchError(f"following the API: {type(error).__name__}: {error}")

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)

    # What changed

    def _take_pod(self, change: ObjectChange) -> None:
        obj, name = change.object, str(change.object["metadata"]["name"])
        service = obj["service"]
        if not service or self._ledger.is_gone(service, name):
            return
        if change.type == "DELETED":
            self._ledger.gone(service, name, change.mono_ns)
            self._seen.pop(name, None)
            return
        for point, second_ns in obj["points"].items():
            self._see(service, name, point, second_ns, change)
        for early in self._early.pop(name, ()):
            self._take_event(early)

    def _take_autoscaler(self, change: ObjectChange) -> None:
        obj, before = change.object, change.before
        if change.type == "DELETED" or before is None or not obj["service"] or not obj["wanted"] or before["wanted"]:
            return
        version, earlier = kubernetes_objects.version_of(obj), kubernetes_objects.version_of(before)
        if version is not None and earlier is not None and version <= earlier:
            return  # an old one that comes late is no decision
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
        if obj["point"] == "pulled":  # of several containers the last one
            sight = self._sight(service, obj["pod"], "pulled", obj["second"], change)
            known = sights.get("pulled")
            if known is None or known.high_ns < sight.high_ns:
                sights["pulled"] = sight
                self._show(sight, correct=True)
        exact = self._clock.second_of(obj["exact"]) if obj["exact"] is not None else None
        if obj["point"] == "scheduled" and exact is not None and not change.listed:
            low_ns, high_ns = exact[0], exact[1] - NS_PER_S  # the moment itself, not the second that begins with it
            if low_ns <= change.mono_ns:  # by the API server's clock; a scheduler with another would say nonsense
                error_ns = (high_ns - low_ns + 1) // 2
                self._ledger.mark(service, obj["pod"], "scheduled", Moment((low_ns + high_ns) // 2, error_ns))

    def _see(self, service: str, name: str, point: str, second_ns: int | None, change: ObjectChange) -> None:
        sights = self._seen.setdefault(name, {})
        known = sights.get(point)
        if known is None:
            sights[point] = sight = self._sight(service, name, point, second_ns, change)
            self._show(sight)
            return
        version = kubernetes_objects.version_of(change.object)
        if change.listed or known.listed or version is None or known.version is None or version >= known.version:
            return
        # It had come out of order: what is new in the later version may have happened by the earlier one.
        sights[point] = sight = self._sight(service, name, point, second_ns, change)
        sight.high_ns = min(sight.high_ns, known.high_ns)
        self._show(sight, correct=True)

    # When

    def _sight(self, service: str, name: str, point: str, second_ns: int | None, change: ObjectChange) -> _Sight:
        version, high_ns, low_ns = kubernetes_objects.version_of(change.object), change.mono_ns, None
        if not change.listed:
            written = self._clock.second_of(change.object["written"]) if change.object["written"] else None
            if written is not None and written[0] <= high_ns:
                low_ns = written[0]
            for asked_ns, answered_ns, there in reversed(self._readings):
                if version is None:
                    break
                if there >= version:
                    high_ns = min(high_ns, answered_ns)
                elif asked_ns <= high_ns:
                    low_ns = max(asked_ns, low_ns or asked_ns)
                    break
        return _Sight(service, name, point, version, second_ns, low_ns, high_ns, change.listed)

    def _show(self, sight: _Sight, *, correct: bool = False) -> None:
        moment = self._moment(sight)
        if moment is None:
            return
        if sight.point == "scale":
            self._ledger.scale(sight.service, moment)
        elif correct:
            self._ledger.correct(sight.service, sight.instance, sight.point, moment)
        else:
            self._ledger.mark(sight.service, sight.instance, sight.point, moment)
        if not sight.listed:
            self._sights.append(sight)

    def _moment(self, sight: _Sight) -> Moment | None:
        """The narrower of what watch and readings say, and of the second that the object gives."""
        grid = self._clock.second_of(sight.second_ns) if sight.second_ns is not None else None
        if sight.low_ns is not None:
            width_ns = max(0, sight.high_ns - sight.low_ns)
            if grid is None or width_ns <= grid[1] - grid[0]:
                return Moment(sight.high_ns, width_ns)
        if grid is None or grid[0] > sight.high_ns:
            return self._unknown(sight)
        low_ns, high_ns = grid[0], min(grid[1], sight.high_ns)
        return Moment((low_ns + high_ns) // 2, (high_ns - low_ns + 1) // 2, grid=True)

    def _unknown(self, sight: _Sight) -> Moment | None:
        """It is there, and nobody can say since when; that there is an instance must be known all the same."""
        if sight.point == "created":
            self._ledger.exists(sight.service, sight.instance)
        return None

    def _read(self, glance: TimedListing) -> None:
        if glance.date_ns is not None:
            self._clock.add(glance.sent_ns, glance.date_ns, glance.received_ns)
        text = glance.listing.resource_version
        if not (text.isascii() and text.isdigit()):
            return
        version = int(text)
        self._readings.append((glance.sent_ns, glance.received_ns, version))
        for sight in self._sights:  # it was on its way when they arrived
            if sight.version is None or sight.low_ns is None:
                continue
            if version >= sight.version and sight.low_ns <= glance.received_ns < sight.high_ns:
                sight.high_ns = glance.received_ns
            elif version < sight.version and sight.low_ns < glance.sent_ns <= sight.high_ns:
                sight.low_ns = glance.sent_ns
            else:
                continue
            moment = Moment(sight.high_ns, sight.high_ns - sight.low_ns)
            if sight.point == "scale":
                self._ledger.scale(sight.service, moment)
            elif not self._ledger.is_gone(sight.service, sight.instance):
                self._ledger.mark(sight.service, sight.instance, sight.point, moment)

    async def _pulse(self) -> None:
        while True:
            if monotonic_ns() > self._pulse_until_ns:
                self._pulsing.clear()
                await self._pulsing.wait()
            began_ns = monotonic_ns()
            try:
                self._read(await self._ask_version())
                pause_s = _PULSE_S
            except ApiError:
                self.missed_readings += 1
                pause_s = _FAILED_PAUSE_S
            await asyncio.sleep(max(0.0, pause_s - (monotonic_ns() - began_ns) / NS_PER_S))

    async def _ask_version(self) -> TimedListing:
        return await self._kube.timed_list(PODS, self._namespace, fields=_NOBODY, limit=1)

    async def _compare_clocks(self) -> None:
        """Ask until the edge of a second was met. Raises ApiError when nothing is answered at all."""
        until_ns = monotonic_ns() + int(_CLOCK_S * NS_PER_S)
        while True:
            glance = await self._ask_version()
            self._read(glance)
            offset = self._clock.offset(glance.received_ns)
            if offset is None or offset[1] <= _CLOCK_GOOD_NS or monotonic_ns() > until_ns:
                return
            await asyncio.sleep(_PULSE_S)
