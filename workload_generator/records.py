"""The plain data that flows from the schedule to the log: arrivals, results, and blocks of results by columns.

Both are created once for each request, so they are named tuples rather than frozen dataclasses: as immutable and as
slotted, at a third of the cost.

Every time here is in integer nanoseconds on the monotonic clock: `due_ns` and `start_ns` are offsets from the run's
start, the others are lengths. None means that the point was not reached.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple


class Phase(IntEnum):
    """What a request is for; only `MEASURE` enters results."""

    PING = 0
    RAMP = 1
    MEASURE = 2

    @property
    def label(self) -> str:
        """The word in logs and database."""
        return _PHASE_LABELS[self]


_PHASE_LABELS = ("ping", "ramp", "measure")


class ErrorKind(StrEnum):
    """Why an arrival has no complete response. A response with an unexpected status is not among them."""

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
    """Where the first byte's time comes from: the kernel's receive stamp or a reading in user space."""

    KERNEL = "kernel"
    USER = "user"


NONE = -1
"""In a block: no value."""

NO_TEXT = 0xFFFF
"""In a block: the code of no instance, and the length of no text."""

_PHASES = tuple(Phase)
_ERRORS = tuple(ErrorKind)
_STAMPS = tuple(Stamp)
_COLD = {NONE: None, 0: False, 1: True}


class Arrival(NamedTuple):
    """One planned request. `target` is an index into the experiment's targets; pings have negative `seq`."""

    seq: int
    phase: Phase
    target: int
    due_ns: int


class Result(NamedTuple):
    """What became of one arrival; every arrival has exactly one, a dropped one too.

    `status` is 0 without a response; `ttfb_ns` counts from the start of the request, DNS, connect and TLS included,
    and is kept when the body fails later. On a reused connection `dns_ns`, `connect_ns` and `tls_ns` are 0: the
    request paid nothing for them. `cold` is what the function said; None is unknown. `segments` is how many brought the
    response (0: unknown): with more than one, the first byte's kernel stamp may be that of a later one.
    """

    seq: int
    phase: Phase
    target: int
    due_ns: int
    start_ns: int
    status: int
    dns_ns: int | None
    connect_ns: int | None
    tls_ns: int | None
    ttfb_ns: int | None
    total_ns: int | None
    bytes_read: int
    cold: bool | None
    reused: bool
    retries: int
    stamp: Stamp | None
    segments: int
    instance: str | None
    event_id: str | None
    error: ErrorKind | None
    message: str | None

    @property
    def lag_ns(self) -> int:
        """Actual start − scheduled time."""
        return self.start_ns - self.due_ns

    @property
    def corrected_ttfb_ns(self) -> int | None:
        """What a user who arrived on schedule waited for the first byte."""
        return None if self.ttfb_ns is None else self.ttfb_ns + self.lag_ns


class Block(NamedTuple):
    """The results of one block by columns, all of the same length and in the order in which they were added.

    Times are in nanoseconds, -1 where none was reached. `instance`, `phase`, `cold`, `stamp` and `error` hold codes:
    indexes of `instances`, of `Phase`, of `Stamp` and of `ErrorKind`, -1 for none (`instance`: 0xFFFF); cold is 0 or 1.
    """

    instances: Sequence[str]
    texts: bytes
    seq: Sequence[int]
    due_ns: Sequence[int]
    start_ns: Sequence[int]
    dns_ns: Sequence[int]
    connect_ns: Sequence[int]
    tls_ns: Sequence[int]
    ttfb_ns: Sequence[int]
    total_ns: Sequence[int]
    bytes_read: Sequence[int]
    target: Sequence[int]
    status: Sequence[int]
    segments: Sequence[int]
    instance: Sequence[int]
    phase: Sequence[int]
    cold: Sequence[int]
    reused: Sequence[int]
    retries: Sequence[int]
    stamp: Sequence[int]
    error: Sequence[int]
    event_id_bytes: Sequence[int]
    message_bytes: Sequence[int]

    @property
    def all_served(self) -> bool:
        """Whether every request got its whole response: no time is missing then, and there are no other texts."""
        reached = (self.dns_ns, self.connect_ns, self.tls_ns, self.ttfb_ns, self.total_ns, self.stamp)
        texts = (self.event_id_bytes, self.message_bytes)
        return (
            max(self.error) == NONE
            and all(min(column) >= 0 for column in reached)
            and all(min(column) == NO_TEXT for column in texts)
        )

    def results(self) -> Iterator[Result]:
        """The rows, one by one."""
        text_at = 0

        def text(length: int) -> str | None:
            nonlocal text_at
            if length == NO_TEXT:
                return None
            text_at += length
            return self.texts[text_at - length : text_at].decode("utf-8", "ignore")

        columns: tuple[Sequence[int], ...] = self[2:]
        rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True)
        for row in rows:
            (seq, due, start, dns, connect, tls, ttfb, total, size, target, status, segments) = row[:12]
            (instance, phase, cold, reused, retries, stamp, error, event_id, message) = row[12:]
            yield Result(
                seq,
                _PHASES[phase],
                target,
                due,
                start,
                status,
                None if dns == NONE else dns,
                None if connect == NONE else connect,
                None if tls == NONE else tls,
                None if ttfb == NONE else ttfb,
                None if total == NONE else total,
                size,
                _COLD[cold],
                bool(reused),
                retries,
                None if stamp == NONE else _STAMPS[stamp],
                segments,
                None if instance == NO_TEXT else self.instances[instance],
                text(event_id),
                None if error == NONE else _ERRORS[error],
                text(message),
            )


def unanswered(arrival: Arrival, start_ns: int, error: ErrorKind, message: str) -> Result:
    """The result of an arrival that got nowhere; whoever knows how far it came replaces fields."""
    return Result(
        seq=arrival.seq,
        phase=arrival.phase,
        target=arrival.target,
        due_ns=arrival.due_ns,
        start_ns=start_ns,
        status=0,
        dns_ns=None,
        connect_ns=None,
        tls_ns=None,
        ttfb_ns=None,
        total_ns=None,
        bytes_read=0,
        cold=None,
        reused=False,
        retries=0,
        stamp=None,
        segments=0,
        instance=None,
        event_id=None,
        error=error,
        message=message,
    )
