"""A client's connection: requests in, responses out, one at a time and in order.

Rules:
- a request goes on as soon as its head is there; its body follows as it comes, and is never collected beyond what one
  read brought and `_MOST_BUFFERED`
- what a client sends ahead (pipelining) waits for its turn, and reading with it
- every request is answered, or the connection is ended; offers of other protocols (upgrades) are ignored
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from collections import deque
from typing import Protocol, cast

import httptools

from workload_generator.base.clock import monotonic_ns
from workload_generator.emulator.exchange import MARK, Exchange
from workload_generator.emulator.upstream import HOP_BY_HOP

_MOST_BUFFERED = 65536
_MOST_COLLECTED = 4 * 1024 * 1024  # of what is only taken whole
_MOST_HEAD = 65536
_RETRIABLE = (b"GET", b"HEAD")
_TEXT = b"text/plain; charset=utf-8"
_GONE = (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT (include/net/tcp_states.h)


class Router(Protocol):
    """Who knows what becomes of a request."""

    def route(self, exchange: Exchange, host: bytes, target: bytes) -> None:
        """Take it: it is answered sooner or later."""

    def wants_body(self, target: bytes) -> bool:
        """Whether a request is only to be routed when its whole body is there."""

    def connected(self, client: Client) -> None:
        """A client is there."""

    def disconnected(self, client: Client) -> None:
        """A client is gone."""


class Client(asyncio.Protocol):
    """State of one connection. The exchange at the head of the line is the current one."""

    def __init__(self, router: Router) -> None:
        self.keeps_alive = True
        self.http_1_1 = True
        self._router = router
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[tuple[Exchange, bytes, bytes, bool, bool]] = deque()
        self._current: Exchange | None = None
        self._parsing: Exchange | None = None
        self._done = False  # the current exchange is answered; the rest of its request is still coming
        self._reading = True
        self._writing = True
        self._closing = False
        self._advancing = False
        self._collecting: tuple[Exchange, bytes, bytes] | None = None
        self._begin_request()

    @property
    def busy(self) -> bool:
        """Whether a response is owed."""
        return self._current is not None and not self._done

    def close_when_idle(self) -> None:
        """No further request; what is owed is still answered."""
        self._closing = True
        if not self.busy and self._transport is not None:
            self._transport.close()

    def check(self) -> None:
        """While nothing is read, nobody tells that the client has gone: ask the kernel."""
        if not self._reading and self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE:
                self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._router.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.pause()  # the offer is ignored, as it may be: the answer to its request ends the connection
        except httptools.HttpParserError as error:
            self._refuse(400, f"not a request: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._router.disconnected(self)
        exchange, self._current = self._current, None
        self._line.clear()
        if exchange is not None and not self._done and exchange.service is not None:
            exchange.service.abandoned(exchange)

    def pause_writing(self) -> None:
        self._writing = False
        if self._current is not None and self._current.upstream is not None:
            self._current.upstream.pause_reading()

    def resume_writing(self) -> None:
        self._writing = True
        if self._current is not None and self._current.upstream is not None:
            self._current.upstream.resume_reading()

    # httptools

    def _begin_request(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._grown(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._parsing is not None:
            return  # a trailer
        self._headers.append((name, value))
        self._grown(len(name) + len(value))

    def on_headers_complete(self) -> None:
        arrived_ns = monotonic_ns()
        parser = self._parser
        method: bytes = parser.get_method()
        http_1_1 = parser.get_http_version() == "1.1"
        host, chunked, length = b"", False, False
        named = frozenset[bytes]()
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"host":
                host = value
            elif lower == b"transfer-encoding":
                chunked = True
            elif lower == b"content-length":
                length = value != b"0"
            elif lower == b"connection":
                named |= {word.strip().lower() for word in value.split(b",")}
        retriable = method in _RETRIABLE and not (chunked or length)
        whole = not (chunked or length)
        chunked = chunked and not self._router.wants_body(self._target)
        lines = [b"%s %s HTTP/1.1\r\n" % (method, self._target)]
        lines += [
            b"%s: %s\r\n" % (name, value)
            for name, value in self._headers
            if (lower := name.lower()) not in HOP_BY_HOP and lower not in named
        ]
        lines.append(b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
        exchange = Exchange(self, method, b"".join(lines), chunked, retriable, arrived_ns)
        self._parsing = exchange
        keeps_alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._line.append((exchange, host, self._target, keeps_alive, http_1_1))
        exchange.body_complete = whole
        if self._current is None:
            self._next()
        else:
            self.pause()

    def on_body(self, data: bytes) -> None:
        exchange = self._parsing
        if exchange is None or (self._done and exchange is self._current):
            return
        exchange.body.append(exchange.encode(data))
        exchange.body_size += len(data)
        if exchange.upstream is not None:
            exchange.upstream.send_more(exchange)
        elif self._collecting is not None and exchange is self._current:
            if exchange.body_size > _MOST_COLLECTED:
                self._collecting = None
                self.respond(exchange, 413, f"more than {_MOST_COLLECTED:,} bytes")
        elif exchange.body_size >= _MOST_BUFFERED:
            self.pause()

    def on_message_complete(self) -> None:
        exchange, self._parsing = self._parsing, None
        self._begin_request()
        if exchange is None:
            return
        was_complete, exchange.body_complete = exchange.body_complete, True
        if exchange is self._current and self._done:
            self._current = None
            self._next()
        elif self._collecting is not None and exchange is self._current:
            collected, self._collecting = self._collecting, None
            self._router.route(*collected)
        elif exchange.upstream is not None and not was_complete:
            exchange.upstream.send_more(exchange)

    def _grown(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MOST_HEAD:
            self._refuse(431, f"the request's head is longer than {_MOST_HEAD:,} bytes")

    # Sink

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def answered(self) -> None:
        exchange = self._current
        if self._transport is None or exchange is None:
            return
        if not self.keeps_alive or self._closing:
            self._transport.close()
        elif exchange.body_complete:
            self._current = None
            self._next()
        else:
            self._done = True
            self.resume()  # the rest of the request goes nowhere, but it stands before the next one

    def respond(self, exchange: Exchange, status: int, reason: str) -> None:
        self.answer(exchange, status, f"{reason}\n".encode(), _TEXT)

    def answer(self, exchange: Exchange, status: int, body: bytes, content_type: bytes) -> None:
        """Answer with a body of the platform's own."""
        if exchange is not self._current or self._done:
            return
        connection = b"" if self.keeps_alive else b"Connection: close\r\n"
        head = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n" % (
            status,
            http.HTTPStatus(status).phrase.encode() if status in _STATUSES else b"Error",
            content_type,
            len(body),
            MARK,
            connection,
        )
        self.send(head if exchange.method == b"HEAD" else head + body)
        self.answered()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def pause(self) -> None:
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # The line

    def _next(self) -> None:
        """The current exchange is over: go on with those that came meanwhile."""
        self._done = False
        if self._advancing:
            return  # answered at once, by the loop below
        self._advancing = True
        while self._current is None and self._line and not self._closing:
            exchange, host, target, keeps_alive, http_1_1 = self._line.popleft()
            self._current = exchange
            self.keeps_alive, self.http_1_1 = keeps_alive, http_1_1
            if exchange.body_complete or not self._router.wants_body(target):
                self._router.route(exchange, host, target)
            else:
                self._collecting = (exchange, host, target)
        self._advancing = False
        if self._closing and self._current is None and self._transport is not None:
            self._transport.close()
        elif not self._line:
            self.resume()
        if not self._writing and self._current is not None and self._current.upstream is not None:
            self._current.upstream.pause_reading()

    def _refuse(self, status: int, reason: str) -> None:
        """What comes is not HTTP as we speak it: say so when nothing else is owed, and end the connection."""
        if self._transport is None or self._transport.is_closing():
            return
        self.keeps_alive = False
        if self._current is None:
            exchange = self._current = Exchange(self, b"", b"", False, False, monotonic_ns())
            exchange.body_complete = True
            self.respond(exchange, status, reason)
        else:
            self._transport.abort()


_STATUSES = frozenset(status.value for status in http.HTTPStatus)
