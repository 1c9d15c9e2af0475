"""The pool of idle connections, last in first out, with the limits of Go's `http.Transport`."""

from __future__ import annotations

from workload_generator.engine.endpoint import Origin
from workload_generator.engine.exchange import Carrier


class Pool:
    """Keeps idle connections for reuse. A limit of 0 means no limit (per host: 2), as in Go."""

    def __init__(self, max_idle: int, max_idle_per_host: int, idle_timeout_ns: int) -> None:
        self.max_idle = max_idle or 2**63
        self.max_idle_per_host = max_idle_per_host or 2
        self.idle_timeout_ns = idle_timeout_ns
        self.by_age: dict[Carrier, int] = {}  # with the time of release, the oldest first
        self._stacks: dict[Origin, Stack] = {}

    def __len__(self) -> int:
        return len(self.by_age)

    def stack(self, origin: Origin) -> Stack:
        """The idle connections to `origin`; the same stack each time."""
        return self._stacks.setdefault(origin, Stack(self))

    def forget(self, connection: Carrier) -> None:
        """Remove an idle connection that has ended by itself."""
        if self.by_age.pop(connection, None) is not None:
            self._stacks[connection.origin].idle.remove(connection)

    def close_stale(self, now_ns: int) -> None:
        """Close the connections that have been idle for longer than the timeout (0: never)."""
        if not self.idle_timeout_ns:
            return
        while self.by_age and now_ns - next(iter(self.by_age.values())) >= self.idle_timeout_ns:
            self.close_oldest()

    def close(self) -> None:
        """Close all idle connections."""
        while self.by_age:
            self.close_oldest()

    def close_oldest(self) -> None:
        """Close the connection that has been idle for longest."""
        connection = next(iter(self.by_age))
        self.forget(connection)
        connection.close()


class Stack:
    """The idle connections of one origin."""

    __slots__ = ("_pool", "idle")

    def __init__(self, pool: Pool) -> None:
        self.idle: list[Carrier] = []
        self._pool = pool

    def take(self, now_ns: int) -> Carrier | None:
        """Take the connection that was released last, unless it has been idle for too long. None when there is none."""
        if not self.idle:
            return None
        connection = self.idle.pop()
        idle_timeout_ns = self._pool.idle_timeout_ns
        since_ns = self._pool.by_age.pop(connection)
        if idle_timeout_ns and now_ns - since_ns >= idle_timeout_ns:
            connection.close()  # the others have been idle for longer
            return None
        return connection

    def release(self, connection: Carrier, now_ns: int) -> None:
        """Keep an idle connection, or close it or the oldest one when there are too many."""
        pool = self._pool
        if len(self.idle) >= pool.max_idle_per_host:
            connection.close()
            return
        if len(pool.by_age) >= pool.max_idle:
            pool.close_oldest()
        self.idle.append(connection)
        pool.by_age[connection] = now_ns
