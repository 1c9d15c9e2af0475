"""A connection to an instance: sends one request after the other, and passes each response on as it arrives.

Rules:
- bytes of a response go to the client in the call that read them; nothing beyond one read is buffered
- back-pressure goes both ways: a side that cannot write pauses reading on the other one
- the function's headers are forwarded as they are, except those of one connection (RFC 9110, section 7.6.1)
"""

from __future__ import annotations

import contextlib
from typing import Protocol

import httptools

from workload_generator.base.clock import monotonic_ns
from workload_generator.emulator.proxied_request import (
    Header,
    ProxiedRequest,
    ProxyConnection,
    encode_headers,
    end_to_end,
)

_NO_BODY = (204, 304)


class Backend(Protocol):
    """The instance at the other end of a connection."""

    name: str
    header: bytes
    idle: list[InstanceConnection]

    def on_first_byte(self, now_ns: int) -> None:
        """The first byte of a response arrived."""


class InstanceConnection(ProxyConnection):
    """State of one connection; it carries one request at a time."""

    def __init__(self, instance: Backend) -> None:
        self.responding = False
        self.idle_since_ns = 0
        self._instance = instance
        self._used = False
        self._writing = True
        self._parser = httptools.HttpResponseParser(self)
        self._request: ProxiedRequest | None = None
        self._out: list[bytes] = []
        self._begin_response()

    def _begin_response(self) -> None:
        self._headers: list[Header] = []
        self._reason = b""
        self._any_byte = False
        self.responding = False
        self._framing = b""  # how the client learns the body's end: b"length", b"chunks", b"close" or b"none"
        self._until_close = False
        self._complete = False
        self._keep = False

    def send(self, request: ProxiedRequest) -> None:
        """Send the request, with the part of its body that has arrived."""
        assert self._transport is not None
        self._request = request
        request.connection = self
        request.sent_ns = monotonic_ns()
        body = request.take_body() if request.body or request.chunked else b""
        self._transport.write(request.head + body)
        if not request.body_complete and self._writing:
            request.client.resume_reading()

    # InstanceSide

    def send_body(self, request: ProxiedRequest) -> None:
        if self._transport is not None and not self._complete:
            self._transport.write(request.take_body())

    def close(self) -> None:
        self._request = None
        if self._transport is not None:
            self._transport.abort()

    def abort_response(self, request: ProxiedRequest) -> None:
        if self._framing == b"close":
            request.client.reset()  # a normal end of the connection would be the end of the body
        else:
            request.client.close()

    # asyncio.Protocol

    def pause_writing(self) -> None:
        self._writing = False
        if self._request is not None:
            self._request.client.pause_reading()

    def resume_writing(self) -> None:
        self._writing = True
        if self._request is not None:
            self._request.client.resume_reading()

    def data_received(self, data: bytes) -> None:
        request = self._request
        if request is None:  # bytes without a request
            self.close()
            return
        self._any_byte = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("the function switched protocols, which the platform does not support")
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                self._fail(f"the function's response is not HTTP: {error}")
                return
            self._keep = False
        self._flush(request)
        if self._complete:
            self._finish(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        with contextlib.suppress(ValueError):
            self._instance.idle.remove(self)
        request = self._request
        if request is None:
            return
        if self._until_close and error is None:
            self._end_body()
            self._flush(request)
            self._finish(request)
        elif not self._any_byte and self._used and request.retriable and not request.retries:
            self._request = None
            request.retries += 1
            request.connection = None
            assert request.service is not None
            request.service.on_not_sent(request)
        else:
            why = f": {error}" if error is not None else ""
            self._fail(f"instance {self._instance.name} closed the connection before its response was complete{why}")

    # httptools

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        request, status = self._request, self._parser.get_status_code()
        assert request is not None
        if self._complete:  # a second response to one request
            self._keep = False
            return
        headers, self._headers = self._headers, []
        status_line = b"HTTP/1.1 %d %s\r\n" % (status, self._reason)
        self._reason = b""
        if status < 200:  # an interim response: the final one follows
            if request.http_1_1:
                self._out.append(b"%s%s\r\n" % (status_line, encode_headers(headers)))
            return
        self.responding = True
        now_ns = monotonic_ns()
        self._instance.on_first_byte(now_ns)
        forwarded, values = end_to_end(headers)
        added = self._frame(request, status, values)
        self._out += [
            status_line,
            encode_headers(forwarded),
            request.timings(now_ns),
            self._instance.header,
            added,
            b"\r\n",
        ]
        if request.method == b"HEAD":  # the parser would wait for the body that the headers announce
            self._parser = httptools.HttpResponseParser(self)
            self._complete = True

    def _frame(self, request: ProxiedRequest, status: int, values: dict[bytes, bytes]) -> bytes:
        """Decide how the client learns the body's end. Returns the header lines for it."""
        bodyless = request.method == b"HEAD" or status in _NO_BODY
        length = b"content-length" in values
        chunked = b"chunked" in values.get(b"transfer-encoding", b"").lower()
        self._until_close = not (bodyless or length or chunked)
        self._keep = self._parser.should_keep_alive() and not self._until_close
        added = b""
        if bodyless or length:
            self._framing = b"none" if bodyless else b"length"
        elif request.http_1_1:
            self._framing = b"chunks"
            added = b"Transfer-Encoding: chunked\r\n"
        else:
            self._framing = b"close"
            request.keeps_alive = False
        if not request.keeps_alive:
            added += b"Connection: close\r\n"
        elif not request.http_1_1:
            added += b"Connection: keep-alive\r\n"
        return added

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
            self._out.append(b"0\r\n%s\r\n" % encode_headers(self._headers))

    def _flush(self, request: ProxiedRequest) -> None:
        if self._out:
            out, self._out = self._out, []
            request.client.send(b"".join(out))

    def _finish(self, request: ProxiedRequest) -> None:
        keep = self._keep and request.body_complete and not request.body
        self._request = None
        request.connection = None
        self._used = True
        self._begin_response()
        if keep:
            self.idle_since_ns = monotonic_ns()
            self._instance.idle.append(self)
        else:
            self.close()
        assert request.service is not None
        request.service.on_answered(request)
        request.client.complete()

    def _fail(self, reason: str) -> None:
        """The response cannot be completed."""
        request = self._request
        assert request is not None and request.service is not None
        request.connection = None
        self.close()
        request.service.on_failed(request)
        if self.responding:
            self.abort_response(request)
        else:
            request.client.send_error(request, 502, reason)
