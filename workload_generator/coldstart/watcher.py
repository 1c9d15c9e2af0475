"""The watcher waits for zero instances, and reports how the instance that responded was started.

Rules:
- a source that fails makes cold starts unknown, and never fails the run; `fault` has the reason
- zero is observed at the end of the wait, and has lasted: a failed look starts the settle time again
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.coldstart.proof import InstanceLife, Zero
from workload_generator.coldstart.timeline import InstanceTimeline

_LOOK_S = 0.1
_FAILED_S = 0.5
_SEEN_S = 2.0  # the delay of the API in showing an instance that has responded


class ServiceMissing(BenchError):
    """The platform has no such service."""


class Source(Protocol):
    """Fills a timeline. Nothing was missed since `seen_since_ns` (monotonic)."""

    name: str
    seen_since_ns: int

    async def open(self) -> None:
        """Connect. Raises BenchError."""

    async def refresh(self, host: str) -> None:
        """Bring the timeline up to date for the service of `host`. Raises ServiceMissing, BenchError."""

    def expect(self) -> None:
        """A request is sent now: observe closely from then on, without a step before the send."""

    def rest(self) -> None:
        """Observe closely no more."""

    def clock(self) -> tuple[float, float] | None:
        """The source's clock − this machine's wall clock, and the error, in ms; None when it has no other clock."""

    async def close(self) -> None:
        """Disconnect."""


class Watcher:
    """Observes the instances of targets. A target is given by its host, `<service>.<namespace>…`."""

    def __init__(self, source: Source, timeline: InstanceTimeline) -> None:
        self.source = source.name
        self.fault: str | None = None
        self.clock = source.clock
        self.expect = source.expect
        self.close = source.close
        self._source = source
        self._timeline = timeline
        self._since_ns = 0
        self._is_missing = False
        self._wait: tuple[str, int, int] | None = None

    async def open(self) -> str | None:
        """Connect; returns why nothing can be observed, or None."""
        self._since_ns = monotonic_ns()
        await self._try(self._source.open())
        return self.fault

    async def until_zero(self, host: str, settle_ns: int, max_wait_ns: int) -> Zero:
        """Wait until the service has had no instance for `settle_ns`, at most for `max_wait_ns`.

        A service that is missing is not waited for.
        """
        began_ns = monotonic_ns()
        try:
            self._wait = service_of(host), began_ns, max_wait_ns
            return await self._until_zero(host, settle_ns, began_ns + max_wait_ns)
        finally:
            self._wait = None

    def waiting(self) -> str:
        """What is waited for now and how long, for people; empty when nothing is."""
        if self._wait is None:
            return ""
        service, began_ns, max_wait_ns = self._wait
        waited_s, most_s = (monotonic_ns() - began_ns) / NS_PER_S, max_wait_ns / NS_PER_S
        return f"waiting {waited_s:.0f} s of at most {most_s:.0f} s until {service} has no instance"

    async def missing(self, hosts: Sequence[str]) -> list[str]:
        """Why services of these targets cannot be reached: they are not deployed."""
        return [zero.why for zero in [await self.look(host) for host in hosts] if zero.missing]

    async def _until_zero(self, host: str, settle_ns: int, deadline_ns: int) -> Zero:
        while True:
            zero = await self.look(host)
            if zero.missing:
                return zero
            now_ns = monotonic_ns()
            since_ns = zero.since_ns
            if zero.reached and since_ns is not None and now_ns - since_ns >= settle_ns:
                return zero
            if now_ns >= deadline_ns:
                return Zero(False, since_ns, ("none, but not for coldStart.settle",)) if zero.reached else zero
            left_ns = deadline_ns - now_ns
            if since_ns is not None:
                left_ns = min(left_ns, settle_ns - (now_ns - since_ns))
            pause_s = {True: left_ns / NS_PER_S, False: _LOOK_S, None: _FAILED_S}[zero.reached]
            await asyncio.sleep(min(pause_s, max(left_ns / NS_PER_S, 0.001)))

    async def look(self, host: str) -> Zero:
        """Whether the service has no instance now."""
        if not await self._try(self._source.refresh(host)):
            return Zero(None, why=self.fault or "", missing=self._is_missing)
        return self._timeline.zero(service_of(host), max(self._since_ns, self._source.seen_since_ns))

    def zero_at(self, host: str, at_ns: int) -> Zero:
        """Whether the service had no instance then, by what is known now."""
        return self._timeline.zero_at(service_of(host), max(self._since_ns, self._source.seen_since_ns), at_ns)

    async def start_of(self, host: str, instance: str | None, sent_ns: int) -> InstanceLife | None:
        """The instance that responded to a request of `sent_ns`; None when it was not observed."""
        if instance is None:
            self._source.rest()
            return None
        deadline_ns = monotonic_ns() + int(_SEEN_S * NS_PER_S)
        while True:
            seen = await self._try(self._source.refresh(host))
            start = self._timeline.start(service_of(host), instance, sent_ns)
            complete = start is not None and "created" in start.points and "ready" in start.points
            if complete or not seen or monotonic_ns() >= deadline_ns:
                self._source.rest()
                return start
            await asyncio.sleep(_LOOK_S)

    def lives(self, host: str, since_ns: int) -> list[InstanceLife]:
        """The service's instances that existed at `since_ns` or later, in no order."""
        return self._timeline.lives(service_of(host), since_ns)

    async def _try(self, looking: Awaitable[None]) -> bool:
        try:
            await looking
        except BenchError as error:
            self.fault = str(error)
            self._is_missing = isinstance(error, ServiceMissing)
            if not self._is_missing:
                self._since_ns = monotonic_ns()  # earlier changes may have been missed
            return False
        self.fault = None
        return True


def service_of(host: str) -> str:
    """The Knative Service in a target's host: its first label."""
    return host.partition(":")[0].partition(".")[0].lower()
