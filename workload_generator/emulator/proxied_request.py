"""One request on its way through the platform, and how its client, its service and its instance see each other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol, cast

from workload_generator.base.clock import NS_PER_MS

PLATFORM_HEADER = b"x-platform: local\r\n"
"""In every response of the platform, so that nothing mistakes it for a cluster."""

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"trailer"}
)

Header = tuple[bytes, bytes]


class ClientSide(Protocol):
    """The client's connection, for as long as the request is its current one."""

    def send(self, data: bytes) -> None:
        """Send a part of the response."""

    def complete(self) -> None:
        """The response is complete."""

    def send_error(self, request: ProxiedRequest, status: int, reason: str) -> None:
        """Respond with an error of the platform's own."""

    def send_response(self, request: ProxiedRequest, status: int, body: bytes, content_type: bytes) -> None:
        """Respond with a body of the platform's own."""

    def reset(self) -> None:
        """End the connection with a TCP reset."""

    def close(self) -> None:
        """End the connection after the bytes that were sent."""

    def pause_reading(self) -> None:
        """Stop reading the request's body."""

    def resume_reading(self) -> None:
        """Read the request's body again."""


class ServiceSide(Protocol):
    """The service that a request was routed to."""

    def on_answered(self, request: ProxiedRequest) -> None:
        """The response is complete."""

    def on_failed(self, request: ProxiedRequest) -> None:
        """The instance will not complete the response."""

    def on_not_sent(self, request: ProxiedRequest) -> None:
        """The instance closed the connection before it read the request."""

    def on_abandoned(self, request: ProxiedRequest) -> None:
        """The client closed its connection."""


class InstanceSide(Protocol):
    """The connection to an instance, while the request is on it."""

    responding: bool
    """Whether the client has a part of the response."""

    def send_body(self, request: ProxiedRequest) -> None:
        """Send the part of the body that has arrived since."""

    def pause_reading(self) -> None:
        """Stop reading the response."""

    def resume_reading(self) -> None:
        """Read the response again."""

    def close(self) -> None:
        """Close the connection."""

    def abort_response(self, request: ProxiedRequest) -> None:
        """End a partial response in a way that the client detects."""


@dataclass(slots=True, eq=False)
class ProxiedRequest:
    """State of one request. Times are monotonic nanoseconds; 0 is "not yet"."""

    client: ClientSide
    arrived_ns: int
    method: bytes = b""
    target: bytes = b""
    host: bytes = b""
    head: bytes = b""
    """Request line and headers as they go to the instance."""
    http_1_1: bool = True
    keeps_alive: bool = True
    """Whether the client's connection stays open after the response."""
    chunked: bool = False
    """Whether the body goes to the instance in chunks."""
    retriable: bool = False
    body_complete: bool = True
    body: list[bytes] = field(default_factory=list)
    """The part of the body that has arrived and is not sent yet."""
    body_size: int = 0
    service: ServiceSide | None = None
    connection: InstanceSide | None = None
    queue: OrderedDict[ProxiedRequest, None] | None = None
    held: bool = False
    """Whether no instance was ready when the request arrived."""
    ready_ns: int = 0
    """When an instance became ready after that."""
    sent_ns: int = 0
    retries: int = 0

    def add_body(self, data: bytes) -> None:
        """Keep a piece of the body until `take_body`."""
        self.body.append(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)
        self.body_size += len(data)

    def take_body(self) -> bytes:
        """The part of the body that has arrived since the last call."""
        pieces, self.body, self.body_size = self.body, [], 0
        if self.body_complete and self.chunked:
            pieces.append(b"0\r\n\r\n")
        return b"".join(pieces)

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


class ProxyConnection(asyncio.Protocol):
    """A connection of the proxy, to a client or to an instance. Its transport is gone once the connection is lost."""

    _transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not of this class

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()


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
