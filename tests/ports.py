"""Ports on loopback that no other worker has, nor another run of the tests on this machine."""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = range(20_000, 32_768)  # below the ephemeral ones, so that no client's connection has it


def bound() -> socket.socket:
    """A socket bound to a port that no other socket is bound to."""
    while True:
        sock = socket.socket()
        with contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", random.choice(_PORTS)))
            return sock
        sock.close()


def free_port() -> int:
    """One that is kept for us until this process ends. A server that reuses addresses can have it, `bound` cannot."""
    sock = bound()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port: int = sock.getsockname()[1]
    sock.detach()
    return port
