"""Collects rows and stores them, in one thread.

Rules:
- all rows of a tick are parsed and stored together in that thread: neither a slow disk nor a large response delays
  the watches
- everything that has no samples is a gap, with its reason
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import METRICS, WATCH, Gap, Row, stamp
from workload_generator.cluster.top.storage import Storage
from workload_generator.cluster.top.usage import Reading

METRICS_FIX = (
    "metrics-server is not installed or not ready: kubectl apply -f "
    "https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml "
    "(kOps: spec.metricsServer.enabled; kind: with --kubelet-insecure-tls), or use --source kubelet"
)
_LONGEST_REASON = 300
T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What has been recorded so far."""

    nodes: int = 0
    pods: int = 0
    changes: int = 0
    gaps: int = 0
    last_gap: str = ""


@dataclass(slots=True)
class RowRecorder:
    """The rows that are not stored yet, and the thread that stores them. `say` takes messages for the user."""

    storage: Storage
    say: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)
    _pending: list[Row] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "storage"))

    async def in_writer(self, function: Callable[[], T]) -> T:
        """Call the function in the thread that parses and stores: sample histories change only there."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, function)

    def add_changes(self, rows: list[Row]) -> None:
        """Rows of watched objects."""
        self.counts.changes += len(rows)
        self._pending += rows

    def add_mark(self, reason: str) -> None:
        """The recording began, or ended."""
        self._pending.append(Gap(now(), WATCH, "recording", 0, reason))

    def add_gap(self, source: str, subject: str, ticks: int, reason: str | BenchError) -> None:
        """Missing samples or changes: the number of ticks, or 0 for a part of one. Without a reason there is no gap."""
        if not reason:
            return
        text = " ".join(str(reason).split())[:_LONGEST_REASON]
        self.counts.gaps += 1
        self.counts.last_gap = f"{source} {subject}: {text}"
        self._pending.append(Gap(now(), source, subject, ticks, text))
        if source == METRICS:
            fix = f": {METRICS_FIX}" if "(503 " in text or "(404 " in text else ""
            self.say_once(f"usage of {subject} is missing: {text}{fix}", source)

    def say_once(self, text: str, about: str = "") -> None:
        """A message, unless there was one with the same text or `about`."""
        if (about or text) not in self._said:
            self._said.add(about or text)
            self.say(text)

    async def store(self, read: Callable[[], Reading] | None = None, subject: str = "") -> None:
        """Store what is pending and what `read` gives; once started it ends, even if this is cancelled. BenchError."""
        rows, self._pending = self._pending, []

        def write() -> None:
            if read is not None:
                rows.extend(self._rows(read(), subject))
            if rows:
                self.storage.write(rows)

        done = asyncio.ensure_future(self.in_writer(write))
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await done
            raise

    async def flush(self, period_s: float) -> None:
        """Store what is pending, again and again."""
        while True:
            await asyncio.sleep(period_s)
            if self._pending:
                await self.store()

    async def close(self) -> None:
        """Store the rest and end the thread. Raises BenchError."""
        try:
            await self.store()
        finally:
            self._writer.shutdown()

    def _rows(self, reading: Reading, subject: str) -> list[Row]:
        self.counts.nodes += len(reading.nodes)
        self.counts.pods += len(reading.pods)
        rows: list[Row] = [*reading.nodes, *reading.pods]
        if reading.unreadable:
            self.counts.gaps += 1
            reason = f"{len(reading.unreadable)} could not be parsed, the first: {reading.unreadable[0]}"
            rows.append(Gap(now(), reading.source, subject, 0, reason))
        return rows


def now() -> str:
    """The present time, as in rows."""
    return stamp(time.time_ns())
