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
from dataclasses import dataclass
from itertools import compress
from typing import Any

import orjson
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from workload_generator.base.clock import NS_PER_MS, NS_PER_S
from workload_generator.base.histogram import Histogram, format_us
from workload_generator.base.terminal import Terminal, escape
from workload_generator.log.records import Block, ErrorKind, Phase, Result

_WINDOW_NS = 5 * NS_PER_S
_PLAIN_EVERY_S = 10
_MOST_WAITING = 64
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The state of a run. `rate`, `p50` and `p99` cover the last five seconds, the counts the whole run."""

    phase: str
    elapsed_s: float
    left_s: float
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


class RunProgress:
    """Receives results and heartbeats. This class shows nothing; subclasses do."""

    def add(self, block: Block, ok: Sequence[bool]) -> None:
        """Add a block of results. `ok` is by shape."""

    def merge(self, ttfb_us: list[int], beyond: int, failed: int, pings: list[str]) -> None:
        """Add the counts of a worker's `Relay`."""

    def beat(self, beat: dict[str, Any]) -> None:
        """Called every second. `beat` has `line` (the heartbeat of the log), `elapsed_ns`, `in_flight` and `phase`."""

    def close(self) -> None:
        """End the view."""


class _Counting(RunProgress):
    """Counts since the last heartbeat: TTFBs, arrivals without one, and those of them that failed."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets
        self._clear()

    def _clear(self) -> None:
        self.ttfb_us: list[int] = []
        self.beyond = 0
        self.failed = 0
        self.pings: list[str] = []

    def add(self, block: Block, ok: Sequence[bool]) -> None:
        pings = [shape.phase is Phase.PING for shape in block.shapes]
        if any(pings):
            results = [result for result in block.results() if result.phase is Phase.PING]
            self.pings += [f"ping {self._targets[result.target]}: {_ping_text(result)}" for result in results]
        served = [fine and not ping for fine, ping in zip(ok, pings, strict=True)]
        for index, count in Counter(block.shape).items():
            if not served[index] and not pings[index]:
                self.beyond += count
                self.failed += count if block.shapes[index].error is not ErrorKind.DROPPED else 0
        rows = [served[index] for index in block.shape]
        self.ttfb_us += [ns // 1000 for ns in compress(block.ttfb_ns, rows)]

    def merge(self, ttfb_us: list[int], beyond: int, failed: int, pings: list[str]) -> None:
        self.ttfb_us += ttfb_us
        self.beyond += beyond
        self.failed += failed
        self.pings += pings


class LiveProgress(_Counting):
    """Draws the last five seconds."""

    def __init__(self, view: _PlainView | _RichView, total_ns: int, timeout: str, targets: Sequence[str]) -> None:
        super().__init__(targets)
        self._total_ns = total_ns
        self._timeout = timeout
        self._all_failed = 0
        self._beats: deque[tuple[int, int, list[int], int]] = deque()  # elapsed, started, TTFBs and failures since
        self._drawer = _Drawer(view)

    def add(self, block: Block, ok: Sequence[bool]) -> None:
        super().add(block, ok)
        self._show_pings()

    def merge(self, ttfb_us: list[int], beyond: int, failed: int, pings: list[str]) -> None:
        super().merge(ttfb_us, beyond, failed, pings)
        self._show_pings()

    def beat(self, beat: dict[str, Any]) -> None:
        self._drawer.put(self._snapshot(beat))

    def close(self) -> None:
        self._drawer.close()

    def _show_pings(self) -> None:
        for line in self.pings:
            self._drawer.put(line)
        self.pings = []

    def _snapshot(self, beat: dict[str, Any]) -> ProgressSnapshot:
        elapsed_ns, started = beat["elapsed_ns"], beat["line"]["started"]
        self._beats.append((elapsed_ns, started, self.ttfb_us, self.beyond))
        self._all_failed += self.failed
        self._clear()
        while len(self._beats) > 2 and self._beats[1][0] <= elapsed_ns - _WINDOW_NS:
            self._beats.popleft()
        first_ns, first_started = self._beats[0][:2] if len(self._beats) > 1 else (0, 0)
        histogram = Histogram()
        for _, _, values, beyond in list(self._beats)[1 if len(self._beats) > 1 else 0 :]:
            histogram.record_all(values, beyond)
        return ProgressSnapshot(
            phase=beat["phase"],
            elapsed_s=elapsed_ns / NS_PER_S,
            left_s=max(0.0, (self._total_ns - elapsed_ns) / NS_PER_S),
            rate=(started - first_started) * NS_PER_S / (elapsed_ns - first_ns) if elapsed_ns > first_ns else 0.0,
            in_flight=beat["in_flight"],
            p50=format_us(histogram.quantile_us(0.5), self._timeout),
            p99=format_us(histogram.quantile_us(0.99), self._timeout),
            failed=self._all_failed,
            dropped=beat["line"]["dropped"],
            waiting=beat.get("waiting", ""),
        )


class Relay(_Counting):
    """Sends the counts since the last heartbeat, a JSON object a line, to the process that shows all shards."""

    def __init__(self, fd: int, targets: Sequence[str]) -> None:
        super().__init__(targets)
        self._file = os.fdopen(fd, "wb")

    def beat(self, beat: dict[str, Any]) -> None:
        line = {"beat": beat, "counts": [self.ttfb_us, self.beyond, self.failed, self.pings]}
        self._clear()
        with contextlib.suppress(OSError):  # the parent process has ended
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


RELAY = "relay:"
"""Prefix of the mode that sends the progress to a file descriptor, whose number follows."""


def relay_of(mode: str) -> tuple[int, ...]:
    """The file descriptor of `mode`, if it is a relay."""
    return (int(mode.removeprefix(RELAY)),) if mode.startswith(RELAY) else ()


def open_progress(mode: str, view: dict[str, Any], targets: Sequence[str]) -> RunProgress:
    """`mode` is `auto`, `rich`, `plain`, `none` or a relay; `view` has `title`, `total_ns` and `timeout`."""
    for fd in relay_of(mode):
        return Relay(fd, targets)
    if mode == "none" or sys.stderr is None:
        return RunProgress()
    rich = mode == "rich" or (mode == "auto" and sys.stderr.isatty())
    chosen = _RichView(view["title"]) if rich else _PlainView()
    return LiveProgress(chosen, view["total_ns"], view["timeout"], targets)


class _Drawer:
    """Draws in a daemon thread, which cannot keep the process alive."""

    def __init__(self, view: _PlainView | _RichView) -> None:
        self._view = view
        self._waiting: queue.Queue[ProgressSnapshot | str | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)
        self._thread.start()

    def put(self, item: ProgressSnapshot | str) -> None:
        """Show `item`, or skip it when the queue is full."""
        if not self._waiting.full():
            self._waiting.put_nowait(item)

    def close(self) -> None:
        """End within a second."""
        if not self._waiting.full():
            self._waiting.put_nowait(None)
            self._thread.join(_CLOSE_S)

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
