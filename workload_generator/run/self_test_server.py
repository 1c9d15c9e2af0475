"""The server of the self-test, on an inherited socket: `python -m … LISTENING_FD`.

`/` responds `false`. `/stamp` adds the time of its response (monotonic nanoseconds) as `x-instance`, which the log has:
both processes read the same clock.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast

import uvloop

from workload_generator.base.clock import monotonic_ns
from workload_generator.base.listening import BACKLOG

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nfalse"
_STAMPED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Instance: %d\r\n\r\nfalse"


class _Answers(asyncio.Protocol):
    """One connection. The requests of the self-test have no body and come one at a time."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Respond when the head is complete."""
        received = self._received + data
        if not received.endswith(b"\r\n\r\n"):
            self._received = received
            return
        self._received = b""
        stamped = received.startswith(b"GET /stamp ")
        self._transport.write(_STAMPED % monotonic_ns() if stamped else _PLAIN)


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Answers, sock=listening, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
