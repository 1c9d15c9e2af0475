"""The pool of idle connections, last in first out, with the limits of Go's `http.Transport`."""

from __future__ import annotations

from itertools import takewhile
from operator import itemgetter

from workload_generator.engine.connection import Connection
from workload_generator.engine.endpoint import Origin


class Pool:
    """Keeps idle connections for reuse. A limit of 0 means no limit (per host: 2), as in Go. `idle` is their number."""

    def __init__(self, max_idle: int, max_idle_per_host: int, idle_timeout_ns: int) -> None:
        self.max_idle = max_idle or 2**63
        self.max_idle_per_host = max_idle_per_host or 2
        self.idle_timeout_ns = idle_timeout_ns
        self.idle = 0
        self._stacks: dict[Origin, Stack] = {}

    def stack(self, origin: Origin) -> Stack:
        """The idle connections to `origin`; the same stack each time."""
        return self._stacks.setdefault(origin, Stack(self))

    def forget(self, connection: Connection) -> None:
        """Remove an idle connection that has ended by itself."""
        if self._stacks[connection.origin].connections.pop(connection, None) is not None:
            self.idle -= 1

    def close_stale(self, now_ns: int) -> None:
        """Close the connections that have been idle for longer than the timeout (0: never)."""
        if self.idle_timeout_ns:
            self._close_older(now_ns - self.idle_timeout_ns)

    def close(self) -> None:
        """Close all idle connections."""
        self._close_older(2**63)

    def close_oldest(self) -> None:
        """Close the connection that has been idle for longest."""
        oldest = [next(iter(stack.connections.items())) for stack in self._stacks.values() if stack.connections]
        self._end(min(oldest, key=itemgetter(1))[0])

    def _close_older(self, released_ns: int) -> None:
        """Close the connections that were released at `released_ns` or earlier."""
        for stack in self._stacks.values():
            stale = list(takewhile(lambda each: each[1] <= released_ns, stack.connections.items()))
            for connection, _ in stale:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        self.forget(connection)
        connection.close()


class Stack:
    """The idle connections of one origin, with the time of their release, the oldest first."""

    __slots__ = ("_pool", "connections")

    def __init__(self, pool: Pool) -> None:
        self.connections: dict[Connection, int] = {}
        self._pool = pool

    def take(self, now_ns: int) -> Connection | None:
        """Take the connection that was released last, unless it has been idle for too long. None when there is none."""
        if not self.connections:
            return None
        connection, since_ns = self.connections.popitem()
        pool = self._pool
        pool.idle -= 1
        if pool.idle_timeout_ns and now_ns - since_ns >= pool.idle_timeout_ns:
            connection.close()  # the others have been idle for longer
            return None
        return connection

    def release(self, connection: Connection, now_ns: int) -> None:
        """Keep an idle connection, or close it or the oldest one when there are too many."""
        pool = self._pool
        if len(self.connections) >= pool.max_idle_per_host:
            connection.close()
            return
        if pool.idle >= pool.max_idle:
            pool.close_oldest()
        self.connections[connection] = now_ns
        pool.idle += 1
