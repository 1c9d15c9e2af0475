"""The progress of a run on stderr: a panel on a terminal, a line every ten seconds elsewhere, or nothing.

Rules:
- the recorder shows it, away from the event loop, and draws in a separate thread, so that a blocked terminal (Ctrl-S, a
  stalled `kubectl exec`) delays nothing else
- updates are skipped when the terminal is slow; a closed terminal ends the view, not the run
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workload_generator.base.clock import NS_PER_MS, NS_PER_S
from workload_generator.base.histogram import Histogram, format_us
from workload_generator.base.terminal import Terminal, escape
from workload_generator.log.records import Block, ErrorKind, Phase, Result
from workload_generator.log.wire import RELAY

_WINDOW_NS = 5 * NS_PER_S
_PLAIN_EVERY_S = 10
_MOST_WAITING = 64
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The state of a run. `rate`, `p50` and `p99` cover the last five seconds, the counts the whole run."""

    elapsed_s: float
    left_s: float
    phase: str
    rate: float
    in_flight: int
    p50: str
    p99: str
    failed: int
    dropped: int
    waiting: str

    @property
    def left(self) -> str:
        """How long the run lasts, and what is waited for before the next request, if anything is."""
        return f"{self.left_s:.0f} s left{self.waiting and f'; {self.waiting}'}"


@dataclass(slots=True)
class Recent:
    """What came since the last heartbeat: TTFBs, arrivals without one, those of them that failed, and pings as text."""

    ttfb_us: list[int] = field(default_factory=list)
    beyond: int = 0
    failed: int = 0
    pings: list[str] = field(default_factory=list)

    def add(self, block: Block, ok: Sequence[bool], targets: Sequence[str]) -> None:
        """Add a block of results. `ok` is by shape."""
        pings = [shape.phase is Phase.PING for shape in block.shapes]
        if any(pings):
            results = [result for result in block.results() if result.phase is Phase.PING]
            self.pings += [f"ping {targets[result.target]}: {_ping_text(result)}" for result in results]
        served = [fine and not ping for fine, ping in zip(ok, pings, strict=True)]
        for index, count in Counter(block.shape).items():
            if not served[index] and not pings[index]:
                self.beyond += count
                self.failed += count if block.shapes[index].error is not ErrorKind.DROPPED else 0
        rows = [served[index] for index in block.shape]
        self.ttfb_us += [ns // 1000 for ns in compress(block.ttfb_ns, rows)]

    def merge(self, other: Recent) -> None:
        """Add what came to another shard."""
        self.ttfb_us += other.ttfb_us
        self.beyond += other.beyond
        self.failed += other.failed
        self.pings += other.pings


class LiveProgress:
    """Draws the last five seconds, in a daemon thread. `view` has `title`, `total_ns` and `timeout`."""

    def __init__(self, rich: bool, view: dict[str, Any]) -> None:
        self._total_ns = view["total_ns"]
        self._timeout = view["timeout"]
        self._failed = 0
        self._beats: deque[tuple[int, int, Recent]] = deque()  # elapsed, started, and what came before
        self._view = _RichView(view["title"]) if rich else _PlainView()
        self._waiting: queue.Queue[ProgressSnapshot | str | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self._thread.start()

    def beat(self, beat: dict[str, Any], recent: Recent) -> None:
        """Called every second. `beat` has `line` (the heartbeat of the log), `elapsed_ns`, `in_flight` and `phase`."""
        self._put(*recent.pings, self._snapshot(beat, recent))

    def close(self, recent: Recent) -> None:
        """End the view with the pings after the last heartbeat."""
        if self._put(*recent.pings, None):
            self._thread.join(_CLOSE_S)

    def _put(self, *items: ProgressSnapshot | str | None) -> bool:
        """Show `items`, or skip them when the queue is full; returns whether the last one will be shown."""
        with contextlib.suppress(queue.Full):
            for item in items:
                self._waiting.put_nowait(item)
            return True
        return False

    def _draw(self) -> None:
        try:
            while (item := self._waiting.get()) is not None:
                if isinstance(item, str):
                    self._view.print(item)
                elif self._waiting.empty():  # otherwise a newer one follows
                    self._view.show(item)
            self._view.close()
        except OSError:
            return  # the terminal was closed

    def _snapshot(self, beat: dict[str, Any], recent: Recent) -> ProgressSnapshot:
        elapsed_ns, started = beat["elapsed_ns"], beat["line"]["started"]
        self._beats.append((elapsed_ns, started, recent))
        self._failed += recent.failed
        while len(self._beats) > 2 and self._beats[1][0] <= elapsed_ns - _WINDOW_NS:
            self._beats.popleft()
        first_ns, first_started = self._beats[0][:2] if len(self._beats) > 1 else (0, 0)
        histogram = Histogram()
        for _, _, each in list(self._beats)[1 if len(self._beats) > 1 else 0 :]:
            histogram.record_all(each.ttfb_us, each.beyond)
        return ProgressSnapshot(
            phase=beat["phase"],
            elapsed_s=elapsed_ns / NS_PER_S,
            left_s=max(0.0, (self._total_ns - elapsed_ns) / NS_PER_S),
            rate=(started - first_started) * NS_PER_S / (elapsed_ns - first_ns) if elapsed_ns > first_ns else 0.0,
            in_flight=beat["in_flight"],
            p50=format_us(histogram.quantile_us(0.5), self._timeout),
            p99=format_us(histogram.quantile_us(0.99), self._timeout),
            failed=self._failed,
            dropped=beat["line"]["dropped"],
            waiting=beat.get("waiting", ""),
        )


def open_progress(mode: str, view: dict[str, Any]) -> LiveProgress | None:
    """`mode` is `auto`, `rich`, `plain`, `none` or `wire.RELAY`."""
    if mode in ("none", RELAY) or sys.stderr is None:
        return None
    return LiveProgress(mode == "rich" or (mode == "auto" and sys.stderr.isatty()), view)


class _PlainView:
    def __init__(self) -> None:
        self._next_s = 0.0

    def show(self, s: ProgressSnapshot) -> None:
        if s.elapsed_s < self._next_s:
            return
        self._next_s = s.elapsed_s + _PLAIN_EVERY_S - 0.5
        self.print(
            f"{s.elapsed_s:6.0f} s  {s.phase:<7}  {s.rate:9.1f}/s  in flight {s.in_flight:<6} p50 {s.p50}  "
            f"p99 {s.p99}  failed {s.failed}  dropped {s.dropped}  {s.left}"
        )

    def print(self, line: str) -> None:
        os.write(sys.stderr.fileno(), (line + "\n").encode(sys.stderr.encoding, sys.stderr.errors or "replace"))

    def close(self) -> None:
        return


class _RichView:
    def __init__(self, title: str) -> None:
        self._title = title
        self._live = Live(console=Terminal(stderr=True), auto_refresh=False, transient=True)

    def show(self, s: ProgressSnapshot) -> None:
        self._live.start()
        figures = Table.grid(padding=(0, 3))
        figures.add_row(
            f"[bold]{s.rate:,.1f}[/]/s",
            f"in flight [bold]{s.in_flight:,}[/]",
            f"p50 [bold]{s.p50}[/]",
            f"p99 [bold]{s.p99}[/]",
            f"failed [{'red' if s.failed else 'green'}]{s.failed:,}[/]",
            f"dropped [{'red' if s.dropped else 'green'}]{s.dropped:,}[/]",
        )
        total_s = s.elapsed_s + s.left_s
        clock = f"  {s.phase}  {s.elapsed_s:.0f} of {total_s:.0f} s, {s.left}"
        bar = Table.grid()
        bar.add_row(ProgressBar(total=max(total_s, 0.001), completed=s.elapsed_s, width=40), Text(clock))
        self._live.update(Group(Text(self._title, style="bold"), figures, bar), refresh=True)

    def print(self, line: str) -> None:
        self._live.start()
        self._live.console.print(escape(line), highlight=False)

    def close(self) -> None:
        self._live.stop()


def _ping_text(result: Result) -> str:
    if result.error is not None:
        return f"{result.error}: {result.message}"
    times = {"dns": result.dns_ns, "connect": result.connect_ns, "tls": result.tls_ns, "ttfb": result.ttfb_ns}
    parts = [f"{name} {ns / NS_PER_MS:.3f} ms" for name, ns in times.items() if ns is not None]
    return f"{result.status}, {', '.join(parts)}"
