"""Calls a function at a fixed interval."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workload_generator.base.clock import NS_PER_S, monotonic_ns


def call_every(interval_ns: int, call: Callable[[], object]) -> asyncio.Task[None]:
    """Call at start + n × interval until the task is cancelled; times that were missed are skipped."""

    async def repeat() -> None:
        due_ns = monotonic_ns()
        while True:
            now_ns = monotonic_ns()
            due_ns += (max(0, now_ns - due_ns) // interval_ns + 1) * interval_ns
            await asyncio.sleep((due_ns - now_ns) / NS_PER_S)
            loop.call_soon(call)  # its exceptions do not end the task

    loop = asyncio.get_running_loop()
    return loop.create_task(repeat())
