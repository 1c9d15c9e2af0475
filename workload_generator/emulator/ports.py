"""Loopback ports below the ephemeral range: free ones for servers, reserved ones for instances."""

from __future__ import annotations

import random
import socket

from workload_generator.base.errors import BenchError, UsageError

LOOPBACK = "127.0.0.1"
_FIRST, _LAST = 20000, 29999


def free_port(wanted: int | None = None, first: int = 18080, last: int = 18999) -> int:
    """`wanted`, else the first free port of the range. Raises UsageError when there is none."""
    for port in [wanted] if wanted is not None else range(first, last + 1):
        if _bind(socket.SOCK_STREAM, port, keep=False) is not None:
            return port
    if wanted is not None:
        raise UsageError(f"port {wanted} on {LOOPBACK} is in use; choose another with --port")
    raise UsageError(f"every port from {first} to {last} on {LOOPBACK} is in use")


def reserve_port(draw: random.Random) -> socket.socket:
    """A reservation of a free TCP port, searched from a random one on. Raises BenchError when all are in use.

    The reservation is a UDP socket on the same number (`getsockname()[1]`), until it is closed. The kernel gives it to
    one process only, and frees it when that process ends, however it ends. A function can bind the TCP port meanwhile.
    """
    size = _LAST - _FIRST + 1
    begin = draw.randrange(size)
    for step in range(size):
        number = _FIRST + (begin + step) % size
        reservation = _bind(socket.SOCK_DGRAM, number)
        if reservation is None:
            continue
        if _bind(socket.SOCK_STREAM, number, keep=False) is not None:
            return reservation
        reservation.close()
    raise BenchError(f"every port from {_FIRST} to {_LAST} on {LOOPBACK} is in use")


def _bind(kind: socket.SocketKind, number: int, *, keep: bool = True) -> socket.socket | None:
    """A socket on the port, closed again without `keep`; None when the port is in use."""
    sock = socket.socket(socket.AF_INET, kind)
    if kind is socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: ignore ended connections
    try:
        sock.bind((LOOPBACK, number))
    except OSError:
        sock.close()
        return None
    if not keep:
        sock.close()
    return sock
