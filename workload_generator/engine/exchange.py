"""One request on its way, and what a connection tells the engine of it: plain data, without sockets or clocks.

State is kept by lifetime: `Exchange` for one request, `Connection` for one socket, `Engine` for the run.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, Protocol

from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.log.records import Arrival, ErrorKind, Opening, Response


class ConnectionState(Enum):
    """The stage of a connection; the values complete a sentence of an error message."""

    RESOLVING = "resolving the name"
    CONNECTING = "connecting"
    HANDSHAKE = "in the TLS handshake"
    ACTIVE = "waiting for the response"
    IDLE = "idle"
    CLOSED = "closed"


class Failure(NamedTuple):
    """Why there is no complete response.

    `exhausted` means that this machine had no descriptor, port or memory left; `has_data` that some byte came.
    `first_ns` is the monotonic time of the response's first byte (`kernel`: by the kernel's stamp) and `response` what
    its head says; None when it did not come.
    """

    kind: ErrorKind
    message: str
    exhausted: bool = False
    has_data: bool = False
    first_ns: int | None = None
    kernel: bool = False
    response: Response | None = None


class Carrier(Protocol):
    """The connection of an exchange, as the engine uses it."""

    origin: Origin
    state: ConnectionState
    exchange: Exchange | None

    def send_request(self, exchange: Exchange) -> None:
        """Send the request of `exchange`; the connection is open and idle."""

    def abort(self, kind: ErrorKind, message: str) -> None:
        """Fail the exchange from outside: it took too long, or the run is over."""

    def close(self) -> None:
        """Close the connection without reporting anything."""


class Exchange:
    """One request, from its start to its result. `opening` is None on a reused connection.

    The last five attributes are set once the whole response has come, and not before. All times are readings of the
    monotonic clock in nanoseconds. `kernel` says whether `first_ns` is the kernel's stamp; `segments` is the number of
    TCP segments of the response, 0 when unknown.
    """

    __slots__ = (
        "arrival",
        "connection",
        "endpoint",
        "first_ns",
        "kernel",
        "last_ns",
        "on_done",
        "opening",
        "response",
        "segments",
        "start_ns",
    )

    first_ns: int
    last_ns: int
    kernel: bool
    segments: int
    response: Response

    def __init__(self, arrival: Arrival, endpoint: Endpoint, start_ns: int, on_done: OnDone | None) -> None:
        self.arrival = arrival
        self.endpoint = endpoint
        self.start_ns = start_ns
        self.on_done = on_done
        self.connection: Carrier | None = None
        self.opening: Opening | None = None


OnDone = Callable[[Exchange, Failure | None], None]
"""Called when a request has its result, with None when the whole response came. The exchange can be started again."""
