"""One TCP connection and the exchange that runs on it: sockets and TLS around the sans-I/O protocol.

State is kept by lifetime: `Exchange` for one request, `Connection` for one socket, the engine for the run.

Rules:
- the first byte is stamped before anything else happens to it
- reading is registered as long as the connection lives, so that an idle connection's end is seen when it comes
- a connection reports to its engine exactly once for each exchange: `completed` or `failed`
- what is readable is read until there is no more, as long as the response is incomplete: after a reset the event loop
  calls a reader once and never again
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from enum import Enum
from typing import NamedTuple, Protocol

from workload_generator.clock import monotonic_ns
from workload_generator.load.endpoint import Endpoint, Origin
from workload_generator.load.protocol import BodyError, ProtocolError, ResponseReader
from workload_generator.load.resolver import Address, Answer, Resolver
from workload_generator.load.tls import TlsSession, fault_of
from workload_generator.records import Arrival, ErrorKind

__all__ = ["Connection", "Exchange", "Failure", "Origin", "State"]

_RECEIVE_BYTES = 256 * 1024
_receive_buffer = bytearray(_RECEIVE_BYTES)  # shared: what is read is parsed before the next read
_receive_view = memoryview(_receive_buffer)

_MOST_READS = 16  # in one go, so that one large response cannot keep the loop from the others
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}

_CONNECT_KINDS = {
    errno.ECONNREFUSED: ErrorKind.CONNECT_REFUSED,
    errno.ETIMEDOUT: ErrorKind.CONNECT_TIMEOUT,
    errno.ECONNRESET: ErrorKind.RESET,
}


class State(Enum):
    """Where a connection stands."""

    RESOLVING = "resolving the name"
    CONNECTING = "connecting"
    HANDSHAKE = "in the TLS handshake"
    ACTIVE = "waiting for the response"
    IDLE = "idle"
    CLOSED = "closed"


class Failure(NamedTuple):
    """Why an exchange has no complete response. `ours` when this machine had no descriptor, port or memory for it."""

    kind: ErrorKind
    message: str
    ours: bool = False


class Exchange:
    """One request from its start to its result. Times in monotonic nanoseconds or lengths; None: not reached."""

    __slots__ = (
        "arrival",
        "connect_ns",
        "connection",
        "deadline_ns",
        "dns_ns",
        "endpoint",
        "retries",
        "reused",
        "start_ns",
        "tls_ns",
        "ttfb_ns",
    )

    def __init__(self, arrival: Arrival, endpoint: Endpoint, start_ns: int, deadline_ns: int) -> None:
        self.arrival = arrival
        self.endpoint = endpoint
        self.start_ns = start_ns
        self.deadline_ns = deadline_ns
        self.connection: Connection | None = None
        self.dns_ns: int | None = None
        self.connect_ns: int | None = None
        self.tls_ns: int | None = None
        self.ttfb_ns: int | None = None
        self.reused = False
        self.retries = 0


class Owner(Protocol):
    """Whom a connection reports to."""

    loop: asyncio.AbstractEventLoop
    resolver: Resolver

    def completed(self, connection: Connection, exchange: Exchange, now_ns: int) -> None:
        """The whole response is here; `connection.reader` has it."""

    def failed(self, connection: Connection, exchange: Exchange, failure: Failure) -> None:
        """The exchange has failed; the connection is closed."""

    def ended(self, connection: Connection) -> None:
        """An idle connection has ended."""


class Connection:
    """A socket of ours, from the look-up of its name to its end; at most one exchange at a time."""

    __slots__ = (
        "_addresses",
        "_fd",
        "_mark_ns",
        "_owner",
        "_pending",
        "_sock",
        "_tls",
        "_writing",
        "exchange",
        "origin",
        "reader",
        "state",
    )

    def __init__(self, owner: Owner, origin: Origin) -> None:
        self._owner = owner
        self.origin = origin
        self.reader = ResponseReader()
        self.state = State.RESOLVING
        self.exchange: Exchange | None = None
        self._sock: socket.socket | None = None
        self._fd = -1
        self._tls: TlsSession | None = None
        self._addresses: list[Address] = []
        self._pending = b""
        self._writing = False
        self._mark_ns = 0

    # Opening

    def open(self, exchange: Exchange) -> None:
        """Connect and send the exchange's request."""
        self.exchange = exchange
        exchange.connection = self
        self._mark_ns = monotonic_ns()
        known = self._owner.resolver.cached(self.origin.host, self.origin.port)
        if known is not None:
            exchange.dns_ns = 0
            self._connect(known)
        else:
            self._owner.resolver.resolve(self.origin.host, self.origin.port, self._on_answer)

    def _on_answer(self, answer: Answer) -> None:
        exchange = self.exchange
        if self.state is not State.RESOLVING or exchange is None:
            return  # timed out or cancelled meanwhile
        if isinstance(answer, OSError):
            self._fail(ErrorKind.DNS, f"{self.origin.host}: {answer.strerror or answer}")
            return
        exchange.dns_ns = monotonic_ns() - self._mark_ns
        self._mark_ns += exchange.dns_ns
        self._connect(answer)

    def _connect(self, addresses: list[Address]) -> None:
        self.state = State.CONNECTING
        self._addresses = list(addresses)
        self._try_next_address()

    def _try_next_address(self) -> None:
        address = self._addresses.pop(0)
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._on_connect_error(error.errno or 0)
            return
        self._sock, self._fd = sock, sock.fileno()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            code = sock.connect_ex(address.sockaddr)
        except OSError as error:  # an address that the family cannot express
            code = error.errno or errno.EADDRNOTAVAIL
        if code == 0:
            self._on_connected()
        elif code in (errno.EINPROGRESS, errno.EAGAIN):
            self._owner.loop.add_writer(self._fd, self._on_connect_ready)
            self._writing = True
        else:
            self._on_connect_error(code)

    def _on_connect_ready(self) -> None:
        assert self._sock is not None
        self._stop_writing()
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._on_connect_error(code)
        else:
            self._on_connected()

    def _on_connect_error(self, code: int) -> None:
        self._release_socket()
        if self._addresses:
            self._try_next_address()
            return
        kind = _CONNECT_KINDS.get(code, ErrorKind.OTHER)
        self._fail(kind, f"connect to {self.origin}: {os.strerror(code)}", ours=code in _EXHAUSTED)

    def _on_connected(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        now_ns = monotonic_ns()
        exchange.connect_ns = now_ns - self._mark_ns
        self._mark_ns = now_ns
        self._owner.loop.add_reader(self._fd, self._on_readable)
        if self.origin.tls is None:
            exchange.tls_ns = 0
            self._send_request(exchange)
            return
        self.state = State.HANDSHAKE
        self._tls = TlsSession(self.origin.tls, self.origin.host)
        self._shake_hands(b"")

    def _shake_hands(self, received: bytes | memoryview) -> None:
        tls, exchange = self._tls, self.exchange
        assert tls is not None and exchange is not None
        try:
            done = tls.shake_hands(received)
        except (ssl.SSLError, ssl.CertificateError, ValueError) as error:
            with contextlib.suppress(OSError):  # the alert is for the server's log; ours has the error
                assert self._sock is not None
                self._sock.send(tls.to_send())
            self._fail(ErrorKind.TLS, fault_of(error))
            return
        self._send(tls.to_send())
        if done and self.state is State.HANDSHAKE:
            now_ns = monotonic_ns()
            exchange.tls_ns = now_ns - self._mark_ns
            self._send_request(exchange)
            self._on_encrypted(b"", now_ns)  # what came with the end of the handshake

    # Requests

    def reuse(self, exchange: Exchange) -> None:
        """Send another request on this idle connection."""
        self.exchange = exchange
        exchange.connection = self
        exchange.reused = True
        exchange.dns_ns = exchange.connect_ns = exchange.tls_ns = 0
        self._send_request(exchange)

    def _send_request(self, exchange: Exchange) -> None:
        self.state = State.ACTIVE
        endpoint = exchange.endpoint
        self.reader.start(endpoint.method)
        self._send(endpoint.request if self._tls is None else self._tls.encrypt(endpoint.request))

    def _send(self, data: bytes) -> None:
        if self._writing:
            self._pending += data
            return
        sock = self._sock
        if sock is None or not data:
            return
        try:
            sent = sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self.state is State.ACTIVE:
                # An early answer (413, say) may be waiting: reading tells it, or that there is none.
                self._owner.loop.call_soon(self._on_readable)
                return
            self._on_lost(error)
            return
        if sent < len(data):
            self._pending = data[sent:]
            self._writing = True
            self._owner.loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        data, self._pending = self._pending, b""
        self._stop_writing()
        self._send(data)

    # Responses

    def _on_readable(self) -> None:
        for _ in range(_MOST_READS):
            sock = self._sock
            if sock is None:
                return
            try:
                size = sock.recv_into(_receive_buffer)
            except BlockingIOError:
                return
            except OSError as error:
                self._on_lost(error)
                return
            self._on_received(size, monotonic_ns())
            if self.state is State.IDLE:
                return
        self._owner.loop.call_soon(self._on_readable)

    def _on_received(self, size: int, now_ns: int) -> None:
        if size == 0:
            self._on_end(now_ns)
        elif self.state is State.IDLE:
            self._on_idle_data(_receive_view[:size])
        elif self.state is State.HANDSHAKE:
            self._shake_hands(_receive_view[:size])
        elif self._tls is None:
            self._on_response(_receive_view[:size], now_ns)
        else:
            self._on_encrypted(_receive_view[:size], now_ns)

    def _on_encrypted(self, data: bytes | memoryview, now_ns: int) -> None:
        assert self._tls is not None
        try:
            plain, ended = self._tls.decrypt(data)
        except ssl.SSLError as error:
            self._fail(ErrorKind.TLS, fault_of(error))
            return
        self._send(self._tls.to_send())
        if plain and self.state is State.ACTIVE:
            self._on_response(plain, now_ns)
        if ended and self.state in (State.ACTIVE, State.IDLE):
            self._on_end(now_ns)

    def _on_idle_data(self, data: memoryview) -> None:
        if self._tls is not None:  # session tickets and key updates come when they like
            with contextlib.suppress(ssl.SSLError):
                plain, ended = self._tls.decrypt(data)
                self._send(self._tls.to_send())
                if not plain and not ended:
                    return
        self._owner.ended(self)
        self.close()

    def _on_response(self, data: bytes | memoryview, now_ns: int) -> None:
        exchange, reader = self.exchange, self.reader
        assert exchange is not None
        if exchange.ttfb_ns is None:
            exchange.ttfb_ns = now_ns - exchange.start_ns
        try:
            complete = reader.feed(data)
        except ProtocolError as error:
            self._fail(ErrorKind.PROTOCOL, str(error))
            return
        except BodyError as error:
            self._fail(ErrorKind.BODY, str(error))
            return
        if not reader.started:
            exchange.ttfb_ns = None  # only interim responses so far: the status line that counts is still to come
        elif complete:
            self._complete(exchange, now_ns)

    def _complete(self, exchange: Exchange, now_ns: int) -> None:
        self.exchange = None
        self.state = State.IDLE if self.reader.keep_alive and not self._pending else State.CLOSED
        if self.state is State.CLOSED:
            self._release_socket()
        self._owner.completed(self, exchange, now_ns)

    # Ends

    def _on_end(self, now_ns: int) -> None:
        if self.state is State.IDLE:
            self._owner.ended(self)
            self.close()
        elif self.state is State.HANDSHAKE:
            self._fail(ErrorKind.TLS, "the server closed the connection during the TLS handshake")
        elif not self.reader.started:
            self._fail(ErrorKind.RESET, "the server closed the connection without a response")
        else:
            exchange, reader = self.exchange, self.reader
            assert exchange is not None
            if reader.at_eof():
                self._complete(exchange, now_ns)
            elif reader.head_complete:
                self._fail(ErrorKind.BODY, "the server closed the connection within the body")
            else:
                self._fail(ErrorKind.RESET, "the server closed the connection within the response's head")

    def _on_lost(self, error: OSError) -> None:
        if self.state is State.IDLE:
            self._owner.ended(self)
            self.close()
        elif self.reader.started and self.reader.head_complete and self.state is State.ACTIVE:
            self._fail(ErrorKind.BODY, f"{error.strerror} while reading the body")
        else:
            self._fail(ErrorKind.RESET, f"{error.strerror} while {self.state.value}")

    def abort(self, kind: ErrorKind, message: str) -> None:
        """End the exchange from outside: it took too long, or the run is over."""
        self._fail(kind, message)

    def close(self) -> None:
        """End the connection; nothing is reported."""
        self.state = State.CLOSED
        self._release_socket()

    def _fail(self, kind: ErrorKind, message: str, ours: bool = False) -> None:
        exchange = self.exchange
        self.exchange = None
        self.close()
        if exchange is not None:
            self._owner.failed(self, exchange, Failure(kind, message, ours))

    def _stop_writing(self) -> None:
        if self._writing:
            self._owner.loop.remove_writer(self._fd)
            self._writing = False

    def _release_socket(self) -> None:
        sock = self._sock
        if sock is None:
            return
        self._stop_writing()
        self._owner.loop.remove_reader(self._fd)
        self._sock, self._fd, self._pending = None, -1, b""
        sock.close()
        self.reader.close()
