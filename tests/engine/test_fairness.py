"""A server that sends more than the generator can read does not cost the other targets more than turns."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.engine.client import Make
from workload_generator.engine.connection import Connection
from workload_generator.log.records import Arrival, ErrorKind, Phase

CHUNKS = b"1\r\nx\r\n" * 40_000


@contextlib.contextmanager
def flooding() -> Iterator[str]:
    """A server that answers every request with chunks of one byte, without end, as fast as they are taken."""
    ending = threading.Event()

    def flood(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not ending.is_set():
                peer.sendall(CHUNKS)

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=flood, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        ending.set()
        listening.shutdown(socket.SHUT_RDWR)


async def test_a_flood_takes_turns_with_the_event_loop(clients: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One connection has one turn in each turn of the loop: between two turns, everything else is served."""
    turns: list[tuple[Connection, int]] = []
    on_turn, loop_turns = Connection.on_turn, 0

    def counted(connection: Connection) -> None:
        turns.append((connection, loop_turns))
        on_turn(connection)

    monkeypatch.setattr(Connection, "on_turn", counted)
    client = clients()
    with flooding() as url:
        client.add_endpoint(url)
        for seq in range(8):
            client.engine.start(Arrival(seq, Phase.MEASURE, 0, 0))
        async with asyncio.timeout(30):
            while len(turns) < 200:
                await asyncio.sleep(0)
                loop_turns += 1
        client.engine.cancel_all("enough")
    assert {result.error for result in client.results} == {ErrorKind.CANCELLED}
    numbers = [number for _, number in turns]
    assert max(map(numbers.count, numbers)) <= 2, "a turn of the loop has one, or two around the count"
    last = [connection for connection, _ in turns[-16:]]
    assert min(last.count(connection) for connection in last) >= 1 and len(set(last)) >= 4, "they take turns"
