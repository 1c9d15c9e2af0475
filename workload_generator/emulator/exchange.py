"""One request on its way through the platform: what the client's side and the instance's side share of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from workload_generator.base.clock import NS_PER_MS

if TYPE_CHECKING:
    from workload_generator.emulator.instance import Instance
    from workload_generator.emulator.service import Service
    from workload_generator.emulator.upstream import Upstream

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


class Exchange:
    """State of one request. Readings are monotonic nanoseconds; 0 was not reached."""

    __slots__ = (
        "arrived_ns",
        "body",
        "body_complete",
        "body_size",
        "chunked",
        "head",
        "held",
        "instance",
        "method",
        "queue",
        "retries",
        "retriable",
        "sent_ns",
        "service",
        "sink",
        "started_ns",
        "upstream",
    )

    def __init__(self, sink: Sink, method: bytes, head: bytes, chunked: bool, retriable: bool, arrived_ns: int) -> None:
        self.sink = sink
        self.method = method
        self.head = head
        self.chunked = chunked
        self.retriable = retriable
        self.arrived_ns = arrived_ns
        self.body: list[bytes] = []
        self.body_size = 0
        self.body_complete = False
        self.service: Service | None = None
        self.instance: Instance | None = None
        self.upstream: Upstream | None = None
        self.queue: OrderedDict[Exchange, None] | None = None
        self.held = False  # there was no instance to answer it when it came
        self.started_ns = 0  # when there was one, after that
        self.sent_ns = 0
        self.retries = 0

    def encode(self, data: bytes) -> bytes:
        """A piece of the body as it goes to the instance."""
        return b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data

    def take_body(self) -> bytes:
        """What of the body has come and not gone yet."""
        pieces, self.body, self.body_size = self.body, [], 0
        if self.body_complete and self.chunked:
            pieces.append(b"0\r\n\r\n")
        return b"".join(pieces)

    def timings(self, now_ns: int) -> bytes:
        """The platform's headers, when the first byte of the response comes at `now_ns`.

        Queue time and start time add up to how long the request was held; the start time is the part of it during
        which no instance was ready.
        """
        assert self.instance is not None
        held_ns = self.sent_ns - self.arrived_ns
        start_ns = min(max(self.started_ns - self.arrived_ns, 0), held_ns) if self.held else 0
        return b"%sx-platform-queue-ms: %.3f\r\nx-platform-start-ms: %.3f\r\nx-platform-function-ms: %.3f\r\n%s" % (
            MARK,
            (held_ns - start_ns) / NS_PER_MS,
            start_ns / NS_PER_MS,
            (now_ns - self.sent_ns) / NS_PER_MS,
            self.instance.header,
        )
