"""Connects to one of several addresses: the next in turn, and beside it the one after that when it does not answer.

Rules (RFC 8305, Happy Eyeballs, with turns for load that should reach every address):
- each dial of a name begins at the next of its addresses; both families take part, alternately
- an attempt that fails, or has no answer after 250 ms, is followed by one to the next address; the first that connects
  wins, and the others are closed
- an address that failed, or had no answer after 250 ms, is tried last for 30 s, unless it wins after all
"""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import chain, zip_longest
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.engine.resolver import Address
from workload_generator.engine.timestamps import stamp_receipts

_PATIENCE_S = 0.25
_LAST_NS = 30 * NS_PER_S


class Caller(Protocol):
    """The connection that is dialed for."""

    def on_connected(self, sock: socket.socket, address: Address, connect_ns: int) -> None:
        """Take the socket of the attempt that won, after `connect_ns`."""

    def on_unreachable(self, codes: list[int]) -> None:
        """All addresses failed, with these error numbers."""


class Dialer:
    """Orders the addresses of names, and remembers which of them failed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._turns: dict[tuple[Address, ...], int] = {}
        self._failed_ns: dict[Address, int] = {}

    def failed(self, address: Address) -> None:
        """Try `address` last for a while."""
        self._failed_ns[address] = monotonic_ns()

    def works(self, address: Address) -> None:
        """Do not try `address` last any more."""
        self._failed_ns.pop(address, None)

    def in_turn(self, addresses: list[Address]) -> list[Address]:
        """The addresses of a name in the order in which the next dial tries them."""
        if len(addresses) == 1:
            return [*addresses]
        since_ns = monotonic_ns() - _LAST_NS
        failed = [address for address in addresses if self._failed_ns.get(address, since_ns) > since_ns]
        first = _alternating([address for address in addresses if address not in failed]) or failed
        name = tuple(addresses)
        turn = self._turns[name] = (self._turns.get(name, -1) + 1) % len(first)
        return [*first[turn:], *first[:turn], *(failed if first is not failed else ())]


class Dial:
    """The attempts to open one connection, with one outcome for `caller`; none after `close`."""

    def __init__(self, dialer: Dialer, addresses: list[Address], caller: Caller) -> None:
        self._dialer = dialer
        self._loop = dialer.loop
        self._left = dialer.in_turn(addresses)
        self._caller = caller
        self._attempts: dict[socket.socket, tuple[Address, int]] = {}  # with the time of their start
        self._codes: list[int] = []
        self._timer: asyncio.TimerHandle | None = None

    def attempt(self) -> None:
        """Try the next address."""
        address, start_ns = self._left.pop(0), monotonic_ns()
        try:
            sock = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            self._on_error(address, error.errno or 0)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamp_receipts(sock)
        self._attempts[sock] = address, start_ns
        try:
            code = sock.connect_ex(address.sockaddr)
        except OSError as error:  # an address that does not fit its family
            code = error.errno or errno.EADDRNOTAVAIL
        if code not in (errno.EINPROGRESS, errno.EAGAIN):
            self._on_outcome(sock, code)
            return
        self._loop.add_writer(sock.fileno(), self._on_ready, sock)
        if self._left:
            self._timer = self._loop.call_later(_PATIENCE_S, self._on_silence, address)

    def close(self) -> None:
        """End all attempts."""
        self._stop_waiting()
        for sock in self._attempts:
            self._loop.remove_writer(sock.fileno())
            sock.close()
        self._attempts.clear()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_silence(self, address: Address) -> None:
        self._dialer.failed(address)
        self.attempt()

    def _on_ready(self, sock: socket.socket) -> None:
        self._loop.remove_writer(sock.fileno())
        self._on_outcome(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _on_outcome(self, sock: socket.socket, code: int) -> None:
        address, start_ns = self._attempts.pop(sock)
        if code:
            sock.close()
            self._on_error(address, code)
            return
        connect_ns = monotonic_ns() - start_ns
        self._dialer.works(address)
        self.close()
        self._caller.on_connected(sock, address, connect_ns)

    def _on_error(self, address: Address, code: int) -> None:
        self._dialer.failed(address)
        self._codes.append(code)
        if self._left:
            self._stop_waiting()
            self.attempt()
        elif not self._attempts:
            self._caller.on_unreachable(self._codes)


def _alternating(addresses: list[Address]) -> list[Address]:
    """The addresses with both families in turn, beginning with that of the first."""
    families = [[a for a in addresses if (a.family == addresses[0].family) == is_first] for is_first in (True, False)]
    return [address for address in chain.from_iterable(zip_longest(*families)) if address is not None]
