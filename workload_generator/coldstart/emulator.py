"""The source of the embedded platform: its events (`/_platform/events`) as points of the timeline.

The platform keeps its latest events only. After a gap the instances are listed: an instance whose start was missed
exists, one whose end was missed is gone.

Events have `mono_ns`, the clock of every process of this machine. The platform finds out by probing that a port listens
and that a function is ready: those points are late by at most the interval of the probes.
"""

from __future__ import annotations

import re
from typing import Any

import aiohttp

from workload_generator.base.clock import NS_PER_MS, monotonic_ns
from workload_generator.base.control_token import control_headers
from workload_generator.base.errors import BenchError
from workload_generator.coldstart.proof import Moment
from workload_generator.coldstart.timeline import InstanceTimeline

_PROBED_NS = 6 * NS_PER_MS  # an interval of 5 ms, and a connection on loopback
_POINTS = {
    "spawned": ("created", 0),
    "listening": ("listening", _PROBED_NS),
    "ready": ("ready", _PROBED_NS),
    "first-byte": ("first_byte", 0),
}
_FROM_ZERO = re.compile(r"0 to [1-9][0-9]*:")
_TIMEOUT = aiohttp.ClientTimeout(total=5)


class EmulatorSource:
    """Reads the new events at each `refresh`. See `watcher.Source`."""

    name = "local"

    def __init__(self, url: str, timeline: InstanceTimeline) -> None:
        self._url = url.rstrip("/")
        self._timeline = timeline
        self._last = 0
        self.seen_since_ns = 0

    async def open(self) -> None:
        """Connect, and read all events so far."""
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers=control_headers(self._url))
        await self.refresh()

    async def refresh(self, host: str = "") -> None:
        """Bring the timeline up to date, for all services."""
        events = await self._ask(f"/_platform/events?after={self._last}")
        if not events or events[0]["id"] == self._last + 1:
            self._take_all(events)
            return
        state = await self._ask("/_platform")
        self._take_all(state["events"])
        now_ns = self.seen_since_ns = monotonic_ns()  # an instance that came and went in the gap was missed
        for service, each in state["services"].items():
            self._timeline.set_living(service, [instance["name"] for instance in each["instances"]], now_ns)

    def expect(self) -> None:
        """Nothing: events have their exact times."""

    def rest(self) -> None:
        """Nothing."""

    def clock(self) -> None:
        """None: the platform uses the clock of this machine."""

    async def close(self) -> None:
        """Disconnect."""
        await self._session.close()

    def _take_all(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            if event["id"] <= self._last:
                continue
            self._last = event["id"]
            kind, service, instance, at_ns = event["kind"], event["service"], event["instance"], event["mono_ns"]
            if kind == "scale" and _FROM_ZERO.match(event["message"]):
                self._timeline.scale(service, Moment(at_ns))
            elif kind == "exited":
                self._timeline.gone(service, instance, at_ns)
            elif kind in _POINTS:
                point, error_ns = _POINTS[kind]
                self._timeline.mark(service, instance, point, Moment(at_ns, error_ns))

    async def _ask(self, path: str) -> Any:
        try:
            async with self._session.get(self._url + path) as response:
                if response.status != 200:
                    raise BenchError(f"{self._url}{path} answers {response.status}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BenchError(f"{self._url}{path}: {error or type(error).__name__}") from None
