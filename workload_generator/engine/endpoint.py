"""A target as the engine sees it: the address to connect to, and the encoded request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workload_generator.cloudevents.encode import EventEncoder

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Origin:
    """The other end of a connection. Targets of one origin share connections; `tls` is None for http."""

    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One target with its request: the bytes of `request`, or a new event for each arrival."""

    origin: Origin
    method: str
    request: bytes
    events: EventEncoder | None = field(default=None, repr=False)

    @property
    def retriable(self) -> bool:
        """Whether the request may be repeated on a fresh connection: GET and HEAD only."""
        return self.method in ("GET", "HEAD")
