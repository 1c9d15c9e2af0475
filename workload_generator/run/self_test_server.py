"""The self-test's own server: answers at once, and can say when it did. `loopback LISTENING_FD`.

`/` answers `false`. `/stamp` names the moment of its answer (monotonic nanoseconds) in `x-instance`, which the log
keeps: both processes read the same clock.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import cast

import uvloop

from workload_generator.base.clock import monotonic_ns

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nfalse"
_STAMPED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Instance: %d\r\n\r\nfalse"


class _Answers(asyncio.Protocol):
    """One connection. Requests have no body and come one at a time, since they are ours."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer when the head is whole."""
        received = self._received + data
        if not received.endswith(b"\r\n\r\n"):
            self._received = received
            return
        self._received = b""
        stamped = received.startswith(b"GET /stamp ")
        self._transport.write(_STAMPED % monotonic_ns() if stamped else _PLAIN)


async def _serve(listening: socket.socket) -> None:
    server = await asyncio.get_running_loop().create_server(_Answers, sock=listening)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(socket.socket(fileno=int(sys.argv[1]))))
