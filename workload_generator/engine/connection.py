"""One TCP connection and its exchange: a socket around the sans-I/O protocol. `tls` adds TLS.

Rules:
- received data is dated (`timestamps.ReceiveClock`) before anything else happens to it
- an open connection is always read, so that the end of an idle one is noticed at once
- each exchange is reported to the engine exactly once: `completed` or `failed`
- data that no request asked for ends its connection, and is never an answer: data on an idle connection, behind a
  response, or older than the request, by the kernel's stamp
- an incomplete response is read until the socket would block, or for one turn: then other connections come first
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from workload_generator.base.clock import NS_PER_MS, NS_PER_US, monotonic_ns
from workload_generator.engine.dialer import Dial, Dialer
from workload_generator.engine.endpoint import Endpoint, Origin
from workload_generator.engine.http1 import BodyError, ProtocolError, ResponseReader
from workload_generator.engine.poller import Poller
from workload_generator.engine.resolver import Address, Answer, Resolver
from workload_generator.engine.response_cache import ResponseCache, response_of
from workload_generator.engine.timestamps import ANCILLARY_BYTES, Ancillary, ReceiveClock, segments_received
from workload_generator.log.records import Arrival, ErrorKind, Opening, Response

_READ_BYTES = 16 * 1024  # which take 0.2 ms in the worst case, in chunks of one byte
_TURN_NS = NS_PER_MS // 2
_MOST_READERS = 1024  # readers to keep for the next response
_SEGMENTS_PROBE = 32
_OLDER_NS = 50 * NS_PER_US  # beyond the error of a stamp on the monotonic clock
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}

_CONNECT_KINDS = {
    errno.ECONNREFUSED: ErrorKind.CONNECT_REFUSED,
    errno.ETIMEDOUT: ErrorKind.CONNECT_TIMEOUT,
    errno.ECONNRESET: ErrorKind.RESET,
}


class ConnectionState(Enum):
    """The stage of a connection; the values complete a sentence of an error message."""

    RESOLVING = "resolving the name"
    CONNECTING = "connecting"
    HANDSHAKE = "in the TLS handshake"
    ACTIVE = "waiting for the response"
    IDLE = "idle"
    CLOSED = "closed"


# On the hot path a global is cheaper than an enum's member.
_ACTIVE, _IDLE = ConnectionState.ACTIVE, ConnectionState.IDLE


class Failure(NamedTuple):
    """Why there is no complete response.

    `exhausted` means that this machine had no descriptor, port or memory left; `unasked` that data came which no
    request asked for; `has_data` that some byte of a response came. `first_ns` is the monotonic time of the response's
    first byte (`kernel`: by the kernel's stamp) and `response` what its head says; None when it did not come.
    """

    kind: ErrorKind
    message: str
    exhausted: bool = False
    unasked: bool = False
    has_data: bool = False
    first_ns: int | None = None
    kernel: bool = False
    response: Response | None = None


@dataclass(slots=True, eq=False)
class Exchange:
    """One request, from its start to its result. `opening` is None on a reused connection.

    The last five attributes are set once the whole response has come, and not before. All times are readings of the
    monotonic clock in nanoseconds. `kernel` says whether `first_ns` is the kernel's stamp; `segments` is the number of
    TCP segments of the response, 0 when unknown.
    """

    arrival: Arrival
    endpoint: Endpoint
    start_ns: int
    on_done: OnDone | None
    connection: Connection | None = None
    opening: Opening | None = None
    first_ns: int = field(init=False)
    last_ns: int = field(init=False)
    kernel: bool = field(init=False)
    segments: int = field(init=False)
    response: Response = field(init=False)


OnDone = Callable[[Exchange, Failure | None], None]
"""Called when a request has its result, with None when the whole response came. The exchange can be started again."""


class ConnectionOwner:
    """What connections share, and report to: the engine. This one ignores the reports.

    `unasked` counts the connections on which the server sent what no request had asked for.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: ReceiveClock) -> None:
        self.loop = loop
        self.clock = clock
        self.poller = Poller(loop, clock)
        self.resolver = Resolver(loop)
        self.dialer = Dialer(loop)
        self.cache = ResponseCache()
        self.readers: list[ResponseReader] = []
        self.counts_segments = False
        self.unasked = 0

    def opened(self, connection: Connection) -> None:
        """A connection that was opened without a request is idle."""

    def completed(self, connection: Connection, exchange: Exchange) -> None:
        """The whole response has come; the exchange says when."""

    def failed(self, connection: Connection, exchange: Exchange | None, failure: Failure) -> None:
        """The exchange, or the opening without one, has failed; its connection is closed."""

    def ended(self, connection: Connection) -> None:
        """An idle connection has ended."""


class Connection:
    """A connection from the look-up of its host name to its end, with at most one exchange at a time."""

    def __init__(self, owner: ConnectionOwner, origin: Origin) -> None:
        self._owner = owner
        self.origin = origin
        self.state = ConnectionState.RESOLVING
        self.exchange: Exchange | None = None
        self._opening = _NO_OPENING
        self._sock: Any = None  # a socket.socket; as Any it needs no check for None on the hot path
        self._fd = -1
        self._dial: Dial | None = None
        self._pending = b""
        self._ending = False
        self._mark_ns = 0
        self._segments = 0
        # Of a response that the cache does not have
        self._reader: ResponseReader | None = None
        self._first_ns: int | None = None
        self._kernel = False

    # Opening

    def open(self, opening: Opening, exchange: Exchange | None = None) -> None:
        """Connect, then send the request of `exchange` if there is one."""
        self._opening = opening
        if exchange is not None:
            self.exchange = exchange
            exchange.connection = self
            exchange.opening = opening
        self._mark_ns = monotonic_ns()
        known = self._owner.resolver.cached(self.origin.host, self.origin.port)
        if known is not None:
            opening.dns_ns = 0
            self._connect(known)
        else:
            self._owner.resolver.resolve(self.origin.host, self.origin.port, self._on_answer)

    def _on_answer(self, answer: Answer) -> None:
        if self.state is not ConnectionState.RESOLVING:
            return  # it has timed out or was cancelled
        if isinstance(answer, OSError):
            self._fail(ErrorKind.DNS, f"{self.origin.host}: {answer.strerror or answer}")
            return
        dns_ns = self._opening.dns_ns = monotonic_ns() - self._mark_ns
        self._mark_ns += dns_ns
        self._connect(answer)

    def _connect(self, addresses: list[Address]) -> None:
        self.state = ConnectionState.CONNECTING
        self._dial = Dial(self._owner.dialer, addresses, self)
        self._dial.attempt()

    def on_unreachable(self, codes: list[int]) -> None:
        """See `dialer.Caller`."""
        code = min(codes, key=lambda code: code not in _CONNECT_KINDS)
        kind = _CONNECT_KINDS.get(code, ErrorKind.OTHER)
        self._fail(kind, f"connect to {self.origin}: {os.strerror(code)}", exhausted=code in _EXHAUSTED)

    def on_connected(self, sock: socket.socket, address: Address, connect_ns: int) -> None:
        """See `dialer.Caller`."""
        self._dial = None
        self._sock, self._fd = sock, sock.fileno()
        self._opening.connect_ns = connect_ns
        self._opening.address = str(address.sockaddr[0])
        self._mark_ns = monotonic_ns()
        self._owner.poller.watch(sock, self)
        self._on_watched()

    def _on_watched(self) -> None:
        """The socket is connected, and read from here on."""
        self._opening.tls_ns = 0
        self._on_open()

    def _on_open(self) -> None:
        exchange = self.exchange
        if exchange is not None:
            self._begin_reading(exchange)  # it compares the response with the opening; the cache does not
            self.send_request(exchange)
            return
        self.state = ConnectionState.IDLE
        self._owner.opened(self)

    # Requests

    @property
    def is_idle(self) -> bool:
        """See `poller.ReadHandler`."""
        return self.state is _IDLE

    def send_request(self, exchange: Exchange) -> None:
        """Send the request of `exchange`; the connection is open and idle."""
        self.exchange = exchange
        exchange.connection = self
        self.state = _ACTIVE
        endpoint = exchange.endpoint
        if endpoint.method == "HEAD" and self._reader is None:
            self._begin_reading(exchange)  # the cache has responses to other methods
        events = endpoint.events
        data = endpoint.request if events is None else events.encode(exchange.arrival.seq, exchange.start_ns)
        self._send(data)

    def _write(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
            return
        sock = self._sock
        if sock is None or not data:
            return
        try:
            sent: int = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self.state is ConnectionState.ACTIVE:
                # The server may have responded early, with a 413 for instance: read before failing.
                self._owner.loop.call_soon(self._read_on)
                return
            self.on_lost(error)
            return
        if sent < len(data):
            self._pending = data[sent:]
            self._owner.loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        data, self._pending = self._pending, b""
        self._owner.loop.remove_writer(self._fd)
        self._write(data)

    _send = _write  # of a request; TLS encrypts it first

    # Responses

    def on_received(self, data: bytes, ancillary: Ancillary, now_ns: int) -> None:
        """See `poller.ReadHandler`."""
        if self._sock is not None and not self._on_data(data, ancillary, now_ns):
            poller = self._owner.poller
            if len(data) == poller.first_read_bytes:
                poller.expect_more()
            self._read_on()

    def _on_data(self, data: bytes, ancillary: Ancillary, now_ns: int) -> bool:
        """Handle the data of a read, in plain text. Returns whether to stop reading for now."""
        if self.state is not _ACTIVE or not data:
            self._owner.unasked += bool(data)
            self._on_end(now_ns)  # of an idle connection, where data ends it as well
            return True
        owner, exchange = self._owner, self.exchange
        assert exchange is not None
        arrived_ns = owner.clock.arrived_ns(ancillary, now_ns)
        kernel = True
        if arrived_ns is None or arrived_ns < exchange.start_ns:
            if min(now_ns, now_ns if arrived_ns is None else arrived_ns + _OLDER_NS) < exchange.start_ns:
                return self._on_unasked()
            arrived_ns, kernel = now_ns, False
        if self._reader is not None:
            return self._on_piece(exchange, data, arrived_ns, kernel)
        response = owner.cache.get(data)  # mostly the data is a whole response that came before
        if response is None:
            return self._on_piece(exchange, data, arrived_ns, kernel)
        if owner.counts_segments or self._segments % _SEGMENTS_PROBE == 0:
            segments = self._count_segments()
        else:
            segments = 1
            self._segments += 1
        exchange.response, exchange.kernel, exchange.segments = response, kernel, segments
        exchange.first_ns = exchange.last_ns = arrived_ns
        self.exchange = None
        if self._pending:
            self.close()
        else:
            self.state = _IDLE
        owner.completed(self, exchange)
        return True

    def _on_unasked(self) -> bool:
        """End the connection, whose data is older than the request: as one that was lost before the first byte."""
        self._fail(ErrorKind.PROTOCOL, "the server sent data before the request", unasked=True)
        return True

    def _read_on(self) -> None:
        """Read until the socket would block, or it is the turn of others."""
        end_ns = monotonic_ns() + _TURN_NS
        while self._sock is not None and not self._read():
            if monotonic_ns() > end_ns:
                self._owner.poller.postpone(self._fd, self)
                return

    def on_turn(self) -> None:
        """See `poller.ReadHandler`."""
        if self._sock is not None:
            self._owner.poller.watch(self._sock, self)
            self._read_on()

    def _read(self) -> bool:
        """Read once. Returns whether to stop reading for now."""
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(_READ_BYTES, ANCILLARY_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            self.on_lost(error)
            return True
        now_ns = monotonic_ns()
        self._owner.clock.compare()
        return self._on_data(data, ancillary, now_ns)

    def _on_piece(self, exchange: Exchange, data: bytes, arrived_ns: int, kernel: bool) -> bool:
        """Read a piece that the cache does not have. Returns whether the exchange is over."""
        reader = self._reader or self._begin_reading(exchange)
        if self._first_ns is None:
            if exchange.opening is not None and arrived_ns + _OLDER_NS < self._mark_ns:
                return self._on_unasked()
            self._first_ns, self._kernel = arrived_ns, kernel
        whole = not reader.has_data
        try:
            complete = reader.feed(data)
        except (ProtocolError, BodyError) as error:
            self._fail(ErrorKind.PROTOCOL if isinstance(error, ProtocolError) else ErrorKind.BODY, str(error))
            return True
        if not reader.started:
            self._first_ns = None  # only interim (1xx) responses so far
        if not complete:
            return False
        response = response_of(reader)
        if whole and exchange.endpoint.method != "HEAD":
            self._owner.cache.learn(data, response)
        self._complete(exchange, response, self._first_ns or arrived_ns, arrived_ns, self._kernel)
        return True

    def _count_segments(self) -> int:
        """Segments of the response that has just ended, 0 when unknown.

        The system call costs a tenth of a request. So, until a response has had more than one segment, cached responses
        are assumed to have one, and only one in 32 is counted: the kernel counts for the connection, so that the next
        count shows what was missed, and from then on every response is counted.
        """
        received = segments_received(self._sock)
        number, self._segments = received - self._segments, received
        if number > 1:
            self._owner.counts_segments = True
        return max(0, number)

    def _begin_reading(self, exchange: Exchange) -> ResponseReader:
        readers = self._owner.readers
        reader = self._reader = readers.pop() if readers else ResponseReader()
        reader.start(exchange.endpoint.method)
        self._first_ns = None
        return reader

    def _end_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._owner.unasked += reader.surplus
            if not reader.keep_alive or len(self._owner.readers) >= _MOST_READERS:
                reader.close()  # its parser has stopped within a message
            if len(self._owner.readers) < _MOST_READERS:
                self._owner.readers.append(reader)

    def _complete(self, exchange: Exchange, response: Response, first_ns: int, last_ns: int, kernel: bool) -> None:
        exchange.response, exchange.kernel, exchange.segments = response, kernel, self._count_segments()
        exchange.first_ns, exchange.last_ns = first_ns, last_ns
        self.exchange = None
        self._end_reading()
        if response.keep_alive and not self._pending and not self._ending:
            self.state = _IDLE
        else:
            self.close()
        self._owner.completed(self, exchange)

    # Ends

    def _on_end(self, now_ns: int) -> None:
        reader = self._reader
        if self.state is ConnectionState.IDLE:
            self._owner.ended(self)
            self.close()
        elif reader is None or not reader.started:
            self._fail(ErrorKind.RESET, "the server closed the connection without a response")
        elif reader.at_eof():
            exchange = self.exchange
            assert exchange is not None and self._first_ns is not None
            self._complete(exchange, response_of(reader), self._first_ns, now_ns, self._kernel)
        elif reader.head_complete:
            self._fail(ErrorKind.BODY, "the server closed the connection within the body")
        else:
            self._fail(ErrorKind.RESET, "the server closed the connection within the response's head")

    def on_ending(self) -> None:
        """See `poller.ReadHandler`. No further request can be answered: the reader sees to that, the cache does not."""
        if self.exchange is not None and self.state is _ACTIVE:
            self._ending = True
            self._reader = self._reader or self._begin_reading(self.exchange)

    def on_lost(self, error: OSError) -> None:
        """See `poller.ReadHandler`."""
        if self.state is ConnectionState.CLOSED:
            return  # since it was read
        if self.state is ConnectionState.IDLE:
            self._owner.ended(self)
            self.close()
        elif self._reader is not None and self._reader.head_complete:
            self._fail(ErrorKind.BODY, f"{error.strerror} while reading the body")
        else:
            self._fail(ErrorKind.RESET, f"{error.strerror} while {self.state.value}")

    def abort(self, kind: ErrorKind, message: str) -> None:
        """Fail the exchange from outside: it took too long, or the run is over."""
        self._fail(kind, message)

    def close(self) -> None:
        """Close the connection without reporting anything."""
        self.state = ConnectionState.CLOSED
        self._release_socket()
        self._end_reading()

    def _fail(self, kind: ErrorKind, message: str, *, exhausted: bool = False, unasked: bool = False) -> None:
        exchange, reader = self.exchange, self._reader
        self.exchange = None
        failure = Failure(kind, message, exhausted, unasked)
        if reader is not None:
            response = response_of(reader) if reader.head_complete else None
            failure = failure._replace(
                has_data=reader.has_data, first_ns=self._first_ns, kernel=self._kernel, response=response
            )
        self.close()
        self._owner.failed(self, exchange, failure)

    def _release_socket(self) -> None:
        if self._dial is not None:
            self._dial.close()
            self._dial = None
        sock = self._sock
        if sock is None:
            return
        try:
            self._owner.loop.remove_writer(self._fd)
            self._owner.poller.unwatch(self._fd)
        finally:
            self._sock, self._fd, self._pending = None, -1, b""
            sock.close()


_NO_OPENING = Opening()  # of connections that are not open yet; never written to
