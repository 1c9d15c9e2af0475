"""Plain data from the schedule to the log: arrivals, results, and blocks of results by columns.

Arrivals and results are named tuples rather than frozen dataclasses: there is one for each request, and a named tuple
costs a third.

Times are integer nanoseconds of the monotonic clock. `due_ns` and `start_ns` are offsets from the start of the run, the
others are durations. None means that the point was not reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import partial
from typing import NamedTuple, Protocol


class Phase(IntEnum):
    """The phase of a run that a request belongs to; only `MEASURE` enters results."""

    PING = 0
    RAMP = 1
    MEASURE = 2

    @property
    def label(self) -> str:
        """The name in logs and in the database."""
        return self.name.lower()


class ErrorKind(StrEnum):
    """Why an arrival has no complete response. A response with an unexpected status has no error."""

    DNS = "dns"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    PROTOCOL = "protocol"
    BODY = "body"
    DROPPED = "dropped"
    CANCELLED = "cancelled"
    OTHER = "other"


class Stamp(StrEnum):
    """The source of the first byte's time: the kernel's receive timestamp, or a clock reading in user space."""

    KERNEL = "kernel"
    USER = "user"


class Arrival(NamedTuple):
    """One planned request. `target` is an index into the experiment's targets; pings have negative `seq`."""

    seq: int
    phase: Phase
    target: int
    due_ns: int


make_arrival: Callable[[tuple[int, Phase, int, int]], Arrival] = partial(tuple.__new__, Arrival)
"""An arrival from a tuple of its fields, at half the cost of `Arrival(…)`."""


@dataclass(slots=True, eq=False)
class Opening:
    """The cost of a new connection, in nanoseconds, and the address that it leads to; None: not reached."""

    retries: int = 0
    dns_ns: int | None = None
    connect_ns: int | None = None
    tls_ns: int | None = None
    address: str | None = None


REUSED = Opening(0, 0, 0, 0)
"""The cost of a reused connection."""


class Response(NamedTuple):
    """A complete response. `cold` is what the function reported; None: nothing."""

    status: int
    bytes_read: int
    cold: bool | None
    instance: str | None
    keep_alive: bool


class Served(Protocol):
    """A request with its complete response. Times are readings of the monotonic clock, unlike those of a `Result`.

    `kernel` says whether `first_ns` is the kernel's stamp; `opening` is None on a reused connection.
    """

    arrival: Arrival
    start_ns: int
    first_ns: int
    last_ns: int
    kernel: bool
    segments: int
    response: Response
    opening: Opening | None


class Result(NamedTuple):
    """The result of one arrival. Every arrival has exactly one, also a dropped one.

    `status` is 0 without a response. `ttfb_ns` counts from the start of the request, with DNS, connect and TLS; it is
    kept when the body fails later. `dns_ns`, `connect_ns` and `tls_ns` are 0 on a reused connection; `address` is that
    of a new one. `cold` is what the function reported; None is unknown. `segments` is the number of TCP segments of the
    response (0: unknown): with more than one, the kernel's timestamp may belong to a later segment than the first.
    """

    seq: int
    phase: Phase
    target: int
    due_ns: int
    start_ns: int
    status: int = 0
    dns_ns: int | None = None
    connect_ns: int | None = None
    tls_ns: int | None = None
    ttfb_ns: int | None = None
    total_ns: int | None = None
    bytes_read: int = 0
    cold: bool | None = None
    reused: bool = False
    retries: int = 0
    stamp: Stamp | None = None
    segments: int = 0
    instance: str | None = None
    event_id: str | None = None
    error: ErrorKind | None = None
    message: str | None = None
    address: str | None = None

    @property
    def shape(self) -> Result:
        """The part that results share, stored once for a block: without `seq` and the times of the row."""
        return self._replace(seq=0, due_ns=0, start_ns=0, ttfb_ns=None, total_ns=None)


class Block(NamedTuple):
    """Results by columns of the same length, in the order in which they were added, so that loops over them run in C.

    `shape` holds indexes into `shapes`. Times are nanoseconds; -1 means that the point was not reached.
    """

    shapes: Sequence[Result]
    seq: Sequence[int]
    due_ns: Sequence[int]
    start_ns: Sequence[int]
    ttfb_ns: Sequence[int]
    total_ns: Sequence[int]
    shape: Sequence[int]

    @property
    def in_one_piece(self) -> bool:
        """Whether the first byte of each response arrived together with its last."""
        return self.ttfb_ns == self.total_ns

    @property
    def in_time(self) -> bool:
        """Whether every request started exactly when it was due, as without a schedule."""
        return self.start_ns == self.due_ns

    def results(self) -> Iterator[Result]:
        """The rows, one by one."""
        for seq, due_ns, start_ns, ttfb_ns, total_ns, index in zip(*self[1:], strict=True):
            yield self.shapes[index]._replace(
                seq=seq,
                due_ns=due_ns,
                start_ns=start_ns,
                ttfb_ns=None if ttfb_ns < 0 else ttfb_ns,
                total_ns=None if total_ns < 0 else total_ns,
            )


def unanswered(arrival: Arrival, start_ns: int, error: ErrorKind, message: str) -> Result:
    """The result of an arrival without a response."""
    return Result(*arrival, start_ns, error=error, message=message)
