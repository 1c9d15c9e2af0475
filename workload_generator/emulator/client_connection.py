"""A client's connection to the platform: requests in, responses out, one at a time and in order.

Rules:
- a request is routed as soon as its headers have arrived; its body follows as it arrives
- pipelined requests wait for their turn
- every request gets a response, or its connection ends. Offers to switch protocols (`Upgrade`) are ignored
- the end of the connection cancels what is done for its request
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from workload_generator.emulator.http_stream import Head, HttpStream, StreamEnded
from workload_generator.emulator.proxied_request import ProxiedRequest

_LINGER_S = 2.0
_NO_HEAD = Head(0, b"", b"", 0, [], http_1_1=True, keeps_alive=False)  # of a request that cannot be read


class ClientConnection(HttpStream):
    """State of one connection, and the task that serves it."""

    _requests = True

    def __init__(
        self,
        route: Callable[[ProxiedRequest], Awaitable[None]],
        connections: dict[ClientConnection, None],
        most: int,
    ) -> None:
        """`route` responds to a request; `connections` has this one while it is open.

        Of more than `most` connections the oldest without a request is closed, which may be this one.
        """
        super().__init__()
        self._route = route
        self._connections = connections
        self._most = most
        self._busy = False  # a request has no complete response yet
        self._closing = False

    def close_when_idle(self) -> None:
        """Take no further request, and close once the current one has its response."""
        self._closing = True
        if not self._busy:
            self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections[self] = None
        if len(self._connections) > self._most:
            idle = next(each for each in self._connections if not each._busy)
            del self._connections[idle]
            idle.abort()
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._connections.pop(self, None)
        self._serving.cancel()

    async def _serve(self) -> None:
        try:
            while not self._closing:
                request: ProxiedRequest | None = None
                head = await self.next()
                assert isinstance(head, Head)
                request, self._busy = ProxiedRequest(self, head), True
                await self._route(request)
                self._busy = False
                if not request.keeps_alive:
                    self.write_eof()
                await request.drop_body()  # the next request stands behind it
                if not request.keeps_alive:
                    break
                await self.drain()
        except StreamEnded as ended:
            if ended.status:
                request = request or ProxiedRequest(self, _NO_HEAD)
                request.refuse(ended.status, f"the request cannot be read: {ended}")
                self.write_eof()
                await asyncio.sleep(_LINGER_S)  # bytes that are not read would reset the connection, and the response
        finally:
            self.close()
