"""Free ports on loopback, unique among workers and concurrent runs of the tests on this machine."""

from __future__ import annotations

import contextlib
import random
import socket

_PORTS = range(20_000, 32_768)  # below the ephemeral ports, so that no client connection uses one


def bound() -> socket.socket:
    """A socket bound to a free port."""
    while True:
        sock = socket.socket()
        with contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", random.choice(_PORTS)))
            return sock
        sock.close()


def free_port() -> int:
    """A port that is reserved until this process ends. A server with SO_REUSEADDR can bind it, `bound` cannot."""
    sock = bound()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port: int = sock.getsockname()[1]
    sock.detach()
    return port
