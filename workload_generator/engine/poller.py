"""Reads all readable sockets at once, through an epoll of its own, which the event loop watches as one descriptor.

Rules:
- first every readable socket is read, then the clocks are compared once, then each connection gets its data, and a
  closed loop sends its next request. This is cheaper than one callback of the event loop for each socket, and it wakes
  a server on another core once for many requests
- the time stamps do not suffer: the kernel takes them when the data arrives
- each socket is read once; a connection that wants more reads on by itself. One that has read for long enough waits for
  its next turn: one such connection in each turn of the event loop, so that none holds up the others
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from typing import Any, Protocol

from workload_generator.base.clock import monotonic_ns
from workload_generator.engine.timestamps import ANCILLARY_BYTES, Ancillary, ReceiveClock

_SMALL_BYTES = 448  # enough for many responses, and small enough for the interpreter's pool of small objects
_FIRST_BYTES = 4 * 1024  # enough for most responses
_DATA, _END = select.EPOLLIN, select.EPOLLRDHUP
_MOST = 64  # sockets to read at once, so that a deadline of the schedule does not wait for more

Piece = tuple["ReadHandler", bytes, Ancillary, int]
Loss = tuple["ReadHandler", OSError]


class ReadHandler(Protocol):
    """Handles the data of one socket."""

    def on_received(self, data: bytes, ancillary: Ancillary, now_ns: int, /) -> None:
        """Handle data that was read at `now_ns`, with the kernel's stamp if there is one; empty at the end of the
        stream. It is called even when the socket was unwatched after the read."""

    def on_ending(self) -> None:
        """The server has closed the connection, behind the data that is read next."""

    def on_lost(self, error: OSError, /) -> None:
        """The read failed. It is called even when the socket was unwatched after the read."""

    def on_turn(self) -> None:
        """Watch again and read on, some time after `Poller.postpone`."""

    @property
    def is_idle(self) -> bool:
        """Whether data would answer no request."""

    def close(self) -> None:
        """The poller is closed: nothing is read any more."""


class Poller:
    """Reads the watched sockets; `clock` is compared after each batch of reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: ReceiveClock) -> None:
        self.first_read_bytes = _SMALL_BYTES
        self._loop = loop
        self._clock = clock
        self._watched: dict[int, tuple[Callable[..., Any], ReadHandler]] = {}  # recvmsg and its handler, by descriptor
        self._postponed: dict[ReadHandler, None] = {}
        self._pieces: Iterator[Piece] = iter(())  # that are not handed over yet
        self._losses: Iterator[Loss] = iter(())
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        loop.add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, sock: socket.socket, reader: ReadHandler) -> None:
        """Read `sock` for `reader` whenever there is data, or the end of the stream."""
        fd = sock.fileno()
        self._watched[fd] = sock.recvmsg, reader
        self._epoll.register(fd, _DATA | _END)

    def unwatch(self, fd: int) -> None:
        """Stop reading; call it before `fd` is closed. An unwatched `fd` is not an error."""
        watched = self._watched.pop(fd, None)  # held until the end: it may be the last reference to the socket
        if watched is not None:
            with contextlib.suppress(OSError):  # `fd` is closed already, which has ended the watch
                self._epoll.unregister(fd)

    def postpone(self, fd: int, reader: ReadHandler) -> None:
        """Stop reading until the next turn of `reader`."""
        self.unwatch(fd)
        if not self._postponed:
            self._loop.call_soon(self._next_turn)
        self._postponed[reader] = None

    def end_idle(self) -> None:
        """Hand over what was read of idle connections, before one of them is taken for a request."""
        for reader, data, ancillary, now_ns in copy(self._pieces):
            if reader.is_idle:
                reader.on_received(data, ancillary, now_ns)
        for reader, error in copy(self._losses):
            if reader.is_idle:
                reader.on_lost(error)

    def expect_more(self) -> None:
        """Let the first read take more from now on."""
        self.first_read_bytes = _FIRST_BYTES

    def close(self) -> None:
        """Watch nothing any more, and close all connections. Can be called again."""
        for fd, (_, reader) in list(self._watched.items()):
            self.unwatch(fd)
            reader.close()
        for reader in self._postponed:
            reader.close()
        self._postponed.clear()
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _on_ready(self) -> None:
        self._read(self._poll(0, _MOST))

    def _read(self, ready: Iterable[tuple[int, int]]) -> None:
        watched, size = self._watched, self.first_read_bytes
        pieces: list[Piece] = []
        losses: list[Loss] = []
        for fd, events in ready:
            recvmsg, reader = watched[fd]
            if events != _DATA and events & _END:
                reader.on_ending()
            try:
                data, ancillary, _flags, _address = recvmsg(size, ANCILLARY_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                losses.append((reader, error))
                continue
            pieces.append((reader, data, ancillary, monotonic_ns()))
        self._clock.compare()
        self._hand_over(iter(pieces), iter(losses))

    def _hand_over(self, pieces: Iterator[Piece], losses: Iterator[Loss]) -> None:
        self._pieces, self._losses = pieces, losses
        try:
            for reader, data, ancillary, now_ns in pieces:
                reader.on_received(data, ancillary, now_ns)
            for reader, error in losses:
                reader.on_lost(error)
        except BaseException:  # by a fault of the generator: the other handlers still get theirs
            self._loop.call_soon(self._hand_over, pieces, losses)
            raise

    def _next_turn(self) -> None:
        reader = next(iter(self._postponed), None)
        if reader is None:
            return  # it is closed
        del self._postponed[reader]
        if self._postponed:
            self._loop.call_soon(self._next_turn)
        reader.on_turn()
