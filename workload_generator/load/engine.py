"""The HTTP engine: starts requests on pooled connections of our own, and makes exactly one result of each.

Rules:
- `start` takes the time first; name look-up, connect and TLS are part of the request that needed them
- every exchange ends in one of `completed`, `failed` or a time-out, and each makes one result
- a request is repeated at most once: GET or HEAD, on a reused connection, before any byte of the response; its start
  stays the first one
- all requests have the same timeout, so the order of starts is the order of deadlines, and one timer serves them all
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from workload_generator.clock import NS_PER_S, monotonic_ns
from workload_generator.codec import text_of
from workload_generator.load.connection import Connection, Exchange, Failure, State
from workload_generator.load.endpoint import Endpoint
from workload_generator.load.pool import Pool
from workload_generator.load.resolver import Resolver
from workload_generator.records import Arrival, ErrorKind, Phase, Result, Stamp, unanswered

_SWEEP_S = 1.0

Record = Callable[[Result], None]


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
    ) -> None:
        self.loop = loop
        self.resolver = Resolver(loop)
        self.started = 0
        self.finished = 0
        self.last_start_ns = 0
        self.started_measured = 0
        self.finished_measured = 0
        self.exhausted = 0  # connections that this machine had no descriptor, port or memory for
        self._endpoints = endpoints
        self._pool = pool
        self._timeout_ns = timeout_ns
        self._origin_ns = origin_ns
        self._record = record
        self._in_flight: dict[Exchange, Callable[[Result], None] | None] = {}
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Event | None = None
        self._sweep_timer = loop.call_later(_SWEEP_S, self._sweep)

    @property
    def in_flight(self) -> int:
        """Requests that have started and have no result yet."""
        return len(self._in_flight)

    def start(self, arrival: Arrival, on_done: Callable[[Result], None] | None = None) -> None:
        """Start the request of `arrival` now; `on_done` is told its result, after the record."""
        start_ns = self.last_start_ns = monotonic_ns()
        endpoint = self._endpoints[arrival.target]
        exchange = Exchange(arrival, endpoint, start_ns, start_ns + self._timeout_ns)
        self.started += 1
        self.started_measured += arrival.phase is Phase.MEASURE
        self._in_flight[exchange] = on_done
        if self._deadline_timer is None:
            self._arm(exchange.deadline_ns)
        connection = self._pool.take(endpoint.origin, start_ns)
        if connection is None:
            Connection(self, endpoint.origin).open(exchange)
        else:
            connection.reuse(exchange)

    async def drain(self) -> None:
        """Wait until nothing is in flight; to be called once nothing is started any more."""
        if self._in_flight:
            self._drained = asyncio.Event()
            await self._drained.wait()

    def cancel_all(self, message: str) -> None:
        """End everything that is in flight, as `cancelled`."""
        for exchange in list(self._in_flight):
            if exchange.connection is not None:
                exchange.connection.abort(ErrorKind.CANCELLED, message)

    def close(self) -> None:
        """Close idle connections and timers."""
        self._sweep_timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._pool.close()

    # What connections report

    def completed(self, connection: Connection, exchange: Exchange, now_ns: int) -> None:
        """See `connection.Owner`."""
        reader = connection.reader
        result = Result(
            exchange.arrival.seq,
            exchange.arrival.phase,
            exchange.arrival.target,
            exchange.arrival.due_ns,
            exchange.start_ns - self._origin_ns,
            reader.status,
            exchange.dns_ns,
            exchange.connect_ns,
            exchange.tls_ns,
            exchange.ttfb_ns,
            now_ns - exchange.start_ns,
            reader.bytes_read,
            reader.cold,
            exchange.reused,
            exchange.retries,
            Stamp.USER,
            text_of(reader.instance) if reader.instance is not None else None,
            None,
            None,
            None,
        )
        if connection.state is State.IDLE:
            self._pool.release(connection, now_ns)
        self._finish(exchange, result)

    def failed(self, connection: Connection, exchange: Exchange, failure: Failure) -> None:
        """See `connection.Owner`."""
        reader = connection.reader
        self.exhausted += failure.ours
        lost_reused = exchange.reused and failure.kind is ErrorKind.RESET and not reader.heard
        if lost_reused and exchange.retries == 0 and exchange.endpoint.retriable:
            exchange.retries = 1
            exchange.reused = False
            exchange.dns_ns = exchange.connect_ns = exchange.tls_ns = None
            Connection(self, exchange.endpoint.origin).open(exchange)
            return
        start_ns = exchange.start_ns - self._origin_ns
        result = unanswered(exchange.arrival, start_ns, failure.kind, failure.message)._replace(
            dns_ns=exchange.dns_ns,
            connect_ns=exchange.connect_ns,
            tls_ns=exchange.tls_ns,
            ttfb_ns=exchange.ttfb_ns,
            stamp=None if exchange.ttfb_ns is None else Stamp.USER,
            reused=exchange.reused,
            retries=exchange.retries,
        )
        if reader.head_complete:
            instance = None if reader.instance is None else text_of(reader.instance)
            result = result._replace(status=reader.status, bytes_read=reader.bytes_read, instance=instance)
        self._finish(exchange, result)

    def ended(self, connection: Connection) -> None:
        """See `connection.Owner`."""
        self._pool.forget(connection)

    def _finish(self, exchange: Exchange, result: Result) -> None:
        on_done = self._in_flight.pop(exchange)
        self.finished += 1
        self.finished_measured += exchange.arrival.phase is Phase.MEASURE
        self._record(result)
        if on_done is not None:
            on_done(result)
        if self._drained is not None and not self._in_flight:
            self._drained.set()

    # Time

    def _arm(self, deadline_ns: int) -> None:
        delay_s = max(0.001, (deadline_ns - monotonic_ns()) / NS_PER_S)
        self._deadline_timer = self.loop.call_later(delay_s, self._on_deadline)

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        now_ns = monotonic_ns()
        late: list[Exchange] = []
        for exchange in self._in_flight:
            if exchange.deadline_ns > now_ns:
                break
            late.append(exchange)
        for exchange in late:
            connection = exchange.connection
            assert connection is not None
            connecting = connection.state is State.CONNECTING
            kind = ErrorKind.CONNECT_TIMEOUT if connecting else ErrorKind.TIMEOUT
            seconds = self._timeout_ns / NS_PER_S
            connection.abort(kind, f"no complete response within {seconds:g} s, {connection.state.value}")
        if self._in_flight and self._deadline_timer is None:
            self._arm(next(iter(self._in_flight)).deadline_ns)

    def _sweep(self) -> None:
        self._pool.close_stale(monotonic_ns())
        self._sweep_timer = self.loop.call_later(_SWEEP_S, self._sweep)
