"""A client's connection to the platform: requests in, responses out, one at a time and in order.

Rules:
- a request is routed as soon as its headers have arrived. Its body follows as it arrives; no more than one read and
  `_MOST_BUFFERED` bytes of it are buffered
- pipelined requests wait for their turn, and nothing more is read meanwhile
- every request gets a response, or its connection ends. Offers to switch protocols (`Upgrade`) are ignored
"""

from __future__ import annotations

import asyncio
import http
import socket
import struct
from collections import deque
from typing import Protocol

import httptools

from workload_generator.base.clock import monotonic_ns
from workload_generator.emulator.proxied_request import (
    PLATFORM_HEADER,
    Header,
    ProxiedRequest,
    ProxyConnection,
    encode_headers,
    end_to_end,
)

_MOST_BUFFERED = 65536
_MOST_COLLECTED = 4 * 1024 * 1024  # of a body that the platform itself reads
_MOST_HEAD = 65536
_RETRIABLE = (b"GET", b"HEAD")
_CLOSED_BY_PEER = (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT (include/net/tcp_states.h)
_STATUSES = frozenset(status.value for status in http.HTTPStatus)


class Router(Protocol):
    """Decides where requests go."""

    def route(self, request: ProxiedRequest) -> None:
        """Take a request and respond to it, now or later."""

    def needs_body(self, target: bytes) -> bool:
        """Whether a request is only routed once its whole body has arrived."""

    def connected(self, connection: ClientConnection) -> None:
        """A client has connected."""

    def disconnected(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""


class ClientConnection(ProxyConnection):
    """State of one connection. Requests are in `_pipeline` from their headers on, until they become `_current`."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._parser = httptools.HttpRequestParser(self)
        self._pipeline: deque[ProxiedRequest] = deque()
        self._current: ProxiedRequest | None = None
        self._parsing: ProxiedRequest | None = None
        self._answered = False  # the current request has its response; the rest of its body is still arriving
        self._collecting = False  # the current request is routed once its body is complete
        self._writing = True
        self._closing = False
        self._advancing = False
        self._begin_request()

    @property
    def busy(self) -> bool:
        """Whether a request has no complete response yet."""
        return self._current is not None and not self._answered

    def close_when_idle(self) -> None:
        """Take no further request, and close once the current one has its response."""
        self._closing = True
        if not self.busy:
            self.close()

    def check(self) -> None:
        """Detect that the client is gone: while nothing is read, only the kernel knows."""
        if self._transport is not None and not self._transport.is_reading():
            sock = self._transport.get_extra_info("socket")
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED_BY_PEER:
                self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._router.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.pause_reading()  # the response to this request ends the connection
        except httptools.HttpParserError as error:
            self._reject(400, f"not an HTTP request: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._router.disconnected(self)
        request, self._current = self._current, None
        self._pipeline.clear()
        if request is not None and not self._answered and request.service is not None:
            request.service.on_abandoned(request)

    def pause_writing(self) -> None:
        self._writing = False
        if self._current is not None and self._current.connection is not None:
            self._current.connection.pause_reading()

    def resume_writing(self) -> None:
        self._writing = True
        if self._current is not None and self._current.connection is not None:
            self._current.connection.resume_reading()

    # httptools

    def _begin_request(self) -> None:
        self._target = b""
        self._headers: list[Header] = []
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._parsing is None:  # else it is a trailer
            self._headers.append((name, value))
            self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        arrived_ns = monotonic_ns()
        parser, target = self._parser, self._target
        method: bytes = parser.get_method()
        forwarded, values = end_to_end(self._headers)
        chunked = b"transfer-encoding" in values
        bodyless = not chunked and values.get(b"content-length", b"0") == b"0"
        chunked = chunked and not self._router.needs_body(target)
        lines = encode_headers(forwarded)
        self._parsing = request = ProxiedRequest(
            self,
            arrived_ns,
            method=method,
            target=target,
            host=values.get(b"host", b""),
            head=b"%s %s HTTP/1.1\r\n%s%s\r\n"
            % (method, target, lines, b"Transfer-Encoding: chunked\r\n" if chunked else b""),
            http_1_1=parser.get_http_version() == "1.1",
            keeps_alive=parser.should_keep_alive() and not parser.should_upgrade(),
            chunked=chunked,
            retriable=method in _RETRIABLE and bodyless,
            body_complete=bodyless,
        )
        self._pipeline.append(request)
        if self._current is None:
            self._advance()
        else:
            self.pause_reading()

    def on_body(self, data: bytes) -> None:
        request = self._parsing
        if request is None or (self._answered and request is self._current):
            return
        request.add_body(data)
        if request.connection is not None:
            request.connection.send_body(request)
        elif self._collecting and request is self._current:
            if request.body_size > _MOST_COLLECTED:
                self._collecting = False
                self.send_error(request, 413, f"the body has more than {_MOST_COLLECTED:,} bytes")
        elif request.body_size >= _MOST_BUFFERED:
            self.pause_reading()

    def on_message_complete(self) -> None:
        request, self._parsing = self._parsing, None
        self._begin_request()
        if request is None:
            return
        was_complete, request.body_complete = request.body_complete, True
        if request is self._current and self._answered:
            self._current = None
            self._advance()
        elif self._collecting and request is self._current:
            self._collecting = False
            self._router.route(request)
        elif request.connection is not None and not was_complete:
            request.connection.send_body(request)

    def _count_head(self, size: int) -> None:
        self._head_size += size
        if self._head_size > _MOST_HEAD:
            self._reject(431, f"the request's head is longer than {_MOST_HEAD:,} bytes")

    # ClientSide

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def complete(self) -> None:
        request = self._current
        if self._transport is None or request is None:
            return
        if not request.keeps_alive or self._closing:
            self._transport.close()
        elif request.body_complete:
            self._current = None
            self._advance()
        else:
            self._answered = True
            self.resume_reading()  # the rest of the body is dropped, but the next request stands behind it

    def send_error(self, request: ProxiedRequest, status: int, reason: str) -> None:
        self.send_response(request, status, f"{reason}\n".encode(), b"text/plain; charset=utf-8")

    def send_response(self, request: ProxiedRequest, status: int, body: bytes, content_type: bytes) -> None:
        if request is not self._current or self._answered:
            return
        phrase = http.HTTPStatus(status).phrase.encode() if status in _STATUSES else b"Error"
        connection = b"" if request.keeps_alive else b"Connection: close\r\n"
        head = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n"
        head %= (status, phrase, content_type, len(body), PLATFORM_HEADER, connection)
        self.send(head if request.method == b"HEAD" else head + body)
        self.complete()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    # The pipeline

    def _advance(self) -> None:
        """Make the next request the current one."""
        self._answered = False
        if self._advancing:
            return  # a response within the loop below
        self._advancing = True
        while self._current is None and self._pipeline and not self._closing:
            self._current = request = self._pipeline.popleft()
            if request.body_complete or not self._router.needs_body(request.target):
                self._router.route(request)
            else:
                self._collecting = True
        self._advancing = False
        if self._closing and self._current is None:
            self.close()
        elif not self._pipeline:
            self.resume_reading()
        if not self._writing:
            self.pause_writing()

    def _reject(self, status: int, reason: str) -> None:
        """End the connection, with an error if no other response is due."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._current is None:
            self._current = ProxiedRequest(self, monotonic_ns(), keeps_alive=False)
            self.send_error(self._current, status, reason)
        else:
            self._transport.abort()
