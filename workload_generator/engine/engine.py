"""The HTTP engine: starts requests on pooled connections of our own, and makes exactly one result of each.

Rules:
- `start` takes the time first; name look-up, connect and TLS are part of the request that needed them
- every exchange ends in one of `completed`, `failed` or a time-out, and each makes one result
- one place, `_settle`, takes an arrival out of flight, tells `on_done` and wakes the drain, whatever else fails. A
  fault of ours goes on to the event loop's exception handler, which ends the run
- a request is repeated at most once: GET or HEAD, on a reused connection, before any byte of the response; its start
  stays the first one
- all requests have the same timeout, so the order of starts is the order of deadlines, and one timer serves them all
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.engine.connection import Connection
from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.engine.exchange import Exchange, Failure, OnDone, State
from workload_generator.engine.http1 import ResponseReader
from workload_generator.engine.poller import Readiness
from workload_generator.engine.pool import Pool, Stack
from workload_generator.engine.resolver import Resolver
from workload_generator.engine.response_cache import ResponseMemo
from workload_generator.engine.timestamps import ReceiveClock, keep_stamping
from workload_generator.log.records import Arrival, ErrorKind, Opening, Phase, Response, Result, Stamp, unanswered

_SWEEP_S = 1.0
_MOST_OPENING = 16  # connections that are opened at the same time before a run

_STAMPS = (Stamp.USER, Stamp.KERNEL)
_IDLE, _MEASURE = State.IDLE, Phase.MEASURE  # on the hot path a global is cheaper than an enum's member


class Record(Protocol):
    """Where results go."""

    def add(self, result: Result, /) -> None:
        """Take one result."""

    def served(
        self, arrival: Arrival, start_ns: int, ttfb_ns: int, total_ns: int, response: Response, kernel: bool,
        segments: int, opening: Opening | None, /,
    ) -> None:  # fmt: skip
        """Take the result of a request that got its whole response, without making a `Result` of it."""


class Engine:
    """Sends arrivals to `endpoints` (by target index) and passes each result to `record`.

    `origin_ns` is the run's start on the monotonic clock: results carry offsets from it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoints: Sequence[Endpoint],
        pool: Pool,
        timeout_ns: int,
        origin_ns: int,
        record: Record,
        clock: ReceiveClock | None = None,
    ) -> None:
        self.loop = loop
        self.clock = clock or ReceiveClock()
        self.readiness = Readiness(loop, self.clock)
        self.resolver = Resolver(loop)
        self._keeper = keep_stamping()
        self.memo = ResponseMemo()
        self.readers: list[ResponseReader] = []
        self.counts_segments = False
        self.started = 0
        self.last_start_ns = 0
        self.started_measured = 0
        self.finished_measured = 0
        self.exhausted = 0  # connections that this machine had no descriptor, port or memory for
        self._endpoints = endpoints
        self._pool = pool
        self._stacks = _Stacks(endpoints, pool)
        self._timeout_ns = timeout_ns
        self._origin_ns = origin_ns
        self._record = record
        self._served = record.served
        self._in_flight: dict[Exchange, None] = {}
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._preconnection: _Preconnection | None = None
        self._sweep_timer = loop.call_later(_SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """Requests that have started and have no result yet."""
        return len(self._in_flight)

    @property
    def finished(self) -> int:
        """Requests that have their result."""
        return self.started - len(self._in_flight)

    def start(self, arrival: Arrival, on_done: OnDone | None = None) -> None:
        """Start the request of `arrival` now; `on_done` is told when it has its result, after the record."""
        start_ns = self.last_start_ns = monotonic_ns()
        target = arrival.target
        endpoint = self._endpoints[target]
        exchange = Exchange(arrival, endpoint, start_ns, on_done)
        self.started += 1
        self.started_measured += arrival.phase is _MEASURE
        self._in_flight[exchange] = None
        if self._deadline_timer is None:
            self._arm(start_ns + self._timeout_ns)
        connection = self._stacks[target].take(start_ns)
        if connection is None:
            Connection(self, endpoint.origin).open(Opening(), exchange)
        else:
            connection.send_request(exchange)

    def start_again(self, exchange: Exchange, arrival: Arrival, start_ns: int) -> None:
        """Start the request of `arrival` at `start_ns`, which is now: in `on_done`, on the connection of the exchange
        that is done, if that leads where the arrival wants to."""
        endpoint, connection = self._endpoints[arrival.target], exchange.connection
        assert connection is not None
        elsewhere = connection.origin is not endpoint.origin and connection.origin != endpoint.origin
        if elsewhere or connection.state is not _IDLE:
            self.start(arrival, exchange.on_done)
            return
        self.last_start_ns = exchange.start_ns = start_ns
        exchange.arrival, exchange.endpoint, exchange.opening = arrival, endpoint, None
        self.started += 1
        self.started_measured += arrival.phase is _MEASURE
        self._in_flight[exchange] = None
        if self._deadline_timer is None:
            self._arm(start_ns + self._timeout_ns)
        connection.send_request(exchange)

    async def preconnect(self, count: int) -> str | None:
        """Open `count` connections to each origin, a few at a time, and keep them for the run.

        The first fault ends it and is returned: requests will meet it too, and log it.
        """
        origins = list(dict.fromkeys(endpoint.origin for endpoint in self._endpoints))
        self._preconnection = opening = _Preconnection(deque(origin for origin in origins for _ in range(count)))
        for _ in range(min(_MOST_OPENING, len(opening.waiting))):
            self._open_next()
        try:
            async with asyncio.timeout(self._timeout_ns / NS_PER_S):
                await opening.done.wait()
        except TimeoutError:
            opening.fault = f"{opening.open} connections were not open within {self._timeout_ns / NS_PER_S:g} s"
        self._preconnection = None
        for connection in opening.connections:
            if connection.state is not State.IDLE:
                connection.close()
        return opening.fault

    async def drain(self) -> None:
        """Wait until nothing is in flight; to be called once nothing is started any more."""
        if self._in_flight:
            self._drained = asyncio.Event()
            await self._drained.wait()

    def cancel_all(self, message: str) -> None:
        """End everything that is in flight, as `cancelled`; what one of them raises does not hold up the others."""
        fault: Exception | None = None
        for exchange in list(self._in_flight):
            try:
                self._end(exchange, ErrorKind.CANCELLED, message)
            except Exception as error:
                fault = fault or error
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Close idle connections and timers."""
        self._sweep_timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._pool.close()
        self._keeper.close()
        self.readiness.close()

    # What connections report

    def opened(self, connection: Connection) -> None:
        """See `exchange.Owner`."""
        self._pool.stack(connection.origin).release(connection, monotonic_ns())
        self._on_opened(None)

    def completed(
        self, connection: Connection, exchange: Exchange, response: Response, first_ns: int, last_ns: int,
        kernel: bool, segments: int,
    ) -> None:  # fmt: skip
        """See `exchange.Owner`."""
        arrival, start_ns = exchange.arrival, exchange.start_ns
        try:
            self._served(
                arrival, start_ns - self._origin_ns, first_ns - start_ns, last_ns - start_ns, response, kernel,
                segments, exchange.opening,
            )  # fmt: skip
        finally:
            self._settle(exchange, None)
        if connection.state is _IDLE:  # still, since it may have been started again
            self._stacks[arrival.target].release(connection, last_ns)

    def failed(self, connection: Connection, exchange: Exchange | None, failure: Failure) -> None:
        """See `exchange.Owner`."""
        self.exhausted += failure.ours
        if exchange is None:
            self._on_opened(failure.message)
            return
        lost_reused = exchange.opening is None and failure.kind is ErrorKind.RESET and not failure.heard
        if lost_reused and exchange.endpoint.retriable:
            Connection(self, exchange.endpoint.origin).open(Opening(retries=1), exchange)
            return
        self._on_failed(exchange, failure)

    def ended(self, connection: Connection) -> None:
        """See `exchange.Owner`."""
        self._pool.forget(connection)

    # The end of an arrival

    def _settle(self, exchange: Exchange, error: ErrorKind | None) -> None:
        """The arrival of `exchange` has its result, or never will: take it out of flight, and tell who waits for it."""
        del self._in_flight[exchange]
        self.finished_measured += exchange.arrival.phase is _MEASURE
        try:
            if exchange.on_done is not None:
                exchange.on_done(exchange, error)
        finally:
            if self._drained is not None and not self._in_flight:
                self._drained.set()

    def _end(self, exchange: Exchange, kind: ErrorKind, message: str) -> None:
        """End what is in flight from outside."""
        connection = exchange.connection
        try:
            if connection is not None and connection.exchange is exchange:
                connection.abort(kind, message)
        finally:
            if exchange in self._in_flight:  # a fault of ours has separated it from its connection
                self._on_failed(exchange, Failure(kind, message))
                if connection is not None and connection.exchange is None:
                    connection.close()

    def _on_failed(self, exchange: Exchange, failure: Failure) -> None:
        try:
            self._record.add(self._result_of(exchange, failure))
        finally:
            self._settle(exchange, failure.kind)

    def _result_of(self, exchange: Exchange, failure: Failure) -> Result:
        opening, start_ns = exchange.opening, exchange.start_ns
        result = unanswered(exchange.arrival, start_ns - self._origin_ns, failure.kind, failure.message)._replace(
            dns_ns=opening.dns_ns if opening is not None else 0,
            connect_ns=opening.connect_ns if opening is not None else 0,
            tls_ns=opening.tls_ns if opening is not None else 0,
            ttfb_ns=None if failure.first_ns is None else failure.first_ns - start_ns,
            stamp=_STAMPS[failure.kernel] if failure.first_ns is not None else None,
            reused=opening is None,
            retries=opening.retries if opening is not None else 0,
        )
        if failure.response is not None:
            status, bytes_read, _, instance, _ = failure.response
            result = result._replace(status=status, bytes_read=bytes_read, instance=instance)
        return result

    # Before the run

    def _open_next(self) -> None:
        opening = self._preconnection
        if opening is not None and opening.waiting:
            opening.open += 1
            connection = Connection(self, opening.waiting.popleft())
            opening.connections.append(connection)
            connection.open(Opening())

    def _on_opened(self, fault: str | None) -> None:
        opening = self._preconnection
        if opening is None:
            return  # it was given up meanwhile
        opening.open -= 1
        if fault is not None:
            opening.fault = fault
            opening.waiting.clear()
        if opening.waiting:
            self.loop.call_soon(self._open_next)
        elif not opening.open:
            opening.done.set()

    # Time

    def _arm(self, deadline_ns: int) -> None:
        delay_s = max(0.001, (deadline_ns - monotonic_ns()) / NS_PER_S)
        self._deadline_timer = self.loop.call_later(delay_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        now_ns = monotonic_ns()
        late: list[Exchange] = []
        for exchange in self._in_flight:
            if exchange.start_ns + self._timeout_ns > now_ns:
                break
            late.append(exchange)
        for exchange in late:
            connection = exchange.connection
            assert connection is not None
            connecting = connection.state is State.CONNECTING
            kind = ErrorKind.CONNECT_TIMEOUT if connecting else ErrorKind.TIMEOUT
            seconds = self._timeout_ns / NS_PER_S
            self._end(exchange, kind, f"no complete response within {seconds:g} s, {connection.state.value}")
        if self._in_flight and self._deadline_timer is None:
            self._arm(next(iter(self._in_flight)).start_ns + self._timeout_ns)

    def _sweep(self) -> None:
        self._pool.close_stale(monotonic_ns())
        self._sweep_timer = self.loop.call_later(_SWEEP_S, self._sweep)


class _Stacks(dict[int, Stack]):
    """The idle connections that each target's requests can use, by target."""

    def __init__(self, endpoints: Sequence[Endpoint], pool: Pool) -> None:
        self._endpoints = endpoints
        self._pool = pool

    def __missing__(self, target: int) -> Stack:
        stack = self[target] = self._pool.stack(self._endpoints[target].origin)
        return stack


class _Preconnection:
    """Connections that are still to be opened, and being opened, before a run."""

    def __init__(self, waiting: deque[Origin]) -> None:
        self.waiting = waiting
        self.connections: list[Connection] = []
        self.open = 0
        self.fault: str | None = None
        self.done = asyncio.Event()
        if not waiting:
            self.done.set()
