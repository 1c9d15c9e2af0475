"""Clients that send half a head, half a body or too much of either are refused, and others are served meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.web import Response

from workload_generator.base.listening import listen
from workload_generator.eventing import http_workers
from workload_generator.eventing.counters import Counters

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
REQUEST = HEAD + b"Content-Length: 2\r\n\r\n{}"
LONG_S = 60.0
SHORT_S = 0.2


class Takes:
    """A service that takes everything, once it is allowed to."""

    most_body_bytes = 100_000

    def __init__(self) -> None:
        self.counters = Counters(["rejected", "dropped_connections"])
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.asked = 0

    async def start(self) -> None:
        return

    async def answer(self, path: str, headers: Any, body: bytes, arrived_ns: int) -> Response:
        self.asked += 1
        await self.allowed.wait()
        return Response(status=202, text=f"{len(body)}")

    def is_ready(self) -> bool:
        return True

    async def stop(self) -> None:
        return


class Server:
    """The HTTP server of a worker in this process. `body_timeout_s` is for its next start."""

    def __init__(self) -> None:
        self.service = Takes()
        self._opened: list[asyncio.StreamWriter] = []

    async def start(self, body_timeout_s: float = LONG_S) -> None:
        self._handler = http_workers._Handler(self.service, lambda: "", body_timeout_s)
        self._server = http_workers._Server(self._handler)
        listener = listen("127.0.0.1", 0)
        self._port = listener.getsockname()[1]
        self._accepting = await asyncio.get_running_loop().create_server(self._server, sock=listener)

    async def connect(self, data: bytes) -> asyncio.StreamReader:
        """What comes back on a new connection with these bytes, which stays open."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(data)
        await writer.drain()
        self._opened.append(writer)
        return reader

    async def status(self, data: bytes) -> bytes:
        """The status of the response to these bytes."""
        return (await (await self.connect(data)).readuntil(b"\r\n"))[9:12]

    async def asked(self, requests: int) -> None:
        """Wait until that many requests are in progress."""
        async with asyncio.timeout(LONG_S):
            while self.service.asked < requests:
                await asyncio.sleep(0.01)

    async def begun(self, requests: int) -> None:
        """Wait until that many heads have arrived."""
        async with asyncio.timeout(LONG_S):
            while self._server.requests_count < requests:
                await asyncio.sleep(0.01)

    def last(self) -> asyncio.StreamWriter:
        return self._opened[-1]

    async def end(self) -> None:
        self.service.allowed.set()
        for writer in self._opened:
            writer.close()
        self._accepting.close()
        await self._server.shutdown(1)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    yield made
    await made.end()


async def test_more_half_heads_than_connections_do_not_keep_others_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_workers, "_MOST_CONNECTIONS", 50)
    await server.start()
    half = [await server.connect(HEAD + b"ce-id: ") for _ in range(120)]
    assert await server.status(REQUEST) == b"202"
    assert await server.status(REQUEST) == b"202"
    assert (await half[0].readline()).startswith(b"HTTP/1.1 503 "), "the first one made room"
    assert not half[-1].at_eof()
    assert server.service.counters["dropped_connections"] >= 70


async def test_a_request_in_progress_does_not_make_room_for_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_workers, "_MOST_CONNECTIONS", 5)
    await server.start()
    server.service.allowed.clear()
    asked = [await server.connect(REQUEST) for _ in range(5)]
    await server.asked(5)
    turned_away = await server.connect(REQUEST)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await turned_away.readuntil(b"\r\n")
    server.service.allowed.set()
    assert [(await reader.readuntil(b"\r\n"))[9:12] for reader in asked] == [b"202"] * 5


async def test_half_a_head_has_a_time_limit_and_an_idle_connection_has_a_longer_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_workers, "_HEAD_S", SHORT_S)
    await server.start()
    idle = await server.connect(REQUEST)
    writer = server.last()
    await idle.readuntil(b"\r\n\r\n2")
    assert await server.status(HEAD) == b"408"
    writer.write(REQUEST)
    assert (await idle.readuntil(b"\r\n"))[9:12] == b"202", "it was idle for longer than a head may take"


async def test_a_head_in_pieces_is_a_head(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_workers, "_HEAD_S", SHORT_S)
    await server.start()
    server.service.allowed.clear()
    reader = await server.connect(REQUEST[:20])
    server.last().write(REQUEST[20:])
    await server.asked(1)
    assert await server.status(HEAD) == b"408", "in the meantime"
    server.service.allowed.set()
    assert (await reader.readuntil(b"\r\n"))[9:12] == b"202", "its own time was over with its head"


async def test_half_a_head_behind_a_request_waits_for_its_response(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_workers, "_HEAD_S", SHORT_S)
    await server.start()
    server.service.allowed.clear()
    reader = await server.connect(REQUEST)
    await server.asked(1)
    server.last().write(HEAD)
    assert await server.status(HEAD) == b"408", "in the meantime"
    server.service.allowed.set()
    assert re.findall(rb"HTTP/1.1 (...)", await reader.read()) == [b"202", b"408"]


async def test_the_end_of_a_body_is_not_the_begin_of_a_head(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_workers, "_HEAD_S", SHORT_S)
    await server.start()
    head = HEAD + b"Content-Length: 90000\r\n\r\n"
    reader = await server.connect(head)
    writer = server.last()
    await server.begun(1)
    writer.write(b"x" * 90_000)
    assert (await reader.readuntil(b"\r\n\r\n90000"))[9:12] == b"202"
    assert await server.status(HEAD) == b"408", "in the meantime"
    writer.write(REQUEST)
    assert (await reader.readuntil(b"\r\n"))[9:12] == b"202", "it was idle"


@pytest.mark.parametrize(
    "head", [HEAD + b"a: " + b"x" * 100_000, HEAD + b"a: b\r\n" * 10_000, b"POST /" + b"x" * 100_000]
)
async def test_a_head_has_a_size_limit(server: Server, head: bytes) -> None:
    await server.start()
    assert await server.status(head) in (b"431", b"400")
    assert await server.status(REQUEST) == b"202"


async def test_bodies_have_limits_of_size_time_and_memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_workers, "_MOST_READING_BYTES", 200_000)
    await server.start(body_timeout_s=2.0)
    big = HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 80_000
    assert await server.status(HEAD + b"Content-Length: 100001\r\n\r\n") == b"413"
    slow = [await server.connect(big) for _ in range(2)]
    while server._handler._reading < 160_000:
        await asyncio.sleep(0.01)
    assert await server.status(big) == b"503", "there is no memory for a third"
    assert await server.status(REQUEST) == b"202"
    assert [(await reader.readuntil(b"\r\n"))[9:12] for reader in slow] == [b"408", b"408"]
    assert server._handler._reading == 0 and server.service.counters["rejected"] == 3


@pytest.mark.parametrize("expectation", [b"100-continue", b"100-Continue"])
async def test_a_client_that_expects_100_continue_gets_it_before_its_body(server: Server, expectation: bytes) -> None:
    await server.start()
    reader = await server.connect(HEAD + b"Expect: " + expectation + b"\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    server.last().write(b"{}")
    assert (await reader.readuntil(b"\r\n"))[9:12] == b"202"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n", b"413"),
        (HEAD.replace(b"POST", b"PUT") + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"405"),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}", b"202"),
    ],
)
async def test_a_client_that_need_not_or_must_not_send_a_body_gets_its_response(
    server: Server, head: bytes, status: bytes
) -> None:
    await server.start()
    assert await server.status(head) == status
