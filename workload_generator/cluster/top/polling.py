"""Asking again and again, at absolute deadlines, without making the cluster's day worse.

Rules:
- tick n is due at start + n × period; a tick that is still under way when others are due has them missed
- after a refusal or no answer, nothing is asked for a while that doubles each time (Retry-After, when it is longer)
- whatever has no samples is written down as a gap, with its reason
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.usage_tables import Gap
from workload_generator.kube.errors import ApiError

LONGEST_PAUSE_S = 60.0
_LONGEST_REASON = 300

NOT_NOW = (ApiError, UsageError)
"""What may be otherwise a little later: no answer, a refusal, credentials that cannot be loaded just now."""


@dataclass(slots=True)
class NextRequest:
    """When a source that failed may be asked again."""

    failures: int = 0
    until_s: float = 0.0
    reason: str = ""

    def fail(self, now_s: float, period_s: float, error: BenchError) -> None:
        """It was refused, or did not answer."""
        self.failures += 1
        self.until_s = now_s + retry_after_s(error)
        if self.failures > 1:  # the first retry is at the next tick
            delay_s = Backoff(2 * period_s, LONGEST_PAUSE_S, jitter=0.5).delay_s(self.failures - 2)
            self.until_s = max(self.until_s, now_s + delay_s)
        self.reason = reason_of(error)

    def succeed(self) -> None:
        """It answered."""
        self.failures, self.until_s, self.reason = 0, 0.0, ""

    def wait_s(self, now_s: float) -> float:
        """How long nothing is to be asked."""
        return max(0.0, self.until_s - now_s)


@dataclass(slots=True)
class Poller:
    """One source of samples. `poll` asks it and stores what came; what it raises of NOT_NOW is a gap."""

    source: str
    subject: str
    period_s: float
    poll: Callable[[], Awaitable[None]]
    missed: Callable[[Gap], None]
    now: Callable[[], str]
    backoff: NextRequest = field(default_factory=NextRequest)
    late_s: float = 0.0
    """How late the last tick began."""
    took_s: float = 0.0
    """How long the last tick took."""

    async def run(self) -> None:
        """Until cancelled. Raises whatever is not in NOT_NOW."""
        loop = asyncio.get_running_loop()
        start_s, tick = loop.time(), 0
        while True:
            due_s = start_s + tick * self.period_s
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            began_s = loop.time()
            self.late_s = began_s - due_s
            if self.backoff.wait_s(began_s) > 0:
                self._gap(1, f"not asked, after: {self.backoff.reason}")
            else:
                try:
                    await self.poll()
                    self.backoff.succeed()
                except NOT_NOW as error:
                    self.backoff.fail(loop.time(), self.period_s, error)
                    self._gap(1, self.backoff.reason)
            self.took_s = loop.time() - began_s
            tick += 1
            behind = int((loop.time() - start_s) / self.period_s) + 1 - tick
            if behind > 0:
                self._gap(behind, f"the tick before took {self.took_s:.1f} s")
                tick += behind

    def _gap(self, ticks: int, reason: str) -> None:
        self.missed(Gap(self.now(), self.source, self.subject, ticks, reason))


def retry_after_s(error: BenchError) -> float:
    """How long the server asks to be left alone."""
    return (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0


def reason_of(error: BenchError) -> str:
    """One line of it."""
    return " ".join(str(error).split())[:_LONGEST_REASON]
