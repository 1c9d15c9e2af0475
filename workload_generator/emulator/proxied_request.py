"""One request on its way through the platform, and its response."""

from __future__ import annotations

import asyncio
import http.client
import re

from workload_generator.base.clock import NS_PER_MS
from workload_generator.base.errors import RequestRefused
from workload_generator.emulator.http_stream import Head, HttpStream, StreamEnded, encode_headers, end_to_end

PLATFORM_HEADER = b"x-platform: local\r\n"
"""In every response of the platform, so that nothing mistakes it for a cluster."""

_BODY_S = 30.0  # for a body that the platform itself reads, or drops
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#]*)(.*)", re.DOTALL)


class ProxiedRequest:
    """State of one request. Times are monotonic nanoseconds; 0 is "not yet"."""

    def __init__(self, client: HttpStream, head: Head) -> None:
        headers, values = end_to_end(head.headers)
        self.client = client
        self.method = head.method
        self.target = head.text
        hosts = [text for name, text in head.headers if name.lower() == b"host"]
        self.host = hosts[0] if len(hosts) == 1 else b""  # of two, neither counts (RFC 9112, section 3.2)
        if absolute := _ABSOLUTE.fullmatch(head.text):  # its host counts, not the header's (RFC 9112, section 3.2.2)
            self.host, self.target = absolute[1], absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]
            headers = [(b"Host", self.host), *(each for each in headers if each[0].lower() != b"host")]
        self.headers = headers  # those that are forwarded
        self.authorization = values.get(b"authorization", b"")
        self.http_1_1 = head.http_1_1
        self.keeps_alive = head.keeps_alive  # whether the client's connection stays open after the response
        self.chunked = b"transfer-encoding" in values
        self.bodyless = not self.chunked and values.get(b"content-length", b"0") == b"0"
        self.arrived_ns = head.arrived_ns
        self.held = False  # no instance was ready when the request arrived
        self.ready_ns = 0  # when an instance became ready after that
        self.sent_ns = 0
        self.retries = 0
        self.framing = b""
        """How the client learns the end of the response: `length`, `chunks` or `close`; empty before its head."""
        self._expects_continue = values.get(b"expect", b"").lower() == b"100-continue" and self.http_1_1
        self._complete = False  # the whole body was read

    @property
    def head(self) -> bytes:
        """Request line and headers as they go to the instance."""
        framing = b"Transfer-Encoding: chunked\r\n" if self.chunked else b""
        return b"%s %s HTTP/1.1\r\n%s%s\r\n" % (self.method, self.target, encode_headers(self.headers), framing)

    async def piece(self) -> bytes:
        """The next piece of the body; empty at its end. Raises StreamEnded."""
        if not self._complete:
            event = await self.client.next()
            if isinstance(event, bytes):
                return event
            self._complete = True
        return b""

    async def body(self, most: int) -> bytes:
        """The whole body, of at most that many bytes. Raises RequestRefused, StreamEnded."""
        if self._expects_continue:
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_S):
                while piece := await self.piece():
                    body += piece
                    if len(body) > most:
                        raise RequestRefused(413, f"the body has more than {most:,} bytes")
        except TimeoutError:
            self.keeps_alive = False
            raise RequestRefused(408, f"no complete body within {_BODY_S:g} s") from None
        return bytes(body)

    async def drop_body(self) -> None:
        """Read the rest of the body. Raises StreamEnded, also after some time."""
        if self.bodyless:
            await self.piece()  # its end has come with the head
            return
        try:
            async with asyncio.timeout(_BODY_S):
                while await self.piece():
                    pass
        except TimeoutError:
            raise StreamEnded("no complete body") from None

    def respond(self, status: int, body: bytes, content_type: bytes) -> None:
        """Send a response of the platform's own."""
        self.framing = b"length"
        phrase = http.client.responses.get(status, "Error").encode()
        connection = b"" if self.keeps_alive else b"Connection: close\r\n"
        head = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n"
        head %= (status, phrase, content_type, len(body), PLATFORM_HEADER, connection)
        self.client.write(head if self.method == b"HEAD" else head + body)

    def refuse(self, status: int, reason: str) -> None:
        """Respond with an error, or break off the response in a way that the client detects."""
        if not self.framing:
            self.respond(status, f"{reason}\n".encode(), b"text/plain; charset=utf-8")
        elif self.framing == b"close":  # a normal end of the connection would be the end of the body
            self.client.abort(reset=True)
        else:
            self.client.close()

    def timings(self, now_ns: int) -> bytes:
        """The platform's headers for a response whose first byte arrived at `now_ns`.

        Queue time and start time add up to the time for which the request was held. During the start time no instance
        was ready.
        """
        held_ns = self.sent_ns - self.arrived_ns
        start_ns = min(max(self.ready_ns - self.arrived_ns, 0), held_ns) if self.held else 0
        return b"%sx-platform-queue-ms: %.3f\r\nx-platform-start-ms: %.3f\r\nx-platform-function-ms: %.3f\r\n" % (
            PLATFORM_HEADER,
            (held_ns - start_ns) / NS_PER_MS,
            start_ns / NS_PER_MS,
            (now_ns - self.sent_ns) / NS_PER_MS,
        )
