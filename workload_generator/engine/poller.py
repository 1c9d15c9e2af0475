"""Reads what can be read: an epoll of our own, which the event loop watches as one descriptor.

Rules:
- everything that can be read is read in one go; only then are both clocks compared, and each connection gets what came
  for it, upon which a closed loop sends again. That is cheaper than to go from one socket to the next through the event
  loop, and a server on another core is woken once for many requests instead of once for each
- the stamps do not suffer: the kernel takes them when the bytes come
- one read for each socket; who wants more reads on by itself, and says so
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from workload_generator.base.clock import monotonic_ns
from workload_generator.engine.timestamps import ANCILLARY_BYTES, Ancillary, ReceiveClock

_SMALL_BYTES = 448  # enough for many responses, and what the interpreter has at hand for small objects
_FIRST_BYTES = 4 * 1024  # enough for most
_MOST = 64  # sockets that are read in one go, so that a deadline of the schedule does not wait for more

Piece = tuple["ReadHandler", bytes, Ancillary, int]


class ReadHandler(Protocol):
    """Who gets what was read."""

    def on_received(self, data: bytes, ancillary: Ancillary, now_ns: int, /) -> None:
        """What came, none at the end, with the kernel's stamp, if there is one; it was read at `now_ns`. Whoever was
        unwatched between the read and this call gets it all the same."""

    def on_lost(self, error: OSError, /) -> None:
        """There was a fault in the place of data."""

    def close(self) -> None:
        """Nothing is read any more."""


class Poller:
    """Reads the sockets that are watched; `clock` is compared after each go."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: ReceiveClock) -> None:
        self.first_read_bytes = _SMALL_BYTES
        self._loop = loop
        self._clock = clock
        self._watched: dict[int, tuple[Callable[..., Any], ReadHandler]] = {}  # recvmsg, and for whom
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, sock: socket.socket, reader: ReadHandler) -> None:
        """Read from `sock` for `reader` whenever there is something, or it has ended."""
        fd = sock.fileno()
        self._watched[fd] = sock.recvmsg, reader
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Read no more; to be told before `fd` is closed. Not an error when nobody watched."""
        watched = self._watched.pop(fd, None)  # held until the end: it may be all that keeps the socket open
        if watched is not None:
            self._epoll.unregister(fd)

    def expect_more(self) -> None:
        """More had come than the first read took: let it take more from now on."""
        self.first_read_bytes = _FIRST_BYTES

    def close(self) -> None:
        """Watch nothing any more, and close whoever is left. Can be called again."""
        for fd, (_, reader) in list(self._watched.items()):
            self.unwatch(fd)
            reader.close()
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_ready(self) -> None:
        self._read(self._poll(0, _MOST))

    def _read(self, ready: Iterable[tuple[int, int]]) -> None:
        watched, size = self._watched, self.first_read_bytes
        pieces: list[Piece] = []
        lost: list[tuple[ReadHandler, OSError]] = []
        for fd, _events in ready:
            recvmsg, reader = watched[fd]
            try:
                data, ancillary, _flags, _address = recvmsg(size, ANCILLARY_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                lost.append((reader, error))
                continue
            pieces.append((reader, data, ancillary, monotonic_ns()))
        self._clock.compare()
        self._hand_over(iter(pieces))
        for reader, fault in lost:
            reader.on_lost(fault)

    def _hand_over(self, pieces: Iterator[Piece]) -> None:
        try:
            for reader, data, ancillary, now_ns in pieces:
                reader.on_received(data, ancillary, now_ns)
        finally:
            rest = list(pieces)
            if rest:  # one of them failed, by a fault of ours; the others have been read, and get what is theirs
                self._loop.call_soon(self._hand_over, iter(rest))
