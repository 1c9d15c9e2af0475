"""Frames of `wire` over a socket, in an event loop: to the recorder, and between the processes of a run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from workload_generator.log import wire


class Channel(asyncio.Protocol):
    """One end of a socket pair. `on_frame` is called for each frame, and `on_end` when the other end has closed."""

    def __init__(self, on_frame: Callable[[int, bytes], None], on_end: Callable[[], None]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._reader = wire.FrameReader()
        self._finished = False

    async def connect(self, sock: socket.socket) -> None:
        """Begin with `sock`, which it closes at the end."""
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()
        await self._loop.create_unix_connection(lambda: self, sock=sock)

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return not (self._finished or self._transport.is_closing())

    @property
    def waiting_bytes(self) -> int:
        """What was sent and has not been taken by the other end yet."""
        return self._transport.get_write_buffer_size()

    def send(self, frame: bytes) -> None:
        """Send a frame without waiting; it is lost when the channel is not open."""
        if self.is_open:
            self._transport.write(frame)

    def finish(self) -> None:
        """Send nothing more; the other end reads what was sent, and then the end."""
        if self.is_open:
            self._finished = True
            self._transport.write_eof()

    def abort(self) -> None:
        """Close at once; what the other end has not taken is lost."""
        self._transport.abort()

    # Calls of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Handle frames in callbacks of their own: the transport would hide a fault of theirs."""
        for kind, payload in self._reader.feed(data):
            self._loop.call_soon(self._on_frame, kind, payload)

    def connection_lost(self, _error: Exception | None) -> None:
        """Handle the end after the last frame."""
        self._loop.call_soon(self._on_end)
        self._loop.call_soon(self.ended.set_result, None)
