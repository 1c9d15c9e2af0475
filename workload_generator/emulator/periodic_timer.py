"""A timer that calls a function at a fixed interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workload_generator.base.clock import NS_PER_S, monotonic_ns


class PeriodicTimer:
    """Calls at start + n × interval until it is stopped; times that were missed are skipped."""

    def __init__(self, interval_ns: int, call: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_ns = interval_ns
        self._call = call
        self._due_ns = monotonic_ns()
        self._schedule()

    def stop(self) -> None:
        """Cancel the next call."""
        self._timer.cancel()

    def _schedule(self) -> None:
        now_ns = monotonic_ns()
        missed = max(0, now_ns - self._due_ns) // self._interval_ns
        self._due_ns += (missed + 1) * self._interval_ns
        self._timer = self._loop.call_later((self._due_ns - now_ns) / NS_PER_S, self._run)

    def _run(self) -> None:
        self._schedule()
        self._call()
