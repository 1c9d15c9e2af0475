"""One end of an HTTP connection of the proxy: parsed messages in, bytes out, with back-pressure both ways.

Rules:
- at most `_MOST_BUFFERED` bytes and one read are buffered; then nothing is read until they are taken
- what arrived before the end of the connection, or before bytes that are not HTTP, is still given; bytes after that are
  dropped
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Any, NamedTuple

import httptools

from workload_generator.base.clock import monotonic_ns

Header = tuple[bytes, bytes]

_MOST_BUFFERED = 65536
_MOST_HEAD = 65536
_HEAD_S = 10  # for a whole head
_CLOSED_BY_PEER = (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT (include/net/tcp_states.h)
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"trailer"}
)


class StreamEnded(Exception):
    """Nothing more can be read: the connection has ended (`status` is 0), or its bytes are not HTTP."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


class Head(NamedTuple):
    """The head of a request, or that of a response, whose `text` is the reason instead of the target."""

    arrived_ns: int
    method: bytes
    text: bytes
    status: int
    headers: list[Header]
    http_1_1: bool
    keeps_alive: bool


Event = Head | bytes | list[Header]
"""A head, a piece of its body, and the trailers at its end."""


class HttpStream(asyncio.Protocol):
    """State of one connection, from which `next` reads requests or responses."""

    _requests = False

    def __init__(self) -> None:
        self.received = False
        """Whether a byte has arrived since this was set to false."""
        self._transport: Any = None  # uvloop's is not an asyncio.Transport
        self._events: deque[Event] = deque()
        self._buffered = self._unfinished = 0  # bytes: not taken, and of a head that is not complete
        self._ended: StreamEnded | None = None
        self._arrived, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()
        self.expect_message()

    def expect_message(self) -> None:
        """Read a new message, also where the body of the last one is missing, as after HEAD."""
        self._parser: Any = (httptools.HttpRequestParser if self._requests else httptools.HttpResponseParser)(self)
        self._in_head, self._head_s = False, 0

    @property
    def _open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def fresh(self) -> bool:
        """Whether the connection is open, and nothing more has arrived on it."""
        return self._ended is None and not self._events

    async def next(self) -> Event:
        """The next event. Raises StreamEnded."""
        while not self._events:
            if self._ended is not None:
                raise self._ended
            self._buffered = 0
            if self._open:
                self._transport.resume_reading()
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    def write(self, data: bytes) -> None:
        """Send the bytes, unless the connection is closed."""
        if self._open:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the peer has read enough of what was written."""
        await self._writable.wait()

    def write_eof(self) -> None:
        """Write no more; reading continues."""
        if self._open:
            self._transport.write_eof()

    def close(self) -> None:
        """End the connection after the bytes that were written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, *, reset: bool = False) -> None:
        """End the connection at once, with a TCP reset if asked for."""
        if self._transport is not None:
            if reset:
                sock = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def check(self) -> None:
        """Detect a peer that is gone or does not end a head. To be called every second."""
        if not self._open:
            return
        if self._transport.is_reading():
            self._head_s += self._in_head
            if self._head_s > _HEAD_S:
                self._end(f"no complete head within {_HEAD_S} s", 408)
        else:  # only the kernel knows
            sock = self._transport.get_extra_info("socket")
            if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED_BY_PEER:
                self._transport.abort()

    def _check_head(self, size: int) -> None:
        if size > _MOST_HEAD:
            self._end(f"the head is longer than {_MOST_HEAD:,} bytes", 431)

    def _end(self, reason: str, status: int = 0) -> None:
        if self._ended is None:
            self._ended = StreamEnded(reason, status)
        self._arrived.set()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.received = True
        if self._ended is None:
            self._buffered += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade:
                self._end("it switched protocols, which the platform does not support", 400)
            except httptools.HttpParserError as error:
                self._end(str(error), 400)
            self._unfinished = self._unfinished + len(data) if self._in_head else 0
            self._check_head(self._unfinished)
        if self._open and self._ended is None and self._buffered >= _MOST_BUFFERED:
            self._transport.pause_reading()
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end("" if error is None else str(error))
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # httptools

    def _add(self, event: Event) -> None:
        if self._ended is None:
            self._events.append(event)

    def on_message_begin(self) -> None:
        self._in_head, self._head_s, self._text, self._headers = True, 0, b"", list[Header]()

    def on_url(self, text: bytes) -> None:
        self._text += text

    on_status = on_url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser, headers, version = self._parser, self._headers, self._parser.get_http_version()
        self._check_head(len(self._text) + sum([len(name) + len(value) for name, value in headers]))
        keeps_alive = parser.should_keep_alive() and not parser.should_upgrade()
        method, status = (parser.get_method(), 0) if self._requests else (b"", parser.get_status_code())
        self._add(Head(monotonic_ns(), method, self._text, status, headers, version == "1.1", keeps_alive))
        self._in_head, self._headers = False, []

    def on_body(self, data: bytes) -> None:
        self._add(data)

    def on_message_complete(self) -> None:
        self._add(self._headers)


def end_to_end(headers: list[Header]) -> tuple[list[Header], dict[bytes, bytes]]:
    """The headers that a proxy forwards, all but those of one connection (RFC 9110, section 7.6.1).

    Also the values of all headers by lower-case name, except those that the header Connection names.
    """
    values = {name.lower(): value for name, value in headers}
    named: set[bytes] = set()
    if b"connection" in values:
        lists = [value for name, value in headers if name.lower() == b"connection"]
        named = {word.strip().lower() for value in lists for word in value.split(b",")} - _HOP_BY_HOP
        values = {name: value for name, value in values.items() if name not in named}
    return [each for each in headers if (name := each[0].lower()) not in _HOP_BY_HOP and name not in named], values


def encode_headers(headers: list[Header]) -> bytes:
    """Header lines."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])
