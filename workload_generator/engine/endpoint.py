"""A target as the engine sends to it: where to connect, and the bytes of its request, encoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workload_generator.cloudevents.encode import EventEncoder

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Origin:
    """Whom a connection leads to. Connections are shared between targets of one origin; `tls` is None for http."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One target, ready to send: always the same `request`, or an event of its own for each arrival."""

    origin: Origin
    method: str
    request: bytes
    events: EventEncoder | None = field(default=None, repr=False)

    @property
    def retriable(self) -> bool:
        """Only GET and HEAD may be repeated on a fresh connection."""
        return self.method in ("GET", "HEAD")
