"""Mutated responses through a connection: the fast path, the parser, and any cuts must say the same.

    uv run python -m tests.engine.fuzz COUNT [SEED]

Each response is read in one piece with a cache that knows those before it, in one piece without a cache, and in random
pieces without one. It prints what they disagree on, and exits with 1.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, cast

from workload_generator.engine import connection as connections
from workload_generator.engine.connection import Connection, ConnectionOwner, ConnectionState, Exchange, Failure
from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.engine.http1 import HEAD_LIMIT
from workload_generator.engine.poller import Poller
from workload_generator.engine.resolver import Resolver
from workload_generator.engine.response_cache import ResponseCache
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.log.records import Arrival, ErrorKind, Phase, Response

ORIGIN = Origin("a", 80)
ENDPOINTS = {method: Endpoint(ORIGIN, method, b"?") for method in ("GET", "HEAD", "POST")}
ENDS = ("keep", "close", "reset")

STARTS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n",
    b"HTTP/1.1 304 Not\r\n", b"HTTP/1.1 503 Busy\r\n", b"HTTP/1.1 999 \r\n", b"HTTP/1.1 200\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/2 200\r\n", b"RTSP/1.0 200 OK\r\n", b"\r\nHTTP/1.1 200 OK\r\n", b"HTTP/1.1 101 Switching\r\n",
)  # fmt: skip
HEADERS = (
    b"Content-Length: %d\r\n", b"Content-Length: %d\r\n", b"content-length:%d\r\n", b"Content-Length:\r\n %d\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"X-Instance: pod-1\r\n", b"x-instance: \xff\r\n", b"Date: now\r\n", b" folded\r\n",
    b"X-A: b\r\n\tc\r\n", b"Content-Length: 3\r\n", b"broken\r\n", b"Upgrade: h2c\r\n", b"Trailer: X\r\n",
    b"X-Long: " + b"x" * 500 + b"\r\n",
)  # fmt: skip
NEUTRAL = [
    b"X-Instance: pod-1\r\n",
    b"Date: now\r\n",
    b"Connection: keep-alive\r\n",
    b"X-A: b\r\n c\r\n",
    b"Server: x\r\n",
]
BODIES = (
    b"", b"true", b"false", b"false\r\n", b"5\r\nfalse\r\n0\r\n\r\n", b"1\r\nt\r\n3;a=b\r\nrue\r\n0\r\nX: y\r\n\r\n",
    b"x" * 5000, b"tr\x00e", b"0\r\n\r\n", b"\r\n", b"ffffffffffffffff1\r\n", b"-1\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
)  # fmt: skip
ODDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\t",
    b"\xff",
    b"0",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"\r\n\r\n",
    b"9" * 20,
)


class Outcome(NamedTuple):
    """All that a run could see of one response."""

    error: ErrorKind | None
    status: int
    bytes_read: int
    cold: bool | None
    instance: str | None
    has_data: bool
    reusable: bool
    unasked: int


class Case(NamedTuple):
    """A response, the request that it answers, and the end of its connection."""

    raw: bytes
    method: str
    end: str


class Received:
    """A socket that has received `pieces`, and then would block, was closed, or was reset."""

    def __init__(self, pieces: list[bytes], end: str) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._end = end

    def recvmsg(self, size: int, _ancillary: int) -> tuple[bytes, tuple[()], int, None]:
        if self._pieces:
            piece = self._pieces.pop(0)
            if len(piece) > size:
                self._pieces.insert(0, piece[size:])
            return piece[:size], (), 0, None
        if self._end == "reset":
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._end == "close":
            return b"", (), 0, None
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        return len(data)

    def getsockopt(self, *_: int) -> bytes:
        raise OSError

    def close(self) -> None:
        self._pieces = []


class _Loop:
    """Calls back at once, or never."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        callback(*args)

    def remove_writer(self, _fd: int) -> None:
        """Nothing is written later."""


class _Poller:
    first_read_bytes = 448

    def expect_more(self) -> None:
        self.first_read_bytes = 4096

    def unwatch(self, _fd: int) -> None:
        """Nothing is watched."""

    watch = postpone = unwatch


class _Counting(ResponseCache):
    hits = 0

    def get(self, data: bytes, default: Any = None) -> Any:
        self.hits += data in self
        return super().get(data, default)


class _Ignorant(ResponseCache):
    def learn(self, data: bytes, response: Response) -> None:
        """Learn nothing, so that the parser reads everything."""


class Owner(ConnectionOwner):
    """Takes the outcome of one response at a time."""

    def __init__(self, cache: ResponseCache) -> None:
        self.loop = cast(asyncio.AbstractEventLoop, _Loop())
        self.clock = ReceiveClock()
        self.poller = cast(Poller, _Poller())
        self.resolver = Resolver(self.loop)
        self.cache = cache
        self.readers = []
        self.counts_segments = False
        self.unasked = 0
        self.outcome: tuple[Any, ...] | None = None

    def completed(self, connection: Connection, exchange: Exchange) -> None:
        assert self.outcome is None
        status, bytes_read, cold, instance, _ = exchange.response
        self.outcome = (None, status, bytes_read, cold, instance, True)

    def failed(self, connection: Connection, exchange: Exchange | None, failure: Failure) -> None:
        assert self.outcome is None and exchange is not None
        status, bytes_read, _, instance, _ = failure.response or Response(0, 0, None, None, False)
        self.outcome = (failure.kind, status, bytes_read, None, instance, failure.has_data)

    def ended(self, connection: Connection) -> None:
        assert self.outcome is not None

    def read(self, case: Case, pieces: list[bytes]) -> Outcome:
        """Have a connection read `pieces` as the poller would."""
        self.outcome, self.unasked = None, 0
        connection, sock = Connection(self, ORIGIN), Received(pieces, case.end)
        connection._sock, connection.state = sock, ConnectionState.IDLE
        connection.send_request(Exchange(Arrival(0, Phase.MEASURE, 0, 0), ENDPOINTS[case.method], 0, None))
        while connection.state is not ConnectionState.CLOSED:
            try:
                data, ancillary, _, _ = sock.recvmsg(self.poller.first_read_bytes, 0)
            except BlockingIOError:
                break
            except OSError as error:
                connection.on_lost(error)
            else:
                connection.on_received(data, ancillary, time.monotonic_ns())
        if self.outcome is None:
            connection.abort(ErrorKind.TIMEOUT, "")
        assert self.outcome is not None
        reusable = connection.state is ConnectionState.IDLE
        connection.close()
        return Outcome(*self.outcome, reusable, self.unasked)


def cut(draw: random.Random, raw: bytes) -> list[bytes]:
    """`raw` in random pieces, sometimes bytes."""
    if draw.random() < 0.1:
        return [raw[at : at + 1] for at in range(len(raw))]
    places = sorted(draw.randrange(len(raw) + 1) for _ in range(draw.randrange(1, 6)))
    return [raw[start:end] for start, end in zip([0, *places], [*places, len(raw)], strict=True)]


def response(draw: random.Random) -> bytes:
    """A response: one of a good function, or of any parts."""
    body = draw.choice(BODIES)
    if draw.random() < 0.5:
        names = b"".join(draw.sample(NEUTRAL, draw.randrange(3)))
        if draw.random() < 0.3:
            framing, body = (
                b"Transfer-Encoding: chunked\r\n",
                b"%x;e=1\r\n%s\r\n0\r\n\r\n" % (len(body) or 1, body or b" "),
            )
        else:
            framing = b"Content-Length: %d\r\n" % len(body)
        return b"HTTP/1.1 200 OK\r\n" + names + framing + b"\r\n" + body
    lines = [draw.choice(HEADERS) for _ in range(draw.randrange(5))]
    head = b"".join(line % len(body) if b"%d" in line else line for line in lines)
    return draw.choice(STARTS) + head + b"\r\n" + body


def mutated(draw: random.Random, raw: bytes) -> bytes:
    """`raw` with some bytes changed, put in, left out, repeated, or taken from another response."""
    for _ in range(draw.choice((0, 0, 1, 1, 2, 3))):
        at, to = sorted((draw.randrange(len(raw) + 1), draw.randrange(len(raw) + 1)))
        to = min(to, at + draw.choice((1, 2, 8, 10_000)))
        kind = draw.randrange(6)
        middle = (
            draw.randbytes(to - at if kind == 0 else 0)
            + (draw.choice(ODDS) if kind in (1, 2) else b"")
            + (raw[at:to] * 2 if kind == 3 else b"")
            + (response(draw)[at:to] if kind == 4 else b"")
        )
        raw = raw[:at] + middle + raw[at if kind == 1 else to :]
    return raw


def cases(seed: int) -> Iterator[tuple[random.Random, Case]]:
    """Cases without end, each with what draws its cuts."""
    draw = random.Random(seed)
    while True:
        raw = mutated(draw, response(draw))
        if draw.random() < 0.001:
            raw = raw.replace(b"\r\n", b"\r\nX: " + b"y" * draw.randrange(HEAD_LIMIT - 600, HEAD_LIMIT) + b"\r\n", 1)
        yield draw, Case(raw, draw.choice(("GET", "GET", "GET", "POST", "HEAD")), draw.choice(ENDS))


class Readers:
    """The ways to read a response that must agree."""

    def __init__(self) -> None:
        self.cache = _Counting()
        self.fast = Owner(self.cache)
        self.full = Owner(_Ignorant())

    def disagreement(self, case: Case, pieces: list[bytes]) -> str | None:
        """What the readers make of `case`, when it is not the same."""
        found = {
            "cached": self.fast.read(case, [case.raw]),
            "again": self.fast.read(case, [case.raw]),
            "whole": self.full.read(case, [case.raw]),
            "pieces": self.full.read(case, pieces),
            "pieces, cached": self.fast.read(case, pieces),
        }
        if len(set(found.values())) == 1:
            return None
        sizes = [len(piece) for piece in pieces]
        return "\n".join([f"{case} in {sizes}", *(f"    {name}: {outcome}" for name, outcome in found.items())])


def compare(count: int, seed: int) -> tuple[list[str], int]:
    """Read `count` responses; returns the disagreements, and how many readings came from the cache."""
    readers = Readers()
    found = (readers.disagreement(case, cut(draw, case.raw)) for draw, case in islice(cases(seed), count))
    return [each for each in found if each is not None], readers.cache.hits


def main(count: int, seed: int = 0) -> int:
    """Compare, and print the outcome; returns the exit code."""
    start = time.monotonic()
    wrong, hits = compare(count, seed)
    seconds = time.monotonic() - start
    sys.stdout.write("\n".join([*wrong, ""]))
    sys.stdout.write(f"{count:,} responses in {seconds:.0f} s, {hits:,} from the cache: {len(wrong)} not read alike\n")
    return bool(wrong)


if __name__ == "__main__":
    connections._TURN_NS = 10**12  # no turn ends
    sys.exit(main(*map(int, sys.argv[1:])))
