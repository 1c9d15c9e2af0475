"""Starts arrivals when they are due: the open loop, the closed loop, and pings; cold starts are in `cold_start`.

Rules of the open loop:
- deadlines are absolute; due arrivals are started together, never early, and never wait for responses
- an arrival past `max_in_flight` is dropped: it gets its result, and the schedule continues
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from itertools import count

from workload_generator.base.clock import monotonic_ns
from workload_generator.engine.connection import Exchange, Failure
from workload_generator.engine.engine import Engine, Record
from workload_generator.engine.timer import DeadlineTimer, Spinner
from workload_generator.experiment.schedule import Shard
from workload_generator.log.records import Arrival, ErrorKind, Phase, make_arrival, unanswered

_BURST = 512  # arrivals to start before the loop reads responses again, when the generator is behind its schedule
_MEASURE = Phase.MEASURE
_FAILED_PAUSE_S = 0.001  # keeps a closed loop against a dead target from a storm of refused connections


class DispatchCounts:
    """Arrivals of a dispatcher so far; the measured ones are of the phase `measure`."""

    planned = 0
    planned_measured = 0
    dropped = 0
    dropped_measured = 0
    missed_rounds = 0


class Dispatcher(DispatchCounts):
    """Starts arrivals until the end of its schedule, and counts them.

    `finished` is set when it will start nothing more.
    """

    def __init__(self, engine: Engine, record: Record) -> None:
        self.finished = asyncio.Event()
        self._engine = engine
        self._record = record
        self._origin_ns = engine.origin_ns

    def start(self) -> None:
        """Begin the schedule."""

    def stop(self) -> None:
        """Start nothing more; arrivals that are not due yet do not count as planned."""

    def _now_ns(self) -> int:
        return monotonic_ns() - self._origin_ns

    def _plan(self, arrival: Arrival) -> None:
        self.planned += 1
        self.planned_measured += arrival.phase is Phase.MEASURE

    def _drop(self, arrival: Arrival, reason: str) -> None:
        self.dropped += 1
        self.dropped_measured += arrival.phase is Phase.MEASURE
        self._record.add(unanswered(arrival, self._now_ns(), ErrorKind.DROPPED, reason))


class OpenLoop(Dispatcher):
    """Follows a schedule; its due times count from the engine's `origin_ns`."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        arrivals: Iterator[Arrival],
        max_in_flight: int,
        spinner: Spinner | None = None,
        *,
        precise: bool = False,
    ) -> None:
        super().__init__(engine, record)
        self._arrivals = arrivals
        self._max_in_flight = max_in_flight
        self._next: Arrival | None = None
        self._timer = DeadlineTimer(engine.loop, self._start_due, spinner, precise=precise)

    def start(self) -> None:
        """Begin with the first arrival."""
        self._advance()
        self._arm()

    def stop(self) -> None:
        """Start nothing more."""
        self._arrivals = iter(())
        self._next = None
        self._timer.close()
        self.finished.set()

    def _advance(self) -> None:
        self._next = next(self._arrivals, None)

    def _arm(self) -> None:
        if self._next is None:
            self.stop()
        else:
            self._timer.arm(self._origin_ns + self._next.due_ns)

    def _start_due(self) -> None:
        now_ns = self._now_ns()
        for _ in range(_BURST):
            arrival = self._next
            if arrival is None or arrival.due_ns > now_ns:
                break
            self._plan(arrival)
            if self._engine.in_flight >= self._max_in_flight:
                self._drop(arrival, f"{self._max_in_flight} requests were in flight")
            else:
                self._engine.start(arrival)
            self._advance()
        self._arm()


class ClosedLoop(Dispatcher):
    """Keeps `connections` requests in flight between two times: each starts when another has ended."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        targets: Iterator[int],
        between_ns: tuple[int, int],
        connections: int,
        shard: Shard,
    ) -> None:
        super().__init__(engine, record)
        self._seqs = count(*shard)  # of this shard alone
        self._targets = targets
        self._first_ns, self._end_ns = between_ns
        self._connections = connections
        self._stopped = False
        self._start_timer = DeadlineTimer(engine.loop, self._fill)
        self._end_timer = DeadlineTimer(engine.loop, self.stop)

    def start(self) -> None:
        """Begin on all connections at `first_ns`."""
        self._start_timer.arm(self._origin_ns + self._first_ns)
        self._end_timer.arm(self._origin_ns + self._end_ns)

    def stop(self) -> None:
        """Start nothing more."""
        self._stopped = True
        self._start_timer.close()
        self._end_timer.close()
        self.finished.set()

    def _fill(self) -> None:
        for _ in range(self._connections):
            self._engine.loop.call_soon(self._start_next)

    def _start_next(self, done: Exchange | None = None) -> None:
        now_ns = monotonic_ns()
        due_ns = now_ns - self._origin_ns
        if self._stopped or due_ns >= self._end_ns:
            return
        self.planned += 1
        self.planned_measured += 1
        arrival = make_arrival((next(self._seqs), _MEASURE, next(self._targets), due_ns))
        if done is None:
            self._engine.start(arrival, self._on_done)
        else:
            self._engine.start_again(done, arrival, now_ns)

    def _on_done(self, exchange: Exchange, failure: Failure | None) -> None:
        if failure is None:
            self._start_next(exchange)
        else:
            self._engine.loop.call_later(_FAILED_PAUSE_S, self._start_next)


class OneByOne(Dispatcher):
    """Sends one request after the other, in a task of its own."""

    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin with the first request."""
        self._task = self._engine.loop.create_task(self._run())
        self._task.add_done_callback(self._on_end)

    def stop(self) -> None:
        """Start nothing more."""
        if self._task is None:
            self.finished.set()
        else:
            self._task.cancel()

    def _run(self) -> Coroutine[None, None, None]:
        raise NotImplementedError

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self.finished.set()
        if not task.cancelled():
            task.result()  # raises a fault of the generator here, for the loop's exception handler

    async def visit(self, arrival: Arrival) -> tuple[Exchange, Failure | None]:
        """Send one request and wait for its result."""
        self._plan(arrival)
        done: asyncio.Future[tuple[Exchange, Failure | None]] = self._engine.loop.create_future()

        def on_done(exchange: Exchange, failure: Failure | None) -> None:
            if not done.done():  # else the dispatcher has been stopped
                done.set_result((exchange, failure))

        self._engine.start(arrival, on_done)
        return await done

    async def _sleep_until(self, due_ns: int) -> None:
        due = asyncio.Event()
        timer = DeadlineTimer(self._engine.loop, due.set)
        try:
            timer.arm(self._origin_ns + due_ns)
            await due.wait()
        finally:
            timer.close()


class Pings(OneByOne):
    """One request to each target, in the phase `ping`, with negative sequence numbers."""

    def __init__(self, engine: Engine, record: Record, targets: int, shard: int) -> None:
        super().__init__(engine, record)
        self._targets = targets
        self._first_seq = -targets * (shard + 1)  # numbers of this shard alone

    async def _run(self) -> None:
        for target in range(self._targets):
            await self.visit(Arrival(self._first_seq + target, Phase.PING, target, self._now_ns()))
