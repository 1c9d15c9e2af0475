"""The poller reads all readable sockets at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from workload_generator.engine.poller import Poller
from workload_generator.engine.timestamps import Ancillary, ReceiveClock

Pair = tuple[socket.socket, socket.socket]


class Clock(ReceiveClock):
    """Records when it was compared."""

    __slots__ = ("happened",)

    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self.happened = happened

    def compare(self) -> None:
        self.happened.append("compared")
        super().compare()


class Told:
    """A handler that records its calls, and then does something."""

    def __init__(self, name: str, happened: list[str], then: Callable[[], None] = lambda: None) -> None:
        self.name = name
        self.happened = happened
        self.then = then

    def on_received(self, data: bytes, ancillary: Ancillary, now_ns: int) -> None:
        self.happened.append(f"{self.name} {data.decode()}")
        self.then()

    def on_lost(self, error: OSError) -> None:
        self.happened.append(f"{self.name} {type(error).__name__}")
        self.then()

    def on_turn(self) -> None:
        self.happened.append(f"{self.name} turn")
        self.then()

    def on_ending(self) -> None:
        """Nothing: with a reset it is not certain."""

    is_idle = False

    def close(self) -> None:
        self.happened.append(f"{self.name} closed")


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(3)]
    for ours, _ in made:
        ours.setblocking(False)
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_all_sockets_are_read_and_the_clocks_compared_before_any_handler_is_called(pairs: list[Pair]) -> None:
    happened: list[str] = []
    readiness = Poller(asyncio.get_running_loop(), Clock(happened))
    unread: list[int] = []

    def look() -> None:
        for ours, _ in pairs:
            with pytest.raises(BlockingIOError):
                ours.recv(10)
            unread.append(0)

    for number, (ours, theirs) in enumerate(pairs):
        readiness.watch(ours, Told(str(number), happened, look))
        theirs.send(b"x")
    await until(lambda: len(happened) == 4)
    assert happened[0] == "compared" and sorted(happened[1:]) == ["0 x", "1 x", "2 x"] and len(unread) == 9
    pairs[1][1].send(b"again")
    await until(lambda: len(happened) == 6)
    assert happened[4:] == ["compared", "1 again"]
    readiness.close()


async def test_an_unwatched_socket_is_not_read(pairs: list[Pair]) -> None:
    happened: list[str] = []
    readiness = Poller(asyncio.get_running_loop(), ReceiveClock())

    def end_all() -> None:
        for ours, _ in pairs:
            readiness.unwatch(ours.fileno())

    for number, (ours, theirs) in enumerate(pairs):
        readiness.watch(ours, Told(str(number), happened, end_all))
        theirs.send(b"x")
    await until(lambda: len(happened) == 3)
    for _, theirs in pairs:
        theirs.send(b"more")
    for _ in range(10):
        await asyncio.sleep(0.001)
    assert sorted(happened) == ["0 x", "1 x", "2 x"], "handlers get the data that was read before, and nothing else"
    readiness.close()


async def test_an_end_is_read_and_a_fault_of_one_handler_does_not_stop_the_others(
    pairs: list[Pair],
) -> None:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
    readiness = Poller(loop, ReceiveClock())
    happened: list[str] = []

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    def stop(sock: socket.socket) -> Callable[[], None]:
        return lambda: readiness.unwatch(sock.fileno())

    (bad, bad_peer), (good, good_peer), (other, other_peer) = pairs
    readiness.watch(bad, Told("bad", happened, fail))
    readiness.watch(good, Told("good", happened, stop(good)))
    readiness.watch(other, Told("other", happened, fail))
    bad_peer.send(b"x")
    good_peer.close()
    other_peer.send(b"y")
    await until(lambda: len(happened) == 3)
    assert sorted(happened) == ["bad x", "good ", "other y"]
    await until(lambda: len(faults) == 2)
    assert [str(fault) for fault in faults] == ["a fault of ours"] * 2
    readiness.close()


async def test_a_lost_connection_is_told_when_the_hand_over_before_it_raises() -> None:
    loop = asyncio.get_running_loop()
    faults: list[str] = []
    loop.set_exception_handler(lambda _loop, context: faults.append(str(context["exception"])))
    poller, happened = Poller(loop, ReceiveClock()), list[str]()

    def fail() -> None:
        raise RuntimeError("a fault of ours")

    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as opened:
        for name in ("lost", "bad"):
            sock = opened.enter_context(socket.create_connection(listening.getsockname()))
            peer = opened.enter_context(listening.accept()[0])
            sock.setblocking(False)
            poller.watch(sock, Told(name, happened, fail if name == "bad" else partial(poller.unwatch, sock.fileno())))
            if name == "lost":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                peer.close()
            else:
                peer.sendall(b"x")
        await until(lambda: len(happened) >= 2)
        poller.close()
    assert happened[:2] == ["bad x", "lost ConnectionResetError"] and faults == ["a fault of ours"]


async def test_unwatching_a_closed_descriptor_raises_nothing(pairs: list[Pair]) -> None:
    poller = Poller(asyncio.get_running_loop(), ReceiveClock())
    (ours, theirs), (other, other_peer), _ = pairs
    happened: list[str] = []
    poller.watch(ours, Told("closed", happened))
    fd = ours.fileno()
    ours.close()
    poller.unwatch(fd)
    poller.watch(other, Told("other", happened, lambda: poller.unwatch(other.fileno())))
    other_peer.send(b"x")
    await until(lambda: bool(happened))
    assert happened == ["other x"]
    poller.close()


async def test_postponed_handlers_take_turns_and_the_others_are_read_between(pairs: list[Pair]) -> None:
    poller = Poller(asyncio.get_running_loop(), ReceiveClock())
    happened: list[str] = []
    (first, _), (second, _), (third, peer) = pairs

    def postpone(name: str, sock: socket.socket) -> Told:
        told = Told(name, happened, lambda: poller.postpone(sock.fileno(), told) if len(happened) < 20 else None)
        return told

    for name, sock in (("first", first), ("second", second)):
        poller.postpone(sock.fileno(), postpone(name, sock))
    poller.watch(third, Told("third", happened, lambda: poller.unwatch(third.fileno())))
    peer.send(b"x")
    await until(lambda: len(happened) >= 20)
    turns = [each for each in happened if each.endswith("turn")]
    assert turns[:6] == ["first turn", "second turn"] * 3
    assert happened.index("third x") < 6
    poller.postpone(first.fileno(), postpone("first", first))
    poller.close()
    assert happened[-1] == "first closed"


async def test_the_handler_gets_the_error_of_its_socket() -> None:
    happened: list[str] = []
    readiness = Poller(asyncio.get_running_loop(), ReceiveClock())
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as sock,
    ):
        peer, _ = listening.accept()
        sock.setblocking(False)
        readiness.watch(sock, Told("it", happened, lambda: readiness.unwatch(sock.fileno())))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        await until(lambda: bool(happened))
        assert happened == ["it ConnectionResetError"]
        readiness.close()


async def test_closing_twice_leaves_no_descriptor(pairs: list[Pair]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    readiness = Poller(asyncio.get_running_loop(), ReceiveClock())
    happened: list[str] = []
    readiness.watch(pairs[0][0], Told("it", happened))
    readiness.close()
    readiness.close()
    assert happened == ["it closed"]
    readiness.unwatch(pairs[0][0].fileno())
    assert len(os.listdir("/proc/self/fd")) == before
