"""One request on its way through the platform: what the client's side and the instance's side share of it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from workload_generator.base.clock import NS_PER_MS

MARK = b"x-platform: local\r\n"
"""What every response of the platform carries, so that nobody takes it for a cluster."""


class Sink(Protocol):
    """Where the response goes: the client's connection, for as long as the exchange is its current one."""

    keeps_alive: bool
    http_1_1: bool

    def send(self, data: bytes) -> None:
        """Bytes of the response."""

    def answered(self) -> None:
        """The response is whole."""

    def respond(self, exchange: Exchange, status: int, reason: str) -> None:
        """Answer with a status and a reason of the platform's own."""

    def answer(self, exchange: Exchange, status: int, body: bytes, content_type: bytes) -> None:
        """Answer with a body of the platform's own."""

    def reset(self) -> None:
        """End the connection with a TCP reset."""

    def cut(self) -> None:
        """The response cannot become whole: end the connection after what there is of it."""

    def pause(self) -> None:
        """Take no more of the request's body for now."""

    def resume(self) -> None:
        """Take more of it."""


class ServiceSide(Protocol):
    """The service that a request was routed to."""

    def served(self, exchange: Exchange) -> None:
        """The response is complete."""

    def left(self, exchange: Exchange) -> None:
        """The instance will not complete the response."""

    def again(self, exchange: Exchange) -> None:
        """The instance closed the connection before it read the request."""

    def abandoned(self, exchange: Exchange) -> None:
        """The client closed its connection."""


class InstanceSide(Protocol):
    """The connection to the instance, while the request is on it."""

    responding: bool
    """Whether the client has a part of the response."""

    def send_more(self, exchange: Exchange) -> None:
        """Send the part of the body that has arrived since."""

    def pause_reading(self) -> None:
        """Stop reading the response."""

    def resume_reading(self) -> None:
        """Read the response again."""

    def close(self) -> None:
        """Close the connection."""

    def cut(self, exchange: Exchange) -> None:
        """End a partial response in a way that the client detects."""


@dataclass(slots=True, eq=False)
class Exchange:
    """State of one request. Times are monotonic nanoseconds; 0 is "not yet"."""

    sink: Sink
    method: bytes
    head: bytes
    chunked: bool
    retriable: bool
    arrived_ns: int
    body: list[bytes] = field(default_factory=list)
    body_size: int = 0
    body_complete: bool = False
    service: ServiceSide | None = None
    upstream: InstanceSide | None = None
    queue: OrderedDict[Exchange, None] | None = None
    held: bool = False
    """No instance was ready when the request arrived."""
    started_ns: int = 0
    """When an instance became ready after that."""
    sent_ns: int = 0
    retries: int = 0

    def encode(self, data: bytes) -> bytes:
        """A piece of the body as it goes to the instance."""
        return b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data

    def take_body(self) -> bytes:
        """What of the body has come and not gone yet."""
        pieces, self.body, self.body_size = self.body, [], 0
        if self.body_complete and self.chunked:
            pieces.append(b"0\r\n\r\n")
        return b"".join(pieces)

    def timings(self, now_ns: int, instance: bytes) -> bytes:
        """The platform's headers, `instance` among them, when the first byte of the response comes at `now_ns`.

        Queue time and start time add up to how long the request was held; the start time is the part of it during
        which no instance was ready.
        """
        held_ns = self.sent_ns - self.arrived_ns
        start_ns = min(max(self.started_ns - self.arrived_ns, 0), held_ns) if self.held else 0
        return b"%sx-platform-queue-ms: %.3f\r\nx-platform-start-ms: %.3f\r\nx-platform-function-ms: %.3f\r\n%s" % (
            MARK,
            (held_ns - start_ns) / NS_PER_MS,
            start_ns / NS_PER_MS,
            (now_ns - self.sent_ns) / NS_PER_MS,
            instance,
        )
