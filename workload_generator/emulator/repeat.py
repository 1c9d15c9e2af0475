"""Something that is done at a fixed interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workload_generator.base.clock import NS_PER_S, monotonic_ns


class Repeat:
    """Calls at absolute times, until it is stopped; times that were missed are left out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interval_ns: int, call: Callable[[], object]) -> None:
        self._loop = loop
        self._interval_ns = interval_ns
        self._call = call
        self._due_ns = monotonic_ns()
        self._arm()

    def stop(self) -> None:
        """No more."""
        self._timer.cancel()

    def _arm(self) -> None:
        now_ns = monotonic_ns()
        missed = max(0, now_ns - self._due_ns) // self._interval_ns
        self._due_ns += (missed + 1) * self._interval_ns
        self._timer = self._loop.call_later((self._due_ns - now_ns) / NS_PER_S, self._run)

    def _run(self) -> None:
        self._arm()
        self._call()
