"""Listening sockets of the servers that a command starts."""

from __future__ import annotations

import errno
import socket

from workload_generator.base.errors import UsageError

BACKLOG = 4096
"""How many connections may wait to be accepted. To be given to asyncio, too, which sets it again."""


def listen(bind: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A non-blocking socket that listens; port 0 is a free one. Raises UsageError."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            (bind, port), family=family, backlog=BACKLOG, reuse_port=reuse_port, dualstack_ipv6=both
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {bind} is in use; choose another with --port") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]  # the socket module adds the address
        raise UsageError(f"cannot listen on {bind} port {port}: {reason}") from None
    except (TypeError, UnicodeError):
        raise UsageError(f"{bind!r} is not the name of a host") from None
    listener.setblocking(False)
    return listener
