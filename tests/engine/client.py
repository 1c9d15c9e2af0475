"""An engine as a test drives it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.engine.connection import Exchange, Failure
from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.engine.engine import Engine
from workload_generator.engine.http1 import encode_request, split_url
from workload_generator.engine.pool import Pool
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.log.records import Arrival, Phase, Result
from workload_generator.log.wire import BlockWriter, read_block


class Client:
    """An engine for one target at a time, as a test drives it."""

    def __init__(
        self,
        timeout_s: float = 5.0,
        max_idle: int = 100,
        per_host: int = 100,
        idle_s: float = 90.0,
        clock: ReceiveClock | None = None,
    ) -> None:
        self.results: list[Result] = []
        self._pool = Pool(max_idle, per_host, int(idle_s * NS_PER_S))
        self._endpoints: list[Endpoint] = []
        self.engine = Engine(
            self._endpoints,
            self._pool,
            int(timeout_s * NS_PER_S),
            monotonic_ns(),
            self,
            clock,
        )

    def add(self, result: Result) -> None:
        self.results.append(result)

    def served(self, exchange: Exchange, origin_ns: int) -> None:
        """As the log takes it: through a block."""
        writer = BlockWriter(lambda: None, rows=1)
        writer.served(exchange, origin_ns)
        block = read_block(writer.take())
        assert block is not None
        self.results += block.results()

    @property
    def idle(self) -> int:
        return self._pool.idle

    def start(
        self, url: str, method: str = "GET", body: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.add_endpoint(url, method, body, tls)
        self.engine.start(Arrival(len(self._endpoints), Phase.MEASURE, len(self._endpoints) - 1, 0))

    def add_endpoint(
        self, url: str, method: str = "GET", body: bytes | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        where = split_url(url)
        origin = Origin(where.host, where.port, tls)
        self._endpoints.append(Endpoint(origin, method, encode_request(method, url, {}, body)))
        self.engine._stacks.append(self._pool.stack(origin))

    async def ask(self, url: str, **options: Any) -> Result:
        self.start(url, **options)
        await self.engine.drain()
        return self.results[-1]

    async def ask_many(self, url: str, count: int, **options: Any) -> list[Result]:
        for _ in range(count):
            self.start(url, **options)
        await self.engine.drain()
        return self.results[-count:]


Make = Callable[..., Client]
"""Makes a client, which must have a result for each request when the test ends."""


def again(client: Client, targets: list[int]) -> Callable[[Exchange, Failure | None], None]:
    """Starts the request of the next target when one is done, as a closed loop does."""

    def on_done(exchange: Exchange, failure: Failure | None) -> None:
        if targets:
            arrival = Arrival(len(targets), Phase.MEASURE, targets.pop(), 0)
            client.engine.start_again(exchange, arrival, monotonic_ns())

    return on_done
