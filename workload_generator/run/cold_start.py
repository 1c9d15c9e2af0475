"""Observed cold starts: waits for zero instances before a request, and logs proof and phases of each start.

Rules:
- one target at a time; nothing is awaited between a deadline and its send: what is asked of the watcher then begins in
  the loop's next step, after the send, and its answer is awaited after the response
- a target that is not deployed or does not reach zero in time gets no request: its arrival is dropped, with the reason
- what the watcher cannot observe is logged as unknown, and changes nothing about the requests
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from workload_generator.base.clock import NS_PER_MS, Anchor, format_duration, monotonic_ns, rfc3339
from workload_generator.coldstart.proof import Zero, is_proven, phases_json
from workload_generator.coldstart.watcher import Watcher
from workload_generator.engine.connection import Exchange, Failure
from workload_generator.engine.engine import Engine
from workload_generator.experiment.model import Experiment
from workload_generator.experiment.schedule import (
    ColdStartRounds,
    cold_start_orders,
    cold_start_rounds,
    cold_start_waits,
)
from workload_generator.log import format as log_format
from workload_generator.log.records import Arrival, Phase
from workload_generator.log.writer import Log
from workload_generator.run.dispatcher import OneByOne


class ColdStartLog:
    """Writes the lines `cold_start` and `cold_burst` of one run. `hosts` are the targets' host names, by index."""

    def __init__(self, log: Log, watcher: Watcher, experiment: Experiment, anchor: Anchor) -> None:
        self.watcher = watcher
        self.hosts = [urlsplit(target.url).hostname or "" for target in experiment.targets]
        self._log = log
        self._targets = [target.url for target in experiment.targets]
        self._anchor = anchor

    async def sent(
        self, arrival: Arrival, exchange: Exchange, failure: Failure | None, zero: Zero, waited_ns: int
    ) -> None:
        """Log a request that has its result."""
        sent_ns = exchange.start_ns
        ended = exchange if failure is None else failure
        first_ns, response = ended.first_ns, ended.response
        instance = response.instance if response is not None else None
        cold = exchange.response.cold if failure is None else None
        if first_ns is None:
            start, proven, reason = None, None, "there was no response"
        else:
            start = await self.watcher.start_of(self.hosts[arrival.target], instance, sent_ns)
            if zero.reached is False or (zero.since_ns or 0) > sent_ns:  # observed after the send
                zero = self.watcher.zero_at(self.hosts[arrival.target], sent_ns)
            proven, reason = is_proven(zero, start, sent_ns)
        known = {"instance": instance and log_format.clean(instance), "cold": cold, "proven": proven, "reason": reason}
        self._write(arrival, zero, waited_ns, sent_ns, {**known, **phases_json(start, sent_ns, first_ns)})

    def burst(self, first: Arrival, requests: int, zero: Zero, waited_ns: int, sent_ns: int) -> None:
        """Log a burst once all its requests have results, with the instances since the send; times are in ms."""
        instances = []
        for life in self.watcher.lives(self.hosts[first.target], sent_ns):
            points = {name: life.points.get(name) for name in ("created", "ready")}
            since = {name: None if at is None else _ms(at.at_ns - sent_ns) for name, at in points.items()}
            gone = None if life.gone_ns is None else _ms(life.gone_ns - sent_ns)
            error_ns = max((at.error_ns for at in points.values() if at is not None), default=0)
            instances.append(
                {"instance": log_format.clean(life.instance), **since, "gone": gone, "error": _ms(error_ns)}
            )
        instances.sort(key=lambda each: (each["created"] is None, each["created"], each["instance"]))
        common = self._common(first, zero, waited_ns, sent_ns)
        self._log.line(log_format.COLD_BURST, {"requests": requests, **common, "instances": instances})

    def skipped(self, arrival: Arrival, zero: Zero, waited_ns: int, reason: str) -> None:
        """Log a request that was not sent."""
        at_ns = self._anchor.mono_ns + arrival.due_ns
        unknown = dict.fromkeys(("instance", "cold", "proven"))
        self._write(arrival, zero, waited_ns, at_ns, {**unknown, "reason": reason, **phases_json(None, at_ns, None)})

    def _write(self, arrival: Arrival, zero: Zero, waited_ns: int, at_ns: int, fields: dict[str, Any]) -> None:
        clock = self.watcher.clock()
        offset = None if clock is None else {"offset": clock[0], "error": clock[1]}
        common = self._common(arrival, zero, waited_ns, at_ns)
        self._log.line(log_format.COLD_START, {**common, **fields, "clock": offset})

    def _common(self, arrival: Arrival, zero: Zero, waited_ns: int, at_ns: int) -> dict[str, Any]:
        return {
            "seq": arrival.seq,
            "time": rfc3339(self._anchor.wall_at(at_ns)),
            "target": self._targets[arrival.target],
            "source": self.watcher.source,
            "zero": zero.reached,
            "zero_for": None if zero.since_ns is None else _ms(at_ns - zero.since_ns),
            "waited": _ms(waited_ns),
        }


def _ms(ns: int) -> float:
    return round(ns / NS_PER_MS, 3)


class ColdStarts(OneByOne):
    """Visits the targets in rounds, the first at `first_ns`, with `gap_ns` from a response to the next request.

    With `lines` it logs the proof of each start.
    """

    def __init__(
        self, engine: Engine, log: Log, rounds: ColdStartRounds, first_ns: int, gap_ns: int, lines: ColdStartLog | None
    ) -> None:
        super().__init__(engine, log)
        self._rounds = rounds
        self._first_ns = first_ns
        self._gap_ns = gap_ns
        self._lines = lines

    async def _run(self) -> None:
        start_ns: int | None = 0
        while start_ns is not None:
            due_ns = self._first_ns + start_ns
            for position, target in enumerate(self._rounds.targets):
                if position:
                    due_ns = self._now_ns() + self._gap_ns
                await self._sleep_until(due_ns)
                await self.visit(Arrival(self.planned, Phase.MEASURE, target, due_ns))
            end_ns = self._now_ns() - self._first_ns
            start_ns, missed = self._rounds.next_start(start_ns, end_ns, self._gap_ns)
            self.missed_rounds += missed

    async def visit(self, arrival: Arrival) -> tuple[Exchange, Failure | None]:
        """Send the request, look for instances that existed then, and log the start."""
        if self._lines is None:
            return await super().visit(arrival)
        watcher = self._lines.watcher
        watcher.expect()
        looking = asyncio.ensure_future(watcher.look(self._lines.hosts[arrival.target]))
        exchange, failure = await super().visit(arrival)
        await self._lines.sent(arrival, exchange, failure, await looking, 0)
        return exchange, failure


class FromZero(OneByOne):
    """Visits the targets in rounds, each as soon as it has been at zero for `coldStart.settle`."""

    def __init__(
        self, engine: Engine, log: Log, experiment: Experiment, first_ns: int, lines: ColdStartLog, seed: int
    ) -> None:
        super().__init__(engine, log)
        self._rounds = rounds = cold_start_rounds(experiment)
        self._end_ns = first_ns + rounds.duration_ns
        self._first_ns = first_ns
        self._lines = lines
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
        began_ns = self._now_ns()
        zero = await self._until_zero(target, self._settle_ns)
        if zero.reached and self._burst == 1:
            self._lines.watcher.expect()
        due_ns = self._now_ns()
        arrival, waited_ns = Arrival(self.planned, Phase.MEASURE, target, due_ns), due_ns - began_ns
        if not zero.reached:
            self._plan(arrival)
            why = f"instances: {', '.join(zero.living)}" if zero.living else f"cannot observe instances: {zero.why}"
            within = f"not at zero within {format_duration(self._max_wait_ns)} (coldStart.maxWait); {why}"
            reason = f"not sent: {zero.why if zero.missing else within}"
            self._drop(arrival, reason)
            self._lines.skipped(arrival, zero, waited_ns, reason)
        elif self._burst > 1:
            await self._visit_at_once(arrival, zero, waited_ns)
        else:
            exchange, failure = await self.visit(arrival)
            await self._lines.sent(arrival, exchange, failure, zero, waited_ns)

    async def _visit_at_once(self, first: Arrival, zero: Zero, waited_ns: int) -> None:
        """Send a burst, then wait until the instances that it started are gone again."""
        sent_ns = monotonic_ns()
        visits = asyncio.gather(*(self.visit(first._replace(seq=first.seq + number)) for number in range(self._burst)))
        self._lines.watcher.expect()  # after the tasks that send
        await visits
        await self._until_zero(first.target, 0)
        self._lines.burst(first, self._burst, zero, waited_ns, sent_ns)

    async def _until_zero(self, target: int, settle_ns: int) -> Zero:
        return await self._lines.watcher.until_zero(self._lines.hosts[target], settle_ns, self._max_wait_ns)
