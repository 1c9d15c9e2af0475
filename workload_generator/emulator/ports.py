"""Ports for instances: on loopback, below the ephemeral ones, and never the same for two platforms on one machine."""

from __future__ import annotations

import random
import socket

from workload_generator.base.errors import BenchError

_FIRST, _LAST = 20000, 29999
_LOOPBACK = "127.0.0.1"


class Port:
    """A TCP port that nobody listens on, reserved until `release`.

    The reservation is a UDP socket bound to the same number: the kernel gives it to one process only and takes it back
    however that ends, and the function can bind the TCP port meanwhile.
    """

    def __init__(self, number: int, reservation: socket.socket) -> None:
        self.number = number
        self._reservation = reservation

    def release(self) -> None:
        """Give it back. Twice is once."""
        self._reservation.close()


def reserve_port(draw: random.Random) -> Port:
    """One of the range, tried in turn from a drawn one on. Raises BenchError when all are taken."""
    size = _LAST - _FIRST + 1
    begin = draw.randrange(size)
    for step in range(size):
        number = _FIRST + (begin + step) % size
        reservation = _bound(socket.SOCK_DGRAM, number)
        if reservation is None:
            continue
        listener = _bound(socket.SOCK_STREAM, number)
        if listener is not None:
            listener.close()
            return Port(number, reservation)
        reservation.close()
    raise BenchError(f"every port from {_FIRST} to {_LAST} on {_LOOPBACK} is in use")


def _bound(kind: socket.SocketKind, number: int) -> socket.socket | None:
    sock = socket.socket(socket.AF_INET, kind)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: connections that ended do not count
    try:
        sock.bind((_LOOPBACK, number))
    except OSError:
        sock.close()
        return None
    return sock
