"""The watcher: waits for zero, and tells how the instance that answered came to be. One for all sources.

Rules:
- a source that fails makes things unknown, never a run fail; why is kept in `fault`
- zero has to be seen at the end of the wait, and to have lasted: a look in between that failed begins it anew
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.coldstart.proof import Life, Start, Zero
from workload_generator.coldstart.timeline import Ledger

_LOOK_S = 0.05
_SEEN_S = 2.0  # how long the API may take to show what has already answered


class Source(Protocol):
    """Where a ledger's marks come from. `seen_since_ns` is since when nothing can have been missed, 0 for ever."""

    name: str
    seen_since_ns: int

    async def open(self) -> None:
        """Begin to look. Raises BenchError."""

    async def refresh(self, host: str) -> None:
        """Bring the ledger up to date for the host's service. Raises BenchError."""

    def clock(self) -> tuple[float, float] | None:
        """See `coldstarts.Watcher.clock`."""

    async def close(self) -> None:
        """Look no more."""


class LedgerWatcher:
    """See `coldstarts.Watcher`."""

    def __init__(self, source: Source, ledger: Ledger) -> None:
        self.source = source.name
        self.fault: str | None = None
        self._source = source
        self._ledger = ledger
        self._since_ns = 0

    async def open(self) -> str | None:
        """Begin to look; what keeps it from seeing anything, or None."""
        self._since_ns = monotonic_ns()
        await self._try(self._source.open())
        return self.fault

    async def until_zero(self, host: str, settle_ns: int, max_wait_ns: int) -> Zero:
        """Wait until the host's service has had no instance for `settle_ns`; at most `max_wait_ns`."""
        deadline_ns = monotonic_ns() + max_wait_ns
        while True:
            zero = await self.look(host)
            now_ns = monotonic_ns()
            if zero.reached and zero.since_ns is not None and now_ns - zero.since_ns >= settle_ns:
                return zero
            if now_ns >= deadline_ns:
                settled = zero.reached and zero.since_ns is not None
                return Zero(False, zero.since_ns, ("none, but not for long enough",)) if settled else zero
            left_ns = deadline_ns - now_ns
            if zero.since_ns is not None:
                left_ns = min(left_ns, settle_ns - (now_ns - zero.since_ns))
            await asyncio.sleep(min(_LOOK_S, max(left_ns / NS_PER_S, 0.001)))

    async def look(self, host: str) -> Zero:
        """Whether it has an instance now."""
        if not await self._try(self._source.refresh(host)):
            return Zero(None, why=self.fault or "")
        return self._ledger.zero(service_of(host), max(self._since_ns, self._source.seen_since_ns))

    async def start_of(self, host: str, instance: str | None, sent_ns: int) -> Start | None:
        """What is known of the instance that answered a request sent at `sent_ns`; None: it was never seen."""
        if instance is None:
            return None
        deadline_ns = monotonic_ns() + int(_SEEN_S * NS_PER_S)
        while True:
            seen = await self._try(self._source.refresh(host))
            start = self._ledger.start(service_of(host), instance, sent_ns)
            if start is not None and "created" in start.points and "ready" in start.points:
                return start
            if not seen or monotonic_ns() >= deadline_ns:
                return start
            await asyncio.sleep(_LOOK_S)

    def lives(self, host: str, since_ns: int) -> list[Life]:
        """The host's instances that were there at `since_ns` or later, in no order."""
        return self._ledger.lives(service_of(host), since_ns)

    def clock(self) -> tuple[float, float] | None:
        """See `coldstarts.Watcher`."""
        return self._source.clock()

    async def close(self) -> None:
        """Look no more."""
        await self._source.close()

    async def _try(self, looking: Awaitable[None]) -> bool:
        try:
            await looking
        except BenchError as error:
            self.fault = str(error)
            self._since_ns = monotonic_ns()  # what happened meanwhile was not seen
            return False
        self.fault = None
        return True


def service_of(host: str) -> str:
    """The Knative Service that a target's host names: its first label."""
    return host.partition(":")[0].partition(".")[0].lower()
