"""Idle connections, last in first out, within the limits that Go's transport has and the experiment names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workload_generator.load.connection import Connection, Origin


class Pool:
    """Keeps idle connections for reuse. A limit of 0 means no limit (per host: 2), as in Go's `http.Transport`."""

    def __init__(self, max_idle: int, max_idle_per_host: int, idle_timeout_ns: int) -> None:
        self._max_idle = max_idle or 2**63
        self._max_idle_per_host = max_idle_per_host or 2
        self._idle_timeout_ns = idle_timeout_ns
        self._by_origin: dict[Origin, list[Connection]] = {}
        self._by_age: dict[Connection, int] = {}  # since when; in the order of release, so the oldest come first

    def __len__(self) -> int:
        return len(self._by_age)

    def take(self, origin: Origin, now_ns: int) -> Connection | None:
        """The connection that was released last, unless it has been idle for too long, or None."""
        stack = self._by_origin.get(origin)
        if not stack:
            return None
        connection = stack.pop()
        since_ns = self._by_age.pop(connection)
        if self._idle_timeout_ns and now_ns - since_ns >= self._idle_timeout_ns:
            connection.close()  # the others are idle for longer still
            return None
        return connection

    def release(self, connection: Connection, now_ns: int) -> None:
        """Keep an idle connection, or close it, or close the oldest for it, as the limits say."""
        stack = self._by_origin.setdefault(connection.origin, [])
        if len(stack) >= self._max_idle_per_host:
            connection.close()
            return
        if len(self._by_age) >= self._max_idle:
            self._close_oldest()
        stack.append(connection)
        self._by_age[connection] = now_ns

    def forget(self, connection: Connection) -> None:
        """An idle connection has ended by itself."""
        if self._by_age.pop(connection, None) is not None:
            self._by_origin[connection.origin].remove(connection)

    def close_stale(self, now_ns: int) -> None:
        """Close what has been idle for longer than the timeout (0: never)."""
        if not self._idle_timeout_ns:
            return
        while self._by_age and now_ns - next(iter(self._by_age.values())) >= self._idle_timeout_ns:
            self._close_oldest()

    def close(self) -> None:
        """Close everything."""
        while self._by_age:
            self._close_oldest()

    def _close_oldest(self) -> None:
        connection = next(iter(self._by_age))
        self.forget(connection)
        connection.close()
