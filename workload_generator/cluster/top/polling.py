"""Polls at absolute deadlines, with back-off.

Rules:
- tick n is due at start + n × period; ticks that are due while another is in progress are missed
- after a failure, the source is not polled for a time that doubles with each failure, or for Retry-After if longer
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.top.row_recorder import RowRecorder
from workload_generator.kube.errors import ApiError

_CAP_S = 60.0

TEMPORARY = (ApiError, UsageError)
"""Errors that a later attempt may not meet: no response, a refusal, credentials that cannot be loaded."""


@dataclass(slots=True)
class NextPoll:
    """When a source that failed may be polled again, and why it failed."""

    failures: int = 0
    until_s: float = 0.0
    reason: str = ""

    def fail(self, now_s: float, period_s: float, error: BenchError) -> None:
        """The poll failed; the first retry is at the next tick."""
        self.failures += 1
        self.until_s = now_s + retry_after_s(error)
        if self.failures > 1:
            delay_s = Backoff(2 * period_s, _CAP_S, jitter=0.5).delay_s(self.failures - 2)
            self.until_s = max(self.until_s, now_s + delay_s)
        self.reason = str(error)

    def succeed(self) -> None:
        """The poll succeeded."""
        self.failures, self.until_s, self.reason = 0, 0.0, ""


@dataclass(slots=True)
class SourcePoller:
    """One source of samples. `poll` requests and stores them; an error of TEMPORARY becomes a gap."""

    source: str
    subject: str
    period_s: float
    poll: Callable[[], Awaitable[None]]
    recorder: RowRecorder
    next: NextPoll = field(default_factory=NextPoll)
    late_s: float = 0.0
    """How late the last tick started."""

    async def run(self) -> None:
        """Poll until cancelled. Raises all errors that are not TEMPORARY."""
        clock = asyncio.get_running_loop().time
        start_s, tick = clock(), 0
        while True:
            due_s = start_s + tick * self.period_s
            await asyncio.sleep(max(0.0, due_s - clock()))
            started_s = clock()
            self.late_s = started_s - due_s
            await poll_unless_waiting(self, self.next, self.subject, self.poll)
            tick += 1
            behind = int((clock() - start_s) / self.period_s) + 1 - tick
            if behind > 0:
                reason = f"the tick before took {clock() - started_s:.1f} s"
                self.recorder.add_gap(self.source, self.subject, behind, reason)
                tick += behind


async def poll_unless_waiting(
    poller: SourcePoller, next_poll: NextPoll, subject: str, poll: Callable[[], Awaitable[None]]
) -> None:
    """Poll once. A TEMPORARY error, or the wait after one, becomes a gap of one tick."""
    clock = asyncio.get_running_loop().time
    if next_poll.until_s > clock():
        poller.recorder.add_gap(poller.source, subject, 1, f"not asked, after: {next_poll.reason}")
        return
    try:
        await poll()
        next_poll.succeed()
    except TEMPORARY as error:
        next_poll.fail(clock(), poller.period_s, error)
        poller.recorder.add_gap(poller.source, subject, 1, error)


def retry_after_s(error: BenchError) -> float:
    """The Retry-After of the response, or 0."""
    return (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0
