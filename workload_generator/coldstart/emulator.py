"""The embedded platform's events (`/_platform/events`), brought into the ledger.

The platform keeps its latest events alone. Where some are missing, its instances are listed: one that nobody saw come
is there all the same, and one whose end was missed is gone.

Its `mono_ns` is the clock of every process of this machine, so nothing has to be converted. That a port listens, and
that a function is ready, is found by probing: those moments are late by a probe's interval at most.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp

from workload_generator.base.clock import NS_PER_MS, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.coldstart.proof import Moment
from workload_generator.coldstart.timeline import Ledger

_PROBED_NS = 6 * NS_PER_MS  # every 5 ms, and a connection on loopback
_POINTS = {
    "spawned": ("created", 0),
    "listening": ("listening", _PROBED_NS),
    "ready": ("ready", _PROBED_NS),
    "first-byte": ("first_byte", 0),
}
_FROM_ZERO = re.compile(r"0 to [1-9][0-9]*:")
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class LocalSource:
    """Reads what is new. `refresh` raises BenchError when the platform does not answer as it should."""

    name = "local"

    def __init__(self, url: str, ledger: Ledger) -> None:
        self._url = url.rstrip("/")
        self._ledger = ledger
        self._last = 0
        self._session: aiohttp.ClientSession | None = None
        self.seen_since_ns = 0

    async def open(self) -> None:
        """Take what happened so far."""
        await self.refresh()

    async def refresh(self, host: str = "") -> None:
        """Bring the ledger up to date, for all services."""
        events = await self._ask(f"/_platform/events?after={self._last}")
        if events and events[0]["id"] != self._last + 1:
            await self._list()
        else:
            self._take_all(events)

    def clock(self) -> None:
        """Its clock is ours."""

    async def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            await self._session.close()

    async def _list(self) -> None:
        """Instances and events of one moment."""
        state = await self._ask("/_platform")
        self._take_all(state["events"])
        now_ns = self.seen_since_ns = monotonic_ns()  # one that came and went in the gap was not seen
        for service, each in state["services"].items():
            self._ledger.there(service, [instance["name"] for instance in each["instances"]], now_ns)

    def _take_all(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["id"] > self._last:
                self._last = event["id"]
                self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        kind, service, instance, at_ns = event["kind"], event["service"], event["instance"], event["mono_ns"]
        if kind == "scale" and _FROM_ZERO.match(event["message"]):
            self._ledger.scale(service, Moment(at_ns))
        elif kind == "exited":
            self._ledger.gone(service, instance, at_ns)
        elif kind in _POINTS:
            point, error_ns = _POINTS[kind]
            self._ledger.mark(service, instance, point, Moment(at_ns, error_ns))

    async def _ask(self, path: str) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        try:
            async with self._session.get(self._url + path) as response:
                if response.status != 200:
                    raise BenchError(f"{self._url}{path} answers {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BenchError(f"{self._url}{path}: {error or type(error).__name__}") from None
