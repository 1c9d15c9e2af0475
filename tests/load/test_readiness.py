"""Sockets that can be read, read in one go."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from workload_generator.load.readiness import Readiness

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


async def until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), 10)


async def test_all_that_can_be_read_is_read_before_what_comes_after(pairs: list[Pair]) -> None:
    readiness = Readiness(asyncio.get_running_loop())
    happened: list[str] = []
    done = asyncio.Event()

    def read(name: str, sock: socket.socket) -> None:
        assert readiness.reading
        happened.append(sock.recv(10).decode() + name)

    def after() -> None:
        assert not readiness.reading
        happened.append("after")
        done.set()

    readiness.after_reads = after
    for number, (ours, theirs) in enumerate(pairs):
        readiness.watch(ours.fileno(), lambda number=number, ours=ours: read(str(number), ours))
        theirs.send(b"read ")
    await until(done)
    assert sorted(happened[:-1]) == ["read 0", "read 1", "read 2"] and happened[-1] == "after"
    readiness.close()


async def test_who_was_closed_meanwhile_is_not_called(pairs: list[Pair]) -> None:
    readiness = Readiness(asyncio.get_running_loop())
    called: list[int] = []
    done = asyncio.Event()
    readiness.after_reads = done.set

    def end_all(number: int) -> None:
        called.append(number)
        for ours, _ in pairs:
            readiness.unwatch(ours.fileno())

    for number, (ours, theirs) in enumerate(pairs):
        readiness.watch(ours.fileno(), lambda number=number: end_all(number))
        theirs.send(b"x")
    await until(done)
    await asyncio.sleep(0)
    assert len(called) == 1
    readiness.close()


async def test_an_end_is_something_to_read_and_a_fault_of_one_reader_keeps_nobody_from_the_rest(
    pairs: list[Pair],
) -> None:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
    readiness = Readiness(loop)
    (bad, bad_peer), (good, good_peer), _ = pairs
    done = asyncio.Event()

    def fail() -> None:
        readiness.unwatch(bad.fileno())
        raise RuntimeError("a fault of ours")

    def end() -> None:
        assert good.recv(10) == b""
        readiness.unwatch(good.fileno())
        done.set()

    readiness.watch(bad.fileno(), fail)
    readiness.watch(good.fileno(), end)
    bad_peer.send(b"x")
    good_peer.close()
    await until(done)
    assert [str(fault) for fault in faults] == ["a fault of ours"] and not readiness.reading
    readiness.close()


async def test_closing_twice_leaves_no_descriptor(pairs: list[Pair]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    readiness = Readiness(asyncio.get_running_loop())
    readiness.watch(pairs[0][0].fileno(), lambda: None)
    readiness.close()
    readiness.close()
    readiness.unwatch(pairs[0][0].fileno())
    assert len(os.listdir("/proc/self/fd")) == before
