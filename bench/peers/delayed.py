"""A server that answers after a delay and says who asked: `delayed.py PORT DELAY_MS`.

`x-instance` is `<client port>-<number of the request on its connection>`: by it a log's line finds its packets.
A negative delay never answers.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Delayed(asyncio.Protocol):
    """One connection; requests come one at a time."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._number = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._port = transport.get_extra_info("peername")[1]

    def data_received(self, data: bytes) -> None:
        """Answer later. Heads of a client that sends them whole."""
        if self._delay_s >= 0 and data.endswith(b"\r\n\r\n"):
            body = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Instance: %d-%d\r\n\r\nfalse" % (
                self._port,
                self._number,
            )
            self._number += 1
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.write, body)


async def main(port: int, delay_s: float) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Delayed(delay_s), "127.0.0.1", port, backlog=16384)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))
