"""Cold starts that are watched: waits for zero before each, and logs of each whether it was one, and its phases.

Rules:
- one target at a time; the watcher is asked before the send and after the response, never in between
- a target that does not get to zero in time is not sent to: its arrival is dropped, with the reason
- what the watcher cannot tell is logged as unknown, and changes nothing about the requests
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from workload_generator.base.clock import NS_PER_MS, Anchor, format_duration, monotonic_ns, rfc3339
from workload_generator.coldstart.proof import Watcher, Zero, is_proven, phases_json
from workload_generator.engine.engine import Engine
from workload_generator.engine.exchange import Exchange
from workload_generator.experiment.model import INTERVAL, ZERO, Experiment
from workload_generator.experiment.schedule import ColdStartRounds, cold_start_orders, cold_start_waits
from workload_generator.log import format as log_format
from workload_generator.log.records import Arrival, ErrorKind, Opening, Phase, Response, Result, unanswered
from workload_generator.log.writer import Log
from workload_generator.run.dispatcher import ColdStarts, OneByOne


class Tap:
    """Passes results on to the log, and keeps what a cold start has to know of the last one."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.start_ns = 0
        self.ttfb_ns: int | None = None
        self.instance: str | None = None
        self.cold: bool | None = None

    def add(self, result: Result) -> None:
        """See `engine.Record`."""
        self.start_ns, self.ttfb_ns, self.instance = result.start_ns, result.ttfb_ns, result.instance
        self.cold = result.cold
        self._log.add(result)

    def served(
        self, arrival: Arrival, start_ns: int, ttfb_ns: int, total_ns: int, response: Response, kernel: bool,
        segments: int, opening: Opening | None,
    ) -> None:  # fmt: skip
        """See `engine.Record`."""
        self.start_ns, self.ttfb_ns, self.instance = start_ns, ttfb_ns, response.instance
        self.cold = response.cold
        self._log.served(arrival, start_ns, ttfb_ns, total_ns, response, kernel, segments, opening)


class Notes:
    """Logs the `cold_start` lines of one run."""

    def __init__(self, log: Log, tap: Tap, watcher: Watcher, experiment: Experiment, anchor: Anchor) -> None:
        self._log = log
        self._tap = tap
        self.watcher = watcher
        self._targets = [target.url for target in experiment.targets]
        self._anchor = anchor

    async def sent(self, arrival: Arrival, host: str, zero: Zero, waited_ns: int) -> None:
        """The request has its result."""
        tap = self._tap
        sent_ns = self._anchor.mono_ns + tap.start_ns
        start = await self.watcher.start_of(host, tap.instance, sent_ns) if tap.ttfb_ns is not None else None
        proven, reason = is_proven(zero, start, sent_ns)
        if tap.ttfb_ns is None:
            proven, reason = None, "there was no answer"
        first_byte_ns = None if tap.ttfb_ns is None else sent_ns + tap.ttfb_ns
        phases = phases_json(start, sent_ns, first_byte_ns)
        self._write(arrival, zero, waited_ns, sent_ns, {
            "instance": tap.instance, "cold": tap.cold, "proven": proven, "reason": reason, **phases,
        })  # fmt: skip

    def burst(self, first: Arrival, requests: int, host: str, zero: Zero, waited_ns: int, sent_ns: int) -> None:
        """All of them have their results; what was started for them is told from the send on, in ms."""
        instances = []
        for life in self.watcher.lives(host, sent_ns):
            points = {name: life.points.get(name) for name in ("created", "ready")}
            known = {name: None if at is None else _ms(at.at_ns - sent_ns) for name, at in points.items()}
            gone = None if life.gone_ns is None else _ms(life.gone_ns - sent_ns)
            error_ns = max((at.error_ns for at in points.values() if at is not None), default=0)
            instances.append(
                {"instance": log_format.clean(life.instance), **known, "gone": gone, "error": _ms(error_ns)}
            )
        instances.sort(key=lambda each: (each["created"] is None, each["created"], each["instance"]))
        self._log.line(log_format.COLD_BURST, {
            "seq": first.seq,
            "requests": requests,
            "time": rfc3339(self._anchor.wall_at(sent_ns)),
            "target": self._targets[first.target],
            "source": self.watcher.source,
            "zero": zero.reached,
            "zero_for": None if zero.since_ns is None else _ms(sent_ns - zero.since_ns),
            "waited": _ms(waited_ns),
            "instances": instances,
        })  # fmt: skip

    def skipped(self, arrival: Arrival, zero: Zero, waited_ns: int, reason: str) -> None:
        """It was not sent."""
        at_ns = self._anchor.mono_ns + arrival.due_ns
        nothing: dict[str, Any] = {"instance": None, "cold": None, "proven": None, "reason": reason}
        self._write(arrival, zero, waited_ns, at_ns, {**nothing, **phases_json(None, at_ns, None)})

    def _write(self, arrival: Arrival, zero: Zero, waited_ns: int, at_ns: int, found: dict[str, Any]) -> None:
        clock = self.watcher.clock()
        fields = {
            "seq": arrival.seq,
            "time": rfc3339(self._anchor.wall_at(at_ns)),
            "target": self._targets[arrival.target],
            "source": self.watcher.source,
            "zero": zero.reached,
            "zero_for": None if zero.since_ns is None else round((at_ns - zero.since_ns) / NS_PER_MS, 3),
            "waited": round(waited_ns / NS_PER_MS, 3),
            **found,
            "clock": None if clock is None else {"offset": clock[0], "error": clock[1]},
        }
        fields["instance"] = None if found["instance"] is None else log_format.clean(found["instance"])
        self._log.line(log_format.COLD_START, fields)


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 3)


class WatchedRounds(ColdStarts):
    """Cold-start rounds on the original's grid, each request's proof beside it."""

    def __init__(
        self,
        rounds: ColdStartRounds,
        engine: Engine,
        origin_ns: int,
        first_ns: int,
        gap_ns: int,
        notes: Notes,
        hosts: Sequence[str],
    ) -> None:
        super().__init__(rounds, engine, origin_ns, first_ns, gap_ns)
        self._notes = notes
        self._hosts = hosts

    async def visit(self, arrival: Arrival) -> None:
        """Look, send, look."""
        host = self._hosts[arrival.target]
        zero = await self._notes.watcher.look(host)
        await super().visit(arrival)
        await self._notes.sent(arrival, host, zero, 0)


class FromZero(OneByOne):
    """Visits the targets in rounds, each as soon as it has been at zero for the time to settle."""

    def __init__(
        self,
        experiment: Experiment,
        rounds: ColdStartRounds,
        engine: Engine,
        origin_ns: int,
        first_ns: int,
        notes: Notes,
        record: Tap,
        hosts: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__(engine, origin_ns)
        self._rounds = rounds
        self._end_ns = first_ns + rounds.duration_ns
        self._first_ns = first_ns
        self._notes = notes
        self._record = record
        self._hosts = hosts
        self._orders = cold_start_orders(experiment, rounds, seed)
        self._settle_ns, self._max_wait_ns = cold_start_waits(experiment)
        self._burst = experiment.cold_start.burst or 1

    async def _run(self) -> None:
        await self._sleep_until(self._first_ns)
        for number, order in enumerate(self._orders):
            if self._now_ns() >= self._end_ns:
                self.missed_rounds = self._rounds.count - number
                return
            for target in order:
                await self._visit_from_zero(target)

    async def _visit_from_zero(self, target: int) -> None:
        host, began_ns = self._hosts[target], self._now_ns()
        zero = await self._notes.watcher.until_zero(host, self._settle_ns, self._max_wait_ns)
        due_ns = self._now_ns()
        arrival, waited_ns = Arrival(self.planned, Phase.MEASURE, target, due_ns), due_ns - began_ns
        if zero.reached and self._burst > 1:
            await self._visit_at_once(arrival, host, zero, waited_ns)
            return
        if zero.reached:
            await self.visit(arrival)
            await self._notes.sent(arrival, host, zero, waited_ns)
            return
        self._plan(arrival)
        self.dropped += 1
        self.dropped_measured += 1
        reason = f"not sent: no zero within {format_duration(self._max_wait_ns)} (coldStart.maxWait)"
        reason += f", but {', '.join(zero.living)}" if zero.living else ", since nobody could look"
        self._record.add(unanswered(arrival, due_ns, ErrorKind.DROPPED, reason))
        self._notes.skipped(arrival, zero, waited_ns, reason)

    async def _visit_at_once(self, first: Arrival, host: str, zero: Zero, waited_ns: int) -> None:
        """Send a burst, and look on until what it started is gone again."""
        done, left = asyncio.Event(), self._burst

        def on_done(_exchange: Exchange, _error: ErrorKind | None, /) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        sent_ns = monotonic_ns()
        for number in range(self._burst):
            arrival = first._replace(seq=first.seq + number)
            self._plan(arrival)
            self._engine.start(arrival, on_done)
        await done.wait()
        await self._notes.watcher.until_zero(host, 0, self._max_wait_ns)
        self._notes.burst(first, self._burst, host, zero, waited_ns, sent_ns)


def wait_of(experiment: Experiment, watched: bool) -> str:
    """`zero` or `interval`: what the experiment says, else zero where it can be seen."""
    return experiment.cold_start.wait or (ZERO if watched else INTERVAL)
