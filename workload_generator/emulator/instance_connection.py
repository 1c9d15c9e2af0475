"""A connection to an instance: sends one request after the other, and passes each response on as it arrives.

Rules:
- back-pressure goes both ways: a side that cannot write pauses reading on the other one
- the function's headers are forwarded as they are, except those of one connection (RFC 9110, section 7.6.1)
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import RequestRefused
from workload_generator.emulator.http_stream import Event, Head, HttpStream, StreamEnded, encode_headers, end_to_end
from workload_generator.emulator.proxied_request import ProxiedRequest

_NO_BODY = (204, 304)
_RETRIABLE = (b"GET", b"HEAD")
_IDLE_NS = 4 * NS_PER_S  # Node.js and uvicorn close idle connections after 5 s: do not send into that


class NotSent(Exception):
    """The instance closed the connection before it read the request, which can be sent again."""


class InstanceConnection(HttpStream):
    """State of one connection; it carries one request at a time."""

    def __init__(self, instance: str, on_first_byte: Callable[[int], None]) -> None:
        """`on_first_byte` gets the time of each response's head, in monotonic nanoseconds."""
        super().__init__()
        self.reusable = False
        self._idle_since_ns = 0  # 0 before the first response
        self._instance = instance
        self._on_first_byte = on_first_byte

    @property
    def usable(self) -> bool:
        """Whether the function has not closed it, and is not about to."""
        return self.fresh and monotonic_ns() - self._idle_since_ns < _IDLE_NS

    async def forward(self, request: ProxiedRequest) -> None:
        """Send the request, and its response to the client. Raises NotSent, or RequestRefused when it breaks off."""
        self.reusable = self.received = False
        request.sent_ns = monotonic_ns()
        self.write(request.head)
        sending = None if request.bodyless else asyncio.create_task(self._send_body(request))
        try:
            head = await self._receive(request)
            self.reusable = head.keeps_alive and self.fresh and (sending is None or sending.done())
            self._idle_since_ns = monotonic_ns()
        except StreamEnded as ended:
            if ended.status:
                raise RequestRefused(502, f"the function's response is not HTTP: {ended}") from None
            retriable = request.method in _RETRIABLE and request.bodyless and not request.retries
            if retriable and self._idle_since_ns and not self.received:
                raise NotSent from None
            why = f": {ended}" if str(ended) else ""
            reason = f"instance {self._instance} closed the connection before its response was complete{why}"
            raise RequestRefused(502, reason) from None
        finally:
            if sending is not None:
                sending.cancel()

    async def _send_body(self, request: ProxiedRequest) -> None:
        try:
            while piece := await request.piece():
                self.write(_chunk(piece) if request.chunked else piece)
                await self.drain()
        except StreamEnded:
            request.client.abort()
        else:
            if request.chunked:
                self.write(b"0\r\n\r\n")

    async def _receive(self, request: ProxiedRequest) -> Head:
        client = request.client
        while isinstance(head := await self.next(), Head) and head.status < 200:  # interim: the final one follows
            if head.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise RequestRefused(502, "the function switched protocols, which the platform does not support")
            await self.next()  # the end of its message
            if request.http_1_1:
                client.write(_status_line(head) + encode_headers(head.headers) + b"\r\n")
        assert isinstance(head, Head)
        self._on_first_byte(head.arrived_ns)
        until_close = self._send_head(request, head)
        if request.method == b"HEAD":  # the parser would wait for the body that the headers announce
            self.expect_message()
            return head
        chunks = request.framing == b"chunks"
        event: Event
        try:
            while isinstance(event := await self.next(), bytes):
                client.write(_chunk(event) if chunks else event)
                await client.drain()
        except StreamEnded as ended:
            if not until_close or ended.status or str(ended):
                raise
            event = []
        if chunks and isinstance(event, list):
            client.write(b"0\r\n%s\r\n" % encode_headers(event))
        return head

    def _send_head(self, request: ProxiedRequest, head: Head) -> bool:
        """Send the response's head to the client. Whether its body ends with the instance's connection."""
        forwarded, values = end_to_end(head.headers)
        bodyless = request.method == b"HEAD" or head.status in _NO_BODY
        length = b"content-length" in values
        chunked = b"chunked" in values.get(b"transfer-encoding", b"").lower()
        added = b""
        if bodyless or length:
            request.framing = b"length"
        elif request.http_1_1:
            request.framing = b"chunks"
            added = b"Transfer-Encoding: chunked\r\n"
        else:
            request.framing = b"close"
            request.keeps_alive = False
        if not request.keeps_alive:
            added += b"Connection: close\r\n"
        elif not request.http_1_1:
            added += b"Connection: keep-alive\r\n"
        lines = (
            _status_line(head),
            encode_headers(forwarded),
            request.timings(head.arrived_ns),
            b"x-platform-instance: %s\r\n" % self._instance.encode(),
            added,
            b"\r\n",
        )
        request.client.write(b"".join(lines))
        return not (bodyless or length or chunked)


def _status_line(head: Head) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (head.status, head.text)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)
