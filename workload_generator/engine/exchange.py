"""What a connection and its engine say to each other: exchanges, how they fail, and who is told.

State is kept by lifetime: `Exchange` for one request, `Connection` for one socket, the engine for the run.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from workload_generator.engine.endpoint import Endpoint
from workload_generator.engine.http1 import ResponseReader
from workload_generator.engine.poller import Readiness
from workload_generator.engine.resolver import Resolver
from workload_generator.engine.response_cache import ResponseMemo
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.log.records import Arrival, ErrorKind, Opening, Response

if TYPE_CHECKING:
    from workload_generator.engine.connection import Connection


class State(Enum):
    """Where a connection stands."""

    RESOLVING = "resolving the name"
    CONNECTING = "connecting"
    HANDSHAKE = "in the TLS handshake"
    ACTIVE = "waiting for the response"
    IDLE = "idle"
    CLOSED = "closed"


class Failure(NamedTuple):
    """Why there is no complete response. `ours` when this machine had no descriptor, port or memory for it.

    `first_ns` (monotonic) says when the response began, by the `kernel`'s stamp or not; `response` is what its head
    said. Each if it came.
    """

    kind: ErrorKind
    message: str
    ours: bool = False
    heard: bool = False
    first_ns: int | None = None
    kernel: bool = False
    response: Response | None = None


class Exchange:
    """One request from its start (monotonic nanoseconds) to its result. `opening` is None on a reused connection."""

    __slots__ = ("arrival", "connection", "endpoint", "on_done", "opening", "start_ns")

    def __init__(self, arrival: Arrival, endpoint: Endpoint, start_ns: int, on_done: OnDone | None) -> None:
        self.arrival = arrival
        self.endpoint = endpoint
        self.start_ns = start_ns
        self.on_done = on_done
        self.connection: Connection | None = None
        self.opening: Opening | None = None


class OnDone(Protocol):
    """Who wants to know that a request has its result."""

    def __call__(self, exchange: Exchange, error: ErrorKind | None, /) -> None:
        """It has; `error` is None when the whole response came. `exchange` can then be started again."""


class Owner(Protocol):
    """Whom a connection reports to."""

    loop: asyncio.AbstractEventLoop
    readiness: Readiness
    resolver: Resolver
    clock: ReceiveClock
    memo: ResponseMemo
    readers: list[ResponseReader]
    counts_segments: bool

    def opened(self, connection: Connection) -> None:
        """A connection that was opened without a request is idle."""

    def completed(
        self, connection: Connection, exchange: Exchange, response: Response, first_ns: int, last_ns: int,
        kernel: bool, segments: int,
    ) -> None:  # fmt: skip
        """The whole response is here: its first and last bytes came at these monotonic times, the first by the kernel's
        stamp or not, in `segments` (0: unknown)."""

    def failed(self, connection: Connection, exchange: Exchange | None, failure: Failure) -> None:
        """The exchange, or the opening without one, has failed; the connection is closed."""

    def ended(self, connection: Connection) -> None:
        """An idle connection has ended."""
