"""One request on its way through the platform, and its response."""

from __future__ import annotations

import http.client

from workload_generator.base.clock import NS_PER_MS
from workload_generator.base.errors import RequestRefused
from workload_generator.emulator.http_stream import Head, HttpStream, encode_headers, end_to_end

PLATFORM_HEADER = b"x-platform: local\r\n"
"""In every response of the platform, so that nothing mistakes it for a cluster."""

_MOST_COLLECTED = 4 * 1024 * 1024  # of a body that the platform itself reads


class ProxiedRequest:
    """State of one request. Times are monotonic nanoseconds; 0 is "not yet"."""

    def __init__(self, client: HttpStream, head: Head) -> None:
        headers, values = end_to_end(head.headers)
        self.client = client
        self.method = head.method
        self.target = head.text
        self.host = values.get(b"host", b"")
        self.headers = headers  # those that are forwarded
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

    async def body(self) -> bytes:
        """The whole body. Raises RequestRefused, StreamEnded."""
        body = bytearray()
        while piece := await self.piece():
            body += piece
            if len(body) > _MOST_COLLECTED:
                raise RequestRefused(413, f"the body has more than {_MOST_COLLECTED:,} bytes")
        return bytes(body)

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
