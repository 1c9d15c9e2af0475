"""Polls at absolute deadlines, with back-off.

Rules:
- tick n is due at start + n × period; ticks that are due while another is in progress are missed
- after a failure, the source is not polled for a time that doubles with each failure, or for Retry-After if longer
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.top.row_recorder import RowRecorder
from workload_generator.kube.errors import ApiError

_CAP_S = 60.0

TEMPORARY = (ApiError, UsageError)
"""Errors that a later attempt may not meet: no response, a refusal, credentials that cannot be loaded."""


@dataclass(slots=True)
class PollGate:
    """Keeps a source that failed from being polled for a while."""

    period_s: float
    _failures: int = 0
    _until_s: float = 0.0
    _reason: str = ""

    async def ask(self, poll: Callable[[], Awaitable[None]]) -> str:
        """Poll, unless it has to wait; returns why there are no samples, or nothing. The first retry is not delayed."""
        clock = asyncio.get_running_loop().time
        if self._until_s > clock():
            return f"not asked, after: {self._reason}"
        try:
            await poll()
        except TEMPORARY as error:
            self._failures += 1
            self._until_s, self._reason = clock() + retry_after_s(error), str(error)
            if self._failures > 1:
                delay_s = Backoff(2 * self.period_s, _CAP_S, jitter=0.5).delay_s(self._failures - 2)
                self._until_s = max(self._until_s, clock() + delay_s)
            return self._reason
        self._failures = 0
        return ""


@dataclass(slots=True)
class SourcePoller:
    """One source of samples. `poll` requests and stores them; an error of TEMPORARY becomes a gap."""

    source: str
    subject: str
    period_s: float
    poll: Callable[[], Awaitable[None]]
    recorder: RowRecorder
    late_s: float = 0.0
    """How late the last tick started."""

    async def run(self) -> None:
        """Poll until cancelled. Raises all errors that are not TEMPORARY."""
        clock, gate = asyncio.get_running_loop().time, PollGate(self.period_s)
        start_s, tick = clock(), 0
        while True:
            due_s = start_s + tick * self.period_s
            await asyncio.sleep(max(0.0, due_s - clock()))
            started_s = clock()
            self.late_s = started_s - due_s
            self.recorder.add_gap(self.source, self.subject, 1, await gate.ask(self.poll))
            tick += 1
            behind = int((clock() - start_s) / self.period_s) + 1 - tick
            if behind > 0:
                reason = f"the tick before took {clock() - started_s:.1f} s"
                self.recorder.add_gap(self.source, self.subject, behind, reason)
                tick += behind


def retry_after_s(error: BenchError) -> float:
    """The Retry-After of the response, or 0."""
    return (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0
