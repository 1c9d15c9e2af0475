"""The HTTP engine: starts requests on pooled connections, and makes exactly one result of each.

Rules:
- `start` reads the clock first; name look-up, connect and TLS are part of the request that needed them
- every exchange ends in `completed`, `failed` or a time-out, and each of them makes one result
- `_settle` alone takes an arrival out of flight, calls `on_done` and wakes the drain, whatever else fails. A fault of
  the generator reaches the event loop's exception handler, which ends the run
- a request is repeated at most once: GET or HEAD, on a reused connection, before any byte of the response; its start
  stays the first one
- all requests have the same timeout, so they reach their deadlines in the order of their starts: one timer serves all
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.engine.connection import (
    Connection,
    ConnectionOwner,
    ConnectionState,
    Exchange,
    Failure,
    OnDone,
)
from workload_generator.engine.endpoint import Endpoint
from workload_generator.engine.pool import Pool
from workload_generator.engine.timestamps import ReceiveClock, keep_stamping
from workload_generator.engine.tls import connection_to
from workload_generator.log.records import REUSED, Arrival, ErrorKind, Opening, Phase, Result, Stamp, unanswered

_SWEEP_S = 1.0
_MOST_OPENING = 16  # connections to open at the same time before a run

_STAMPS = (Stamp.USER, Stamp.KERNEL)
_IDLE, _MEASURE = ConnectionState.IDLE, Phase.MEASURE  # on the hot path a global is cheaper than an enum's member


class Record(Protocol):
    """Takes the results: the log."""

    def add(self, result: Result, /) -> None:
        """Take any result."""

    def served(self, exchange: Exchange, origin_ns: int, /) -> None:
        """Take the result of a request that got its whole response; the run began at `origin_ns`, monotonic."""


class Engine(ConnectionOwner):
    """Sends arrivals to `endpoints` (by target index) and passes each result to `record`.

    `origin_ns` is the start of the run on the monotonic clock; the times of results are offsets from it.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        pool: Pool,
        timeout_ns: int,
        origin_ns: int,
        record: Record,
        clock: ReceiveClock | None = None,
    ) -> None:
        super().__init__(asyncio.get_running_loop(), clock or ReceiveClock())
        self.started = 0
        self.last_start_ns = 0
        self.started_measured = 0
        self.finished_measured = 0
        self.exhausted = 0  # connections that failed for lack of a descriptor, port or memory of this machine
        self._endpoints = endpoints
        self._pool = pool
        self._stacks = [pool.stack(endpoint.origin) for endpoint in endpoints]
        self._keeper = keep_stamping()
        self._timeout_ns = timeout_ns
        self.origin_ns = origin_ns
        self._record = record
        self._served = record.served
        self._in_flight: dict[Exchange, None] = {}
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._opening: dict[Connection, asyncio.Future[str | None]] = {}  # before the run: None, or what failed
        self._sweep_timer = self.loop.call_later(_SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """Requests that have started and have no result yet."""
        return len(self._in_flight)

    @property
    def finished(self) -> int:
        """Requests that have their result."""
        return self.started - len(self._in_flight)

    def start(self, arrival: Arrival, on_done: OnDone | None = None) -> None:
        """Start the request of `arrival` now; `on_done` is called after `record` has the result."""
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
            connection_to(endpoint.origin, self).open(Opening(), exchange)
        else:
            connection.send_request(exchange)

    def start_again(self, exchange: Exchange, arrival: Arrival, start_ns: int) -> None:
        """Start the request of `arrival` at `start_ns`, which is now. Only for `on_done`: it reuses the exchange, and
        its connection if that leads to the target."""
        endpoint, connection = self._endpoints[arrival.target], exchange.connection
        assert connection is not None
        elsewhere = connection.origin is not endpoint.origin and connection.origin != endpoint.origin
        if elsewhere or connection.state is not _IDLE:
            self.poller.end_idle()
            self.start(arrival, exchange.on_done)
            return
        self.last_start_ns = exchange.start_ns = start_ns
        exchange.arrival, exchange.endpoint, exchange.opening = arrival, endpoint, None
        self.started += 1
        self.started_measured += arrival.phase is _MEASURE
        self._in_flight[exchange] = None
        connection.send_request(exchange)

    async def preconnect(self, count: int) -> str | None:
        """Open `count` connections to each origin, 16 at a time, and keep them for the run.

        The first failure ends it and is returned; it is not an error, since requests meet it too, and log it.
        """
        origins = dict.fromkeys(endpoint.origin for endpoint in self._endpoints)
        connections = [connection_to(origin, self) for origin in origins for _ in range(count)]
        waiting = iter(connections)
        fault: str | None = None

        async def open_in_turn() -> None:
            nonlocal fault
            for connection in waiting:
                opened = self._opening[connection] = self.loop.create_future()
                connection.open(Opening())
                fault = fault or await opened
                if fault is not None:
                    return

        try:
            async with asyncio.timeout(self._timeout_ns / NS_PER_S):
                await asyncio.gather(*(open_in_turn() for _ in range(_MOST_OPENING)))
        except TimeoutError:
            fault = f"{len(self._opening)} connections were not open within {self._timeout_ns / NS_PER_S:g} s"
        finally:
            for connection in connections:
                if connection.state is not _IDLE:
                    connection.close()
            self._opening.clear()
        return fault

    async def drain(self) -> None:
        """Wait until nothing is in flight. Call it when nothing is started any more."""
        if self._in_flight:
            self._drained = asyncio.Event()
            await self._drained.wait()

    def cancel_all(self, message: str) -> None:
        """End everything that is in flight, as `cancelled`, and `preconnect`. Raises the first fault, after all have
        ended."""
        fault: Exception | None = None
        for opened in self._opening.values():
            if not opened.done():
                opened.set_result(message)
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
        self.poller.close()

    # Reports of connections

    def opened(self, connection: Connection) -> None:
        """See `ConnectionOwner`."""
        self._pool.stack(connection.origin).release(connection, monotonic_ns())
        self._on_opened(connection, None)

    def completed(self, connection: Connection, exchange: Exchange) -> None:
        """See `ConnectionOwner`."""
        try:
            self._served(exchange, self.origin_ns)
        finally:
            self._settle(exchange, None)
        if connection.state is _IDLE:  # `on_done` has not started the exchange again
            self._stacks[exchange.arrival.target].release(connection, exchange.last_ns)

    def failed(self, connection: Connection, exchange: Exchange | None, failure: Failure) -> None:
        """See `ConnectionOwner`."""
        self.exhausted += failure.exhausted
        self.unasked += failure.unasked
        if exchange is None:
            self._on_opened(connection, failure.message)
            return
        lost = failure.unasked or (failure.kind is ErrorKind.RESET and not failure.has_data)
        if lost and exchange.opening is None and exchange.endpoint.retriable:
            connection_to(exchange.endpoint.origin, self).open(Opening(retries=1), exchange)
            return
        self._on_failed(exchange, failure)

    def ended(self, connection: Connection) -> None:
        """See `ConnectionOwner`."""
        self._pool.forget(connection)

    def _on_opened(self, connection: Connection, fault: str | None) -> None:
        opening = self._opening.pop(connection)
        if not opening.done():  # `preconnect` still waits
            opening.set_result(fault)

    # The end of an arrival

    def _settle(self, exchange: Exchange, failure: Failure | None) -> None:
        """Take the arrival of `exchange` out of flight, call its `on_done`, and wake the drain."""
        del self._in_flight[exchange]
        self.finished_measured += exchange.arrival.phase is _MEASURE
        try:
            if exchange.on_done is not None:
                exchange.on_done(exchange, failure)
        finally:
            if self._drained is not None and not self._in_flight:
                self._drained.set()

    def _end(self, exchange: Exchange, kind: ErrorKind, message: str) -> None:
        """End an exchange that is in flight."""
        connection = exchange.connection
        try:
            if connection is not None and connection.exchange is exchange:
                connection.abort(kind, message)
        finally:
            if exchange in self._in_flight:  # a fault of the generator has separated it from its connection
                self._on_failed(exchange, Failure(kind, message))
                if connection is not None and connection.exchange is None:
                    connection.close()

    def _on_failed(self, exchange: Exchange, failure: Failure) -> None:
        try:
            self._record.add(self._result_of(exchange, failure))
        finally:
            self._settle(exchange, failure)

    def _result_of(self, exchange: Exchange, failure: Failure) -> Result:
        opening, response = exchange.opening or REUSED, failure.response
        result = unanswered(exchange.arrival, exchange.start_ns - self.origin_ns, failure.kind, failure.message)
        if response is not None:
            result = result._replace(status=response.status, bytes_read=response.bytes_read, instance=response.instance)
        return result._replace(
            dns_ns=opening.dns_ns,
            connect_ns=opening.connect_ns,
            tls_ns=opening.tls_ns,
            ttfb_ns=None if failure.first_ns is None else failure.first_ns - exchange.start_ns,
            stamp=_STAMPS[failure.kernel] if failure.first_ns is not None else None,
            reused=exchange.opening is None,
            retries=opening.retries,
            address=opening.address,
        )

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
            connecting = connection.state is ConnectionState.CONNECTING
            kind = ErrorKind.CONNECT_TIMEOUT if connecting else ErrorKind.TIMEOUT
            seconds = self._timeout_ns / NS_PER_S
            self._end(exchange, kind, f"no complete response within {seconds:g} s, {connection.state.value}")
        if self._in_flight and self._deadline_timer is None:
            self._arm(next(iter(self._in_flight)).start_ns + self._timeout_ns)

    def _sweep(self) -> None:
        self._pool.close_stale(monotonic_ns())
        self._sweep_timer = self.loop.call_later(_SWEEP_S, self._sweep)
