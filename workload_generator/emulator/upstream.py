"""A connection to an instance: sends one request after the other and passes each response on as it comes.

Rules:
- bytes of a response go to the client in the call that read them; nothing is collected but what one read brought
- who cannot take more pauses the other: the client the instance's connection, the instance the client's
- the function's own headers stay as they are; only what belongs to one connection (RFC 9110, section 7.6.1) is ours
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol, cast

import httptools

from workload_generator.base.clock import monotonic_ns
from workload_generator.emulator.exchange import Exchange

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"trailer"}
)
"""Headers of one connection, which a proxy does not pass on."""

_NO_BODY = (204, 304)


class Backend(Protocol):
    """The instance at the other end of a connection."""

    name: str
    header: bytes
    idle: list[Upstream]

    def first_byte(self, now_ns: int) -> None:
        """The first byte of a response arrived."""


class Upstream(asyncio.Protocol):
    """State of one connection; an exchange at a time."""

    def __init__(self, instance: Backend) -> None:
        self.instance = instance
        self.responding = False
        self.used = False
        self.idle_since_ns = 0
        self.paused = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._out: list[bytes] = []
        self._reset()

    def _reset(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._any_byte = False
        self.responding = False
        self._framing = b""  # how the body's end is told to the client: b"length", b"chunks", b"close" or b"none"
        self._until_close = False
        self._complete = False
        self._keep = False

    def send(self, exchange: Exchange) -> None:
        """Send the request, as far as it has come."""
        assert self._transport is not None
        self._exchange = exchange
        exchange.upstream = self
        exchange.sent_ns = monotonic_ns()
        body = exchange.take_body() if exchange.body or exchange.chunked else b""
        self._transport.write(exchange.head + body)
        if not exchange.body_complete and not self.paused:
            exchange.sink.resume()

    def send_more(self, exchange: Exchange) -> None:
        """Send what has come of the body since."""
        if self._transport is not None and not self._complete:
            self._transport.write(exchange.take_body())

    def pause_reading(self) -> None:
        """The client cannot take more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """The client can again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """End the connection; its exchange, if it has one, is none of its business any more."""
        self._exchange = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def pause_writing(self) -> None:
        self.paused = True
        if self._exchange is not None:
            self._exchange.sink.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._exchange is not None:
            self._exchange.sink.resume()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._retire()  # it speaks without being asked
            return
        self._any_byte = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("the function switches protocols, which the platform does not")
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                self._break(f"the function answers with something else than HTTP: {error}")
                return
            self._keep = False
        if self._out:
            out, self._out = self._out, []
            exchange.sink.send(out[0] if len(out) == 1 else b"".join(out))
        if self._complete:
            self._finish(exchange)

    def eof_received(self) -> None:
        """Nothing more comes: the transport closes, and `connection_lost` follows."""

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        with contextlib.suppress(ValueError):
            self.instance.idle.remove(self)
        exchange = self._exchange
        if exchange is None:
            return
        if self._until_close and error is None:
            self._end_body()
            if self._out:
                exchange.sink.send(b"".join(self._out))
            self._finish(exchange)
            return
        why = f": {error}" if error is not None else ""
        if not self._any_byte and self.used and exchange.retriable and not exchange.retries:
            self._exchange = None
            exchange.retries += 1
            exchange.upstream = None
            assert exchange.service is not None
            exchange.service.again(exchange)
            return
        self._break(f"instance {self.instance.name} ended the connection before its response was whole{why}")

    # httptools

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange, status = self._exchange, self._parser.get_status_code()
        assert exchange is not None
        if self._complete:  # more than one answer to one request
            self._keep = False
            return
        headers, self._headers = self._headers, []
        reason, self._reason = self._reason, b""
        if status < 200:  # an interim response: the real one follows
            if exchange.sink.http_1_1:
                fields = b"".join(b"%s: %s\r\n" % header for header in headers)
                self._out.append(b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, reason, fields))
            return
        self.responding = True
        now_ns = monotonic_ns()
        self.instance.first_byte(now_ns)
        named = self._named_by_connection(headers)
        length = chunked = False
        lines = [b"HTTP/1.1 %d %s\r\n" % (status, reason)]
        for name, value in headers:
            lower = name.lower()
            if lower in HOP_BY_HOP or lower in named:
                chunked = chunked or (lower == b"transfer-encoding" and b"chunked" in value.lower())
                continue
            length = length or lower == b"content-length"
            lines.append(b"%s: %s\r\n" % (name, value))
        lines.append(exchange.timings(now_ns, self.instance.header))
        bodyless = exchange.method == b"HEAD" or status in _NO_BODY
        self._until_close = not (bodyless or length or chunked)
        self._keep = self._parser.should_keep_alive() and not self._until_close
        if bodyless or length:
            self._framing = b"none" if bodyless else b"length"
        elif exchange.sink.http_1_1:
            self._framing = b"chunks"
            lines.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self._framing = b"close"
            exchange.sink.keeps_alive = False
        if not exchange.sink.keeps_alive:
            lines.append(b"Connection: close\r\n")
        elif not exchange.sink.http_1_1:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._out.append(b"".join(lines))
        if exchange.method == b"HEAD":  # the parser would wait for the body that the headers announce
            self._parser = httptools.HttpResponseParser(self)
            self._complete = True

    def on_body(self, data: bytes) -> None:
        if self._complete:
            return
        if self._framing == b"chunks":
            self._out.append(b"%x\r\n%s\r\n" % (len(data), data))
        elif self._framing != b"none":
            self._out.append(data)

    def on_message_complete(self) -> None:
        if self.responding and not self._complete and not self._until_close:
            self._end_body()
            self._complete = True

    # The end of a response

    def _end_body(self) -> None:
        if self._framing == b"chunks":
            trailers = b"".join(b"%s: %s\r\n" % header for header in self._headers)
            self._out.append(b"0\r\n%s\r\n" % trailers)

    def _finish(self, exchange: Exchange) -> None:
        keep = self._keep and exchange.body_complete and not exchange.body
        self._exchange = None
        exchange.upstream = None
        self.used = True
        self._reset()
        if keep:
            self.idle_since_ns = monotonic_ns()
            self.instance.idle.append(self)
        else:
            self._retire()
        assert exchange.service is not None
        exchange.service.served(exchange)
        exchange.sink.answered()

    def _break(self, reason: str) -> None:
        """The response cannot become whole."""
        exchange, self._exchange = self._exchange, None
        assert exchange is not None and exchange.service is not None
        exchange.upstream = None
        self._retire()
        exchange.service.left(exchange)
        if self.responding:
            self.cut(exchange)
        else:
            exchange.sink.respond(exchange, 502, reason)

    def cut(self, exchange: Exchange) -> None:
        """End a response that has begun so that the client sees that it is not whole."""
        if self._framing == b"close":
            exchange.sink.reset()  # there the end of the connection would be the end of the body
        else:
            exchange.sink.cut()

    def _retire(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @staticmethod
    def _named_by_connection(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
        named = [value for name, value in headers if name.lower() == b"connection"]
        return frozenset(word.strip().lower() for value in named for word in value.split(b","))
