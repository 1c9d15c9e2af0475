"""The pool of idle connections: its limits, and what it costs when it is large."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from workload_generator.engine.endpoint import Origin
from workload_generator.engine.pool import Pool


def connection(port: int = 1) -> Any:
    made = SimpleNamespace(origin=Origin("a", port), closed=0)

    def close() -> None:
        made.closed += 1

    made.close = close
    return _Hashable(made)


class _Hashable:
    """By identity, as connections are."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.origin, self.close = made.origin, made.close


def test_the_oldest_is_closed_when_there_are_too_many_of_all_hosts() -> None:
    pool = Pool(max_idle=3, max_idle_per_host=10, idle_timeout_ns=0)
    made = [connection(port) for port in (1, 2, 2, 1, 2)]
    for at, each in enumerate(made):
        pool.stack(each.origin).release(each, at)
    assert [each.made.closed for each in made] == [1, 1, 0, 0, 0] and pool.idle == 3
    assert pool.stack(Origin("a", 1)).take(9) is made[3] and pool.stack(Origin("a", 1)).take(9) is None
    assert pool.idle == 2


def test_one_is_closed_also_when_the_times_of_two_are_the_wrong_way_round() -> None:
    """They are the kernel's stamps, and responses are handled in the order of their sockets."""
    pool = Pool(max_idle=2, max_idle_per_host=10, idle_timeout_ns=0)
    made = [connection() for _ in range(3)]
    for each, at in zip(made, (7, 6, 8), strict=True):
        pool.stack(each.origin).release(each, at)
    assert [each.made.closed for each in made] == [1, 0, 0] and pool.idle == 2


def test_connections_that_are_idle_too_long_are_closed() -> None:
    pool = Pool(max_idle=0, max_idle_per_host=10, idle_timeout_ns=5)
    made = [connection(port) for port in (1, 1, 2, 2)]
    for at, each in enumerate(made):
        pool.stack(each.origin).release(each, at)
    pool.close_stale(6)
    assert [each.made.closed for each in made] == [1, 1, 0, 0] and pool.idle == 2
    assert pool.stack(Origin("a", 2)).take(99) is None, "the last one is closed when it is taken"
    pool.forget(made[0])
    pool.close()
    assert [each.made.closed for each in made] == [1, 1, 1, 1] and pool.idle == 0


@pytest.mark.parametrize("order", [1, -1])
def test_removing_one_does_not_depend_on_how_many_there_are(order: int) -> None:
    """A restart of a server ends all of them at once."""

    def cost(count: int) -> float:
        pool = Pool(max_idle=0, max_idle_per_host=count, idle_timeout_ns=0)
        made = [connection() for _ in range(count)]
        stack = pool.stack(made[0].origin)
        for at, each in enumerate(made):
            stack.release(each, at)
        start = time.thread_time()
        for each in made[::order]:
            pool.forget(each)
        assert pool.idle == 0
        return (time.thread_time() - start) / count

    small = min(cost(1_000) for _ in range(5))
    assert min(cost(16_000) for _ in range(3)) < 6 * small
