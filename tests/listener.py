"""A server's socket on loopback that knows every connection, so that each one is closed where it was made.

asyncio's own server forgets those that it has accepted and not yet connected: at its end they are left to the garbage
collector, whose warning fails whichever test runs at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

Factory = Callable[[], asyncio.BaseProtocol]


class Listener:
    """Accepts connections from its making until `close`, in the running loop."""

    def __init__(self, sock: socket.socket, factory: Factory) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._factory = factory
        self._connections: list[asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]] = []
        sock.listen(4096)
        sock.setblocking(False)
        self._loop.add_reader(sock, self._accept)
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # the client has gone
            accepted = self._socket.accept()[0]
            connecting = self._loop.connect_accepted_socket(self._factory, accepted)
            self._connections.append(self._loop.create_task(connecting))

    async def close(self) -> None:
        """Accept no more; every connection that was accepted is connected."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        await asyncio.gather(*self._connections)

    async def abort(self) -> None:
        """After `close`: end every connection, whether or not its client reads."""
        for connection in self._connections:
            connection.result()[0].abort()
        await asyncio.sleep(0)  # the loop closes aborted sockets in its next iteration
