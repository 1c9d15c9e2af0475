"""Both connections of the proxy, without sockets: the result is the same for any segmentation of the bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.errors import RequestRefused
from workload_generator.emulator.client_connection import ClientConnection
from workload_generator.emulator.http_stream import Head
from workload_generator.emulator.instance_connection import InstanceConnection, NotSent
from workload_generator.emulator.proxied_request import ProxiedRequest


async def settle() -> None:
    """Let all tasks run until they wait for something."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(steps: Coroutine[Any, Any, None]) -> None:
    """For Hypothesis, which calls no coroutines."""
    asyncio.run(steps)


class Transport:
    """A transport that records what it gets."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Router:
    """Responds to requests with their target, each once `answer` is called; with `early` at once, whatever follows."""

    def __init__(self, early: bool = False) -> None:
        self.seen: list[tuple[bytes, bytes, bytes]] = []
        self._early = early
        self._waiting: list[asyncio.Future[None]] = []

    async def route(self, request: ProxiedRequest) -> None:
        body = b""
        if not self._early:
            while piece := await request.piece():
                body += piece
            assert not self._waiting, "one at a time"
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[0]
        self.seen.append((request.method, request.target, body))
        request.respond(200, request.target + b"\n", b"text/plain")

    async def answer(self) -> bool:
        """Whether there was a request to respond to."""
        if not self._waiting:
            return False
        self._waiting.pop().set_result(None)
        await settle()
        return True


async def connected(router: Router) -> tuple[Any, Transport]:
    """A client's connection."""
    client: Any = ClientConnection(router.route, {}, most=10)
    transport = Transport()
    client.connection_made(transport)
    await settle()
    return client, transport


Ask = tuple[bytes, bytes, bytes, bool]
"""Method, target, body, and whether the body is chunked."""

bodies = st.binary(max_size=200)
asks = st.tuples(
    st.sampled_from([b"GET", b"POST", b"PUT"]),
    st.sampled_from([b"/a", b"/b?c=d", b"/_platform/faults", b"/" + b"long" * 50]),
    bodies,
    st.booleans(),
)


def encoded(ask: Ask) -> bytes:
    method, target, body, chunked = ask
    head = b"%s %s HTTP/1.1\r\nHost: x\r\n" % (method, target)
    if not chunked:
        return head + (b"Content-Length: %d\r\n\r\n%s" % (len(body), body) if body else b"\r\n")
    pieces = [body[at : at + 70] for at in range(0, len(body), 70)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def plain(body: bytes) -> bytes:
    """The body, without its chunks."""
    whole, rest = b"", body
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        whole, rest = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return whole


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in cuts} | {0, len(data)})
    return [data[start:end] for start, end in zip(places, places[1:], strict=False)]


@given(st.lists(asks, min_size=1, max_size=8), st.lists(st.integers(0, 10**6), max_size=20), st.lists(st.booleans()))
def test_requests_are_parsed_in_order_with_any_segmentation(
    sent: list[Ask], cuts: list[int], answer_now: list[bool]
) -> None:
    async def steps() -> None:
        router = Router()
        client, transport = await connected(router)
        late = iter(answer_now)
        for piece in cut(b"".join(map(encoded, sent)), cuts):
            client.data_received(piece)
            await settle()
            while next(late, True) and await router.answer():
                pass
        while await router.answer():
            pass
        assert router.seen == [ask[:3] for ask in sent]
        answers = transport.written.split(b"HTTP/1.1 200 OK")[1:]
        assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [ask[1] + b"\n" for ask in sent]
        assert transport.reading and not transport.closed and not client._busy

    run(steps())


@given(st.lists(asks, min_size=2, max_size=6), st.lists(st.integers(0, 10**6), max_size=20))
def test_the_rest_of_a_request_is_dropped_after_an_early_response(sent: list[Ask], cuts: list[int]) -> None:
    async def steps() -> None:
        router = Router(early=True)
        client, transport = await connected(router)
        for piece in cut(b"".join(map(encoded, sent)), cuts):
            client.data_received(piece)
            await settle()
        assert [seen[:2] for seen in router.seen] == [ask[:2] for ask in sent]
        assert transport.written.count(b"HTTP/1.1 200 OK") == len(sent) and transport.reading
        assert client.fresh, "nothing is kept"

    run(steps())


async def test_a_client_that_only_pipelines_is_not_read() -> None:
    router = Router()
    client, transport = await connected(router)
    for _ in range(2):
        client.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n" % bytes(60_000).replace(b"\0", b"x"))
        await settle()
    assert not transport.reading
    assert await router.answer() and await router.answer() and transport.reading
    assert not await router.answer()


async def test_a_body_that_is_not_forwarded_is_not_read() -> None:
    go = asyncio.Event()

    async def refuse(request: ProxiedRequest) -> None:
        await go.wait()
        request.refuse(503, "full")

    client: Any = ClientConnection(refuse, {}, most=10)
    transport = Transport()
    client.connection_made(transport)
    await settle()
    client.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + bytes(60_000))
    await settle()
    assert transport.reading
    client.data_received(bytes(10_000))
    assert not transport.reading
    go.set()
    await settle()
    assert transport.reading, "refused: the rest goes nowhere"


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=5))
def test_random_bytes_raise_no_exception(data: bytes, cuts: list[int]) -> None:
    async def steps() -> None:
        client, transport = await connected(Router(early=True))
        for piece in cut(data, cuts):
            if not transport.closed:
                client.data_received(piece)
                await settle()
        client.connection_lost(None)
        await settle()
        assert client._serving.cancelled() or client._serving.exception() is None

    run(steps())


# The instance's side


class Client:
    """A client's connection that records what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.ends: list[str] = []

    def write(self, data: bytes) -> None:
        self.got += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.ends.append("close")

    def abort(self, *, reset: bool = False) -> None:
        assert reset
        self.ends.append("reset")


class Exchange:
    """A connection to an instance, and the request that it forwards."""

    def __init__(self, method: bytes = b"GET", http_1_1: bool = True) -> None:
        self.connection: Any = InstanceConnection("i", lambda now_ns: None)
        self.transport = Transport()
        self.connection.connection_made(self.transport)
        self.head = Head(0, method, b"/", 0, [], http_1_1=http_1_1, keeps_alive=True)
        self.retries = 0

    async def forward(self) -> None:
        """Begin a request."""
        self.client: Any = Client()
        self.outcome = ""
        request = ProxiedRequest(self.client, self.head)
        request.retries = self.retries
        self._task = asyncio.create_task(self._forward(request))
        await settle()

    async def _forward(self, request: ProxiedRequest) -> None:
        try:
            await self.connection.forward(request)
            self.outcome = "answered"
        except NotSent:
            self.outcome = "not sent"
        except RequestRefused as refused:
            self.outcome = str(refused.status)
            request.refuse(refused.status, str(refused))

    async def receive(self, *pieces: bytes) -> None:
        """Have these bytes arrive from the instance."""
        for piece in pieces:
            self.connection.data_received(piece)
            await settle()

    async def lose(self, error: Exception | None = None) -> None:
        """End the instance's connection."""
        self.connection.connection_lost(error)
        await settle()


RESPONSES = {
    "length": (b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
        b"hello",
    ),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
}


@given(st.sampled_from(sorted(RESPONSES)), st.lists(st.integers(0, 1000), max_size=12))
def test_responses_are_forwarded_with_any_segmentation(kind: str, cuts: list[int]) -> None:
    async def steps() -> None:
        raw, body = RESPONSES[kind]
        exchange = Exchange()
        await exchange.forward()
        await exchange.receive(*cut(raw, cuts))
        got = exchange.client.got
        head, _, rest = got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        assert b"x-platform: local\r\n" in head and b"x-platform-instance: i" in head
        if b"Transfer-Encoding: chunked" in head:
            chunks, trailer = rest[: rest.index(b"0\r\n")], rest[rest.index(b"0\r\n") :]
            assert plain(chunks) == body and trailer == b"0\r\nX-T: 1\r\n\r\n"
        else:
            assert rest == body
        assert (exchange.outcome, exchange.client.ends) == ("answered", [])
        assert exchange.connection.reusable == (kind != "close")

    run(steps())


@pytest.mark.parametrize("end", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize("http_1_1", [True, False])
@given(st.data())
def test_a_partial_response_never_looks_complete(end: Exception | None, http_1_1: bool, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["length", "chunks"]))
    raw, _ = RESPONSES[kind]
    place = data.draw(st.integers(0, len(raw) - 1))

    async def steps() -> None:
        exchange = Exchange(http_1_1=http_1_1)
        await exchange.forward()
        if place:
            await exchange.receive(raw[:place])
        await exchange.lose(end)
        begun = place > raw.index(b"\r\n\r\n") + 3
        unframed = kind == "chunks" and not http_1_1
        assert exchange.outcome == "502"
        assert exchange.client.ends == ([("reset" if unframed else "close")] if begun else [])
        assert exchange.client.got.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 502")

    run(steps())


@pytest.mark.parametrize(
    ("method", "retries", "outcome"), [(b"GET", 0, "not sent"), (b"GET", 1, "502"), (b"PUT", 0, "502")]
)
async def test_a_request_on_a_closed_connection_is_retried_once(method: bytes, retries: int, outcome: str) -> None:
    exchange = Exchange(method)
    await exchange.forward()
    await exchange.receive(RESPONSES["length"][0])
    assert exchange.outcome == "answered"
    exchange.retries = retries
    await exchange.forward()
    await exchange.lose()
    assert exchange.outcome == outcome


async def test_a_request_on_a_new_connection_is_not_retried() -> None:
    exchange = Exchange()
    await exchange.forward()
    await exchange.lose()
    assert exchange.outcome == "502"


@pytest.mark.parametrize("more", [RESPONSES["length"][0], b"and some noise"])
async def test_a_connection_with_unexpected_bytes_is_not_reused(more: bytes) -> None:
    exchange = Exchange()
    await exchange.forward()
    await exchange.receive(RESPONSES["length"][0] + more)
    assert exchange.client.got.endswith(b"hello") and exchange.client.got.count(b"HTTP/1.1") == 1
    assert (exchange.outcome, exchange.client.ends, exchange.connection.reusable) == ("answered", [], False)
    exchange = Exchange()
    await exchange.forward()
    await exchange.receive(RESPONSES["length"][0])
    assert exchange.outcome == "answered" and exchange.connection.usable
    await exchange.receive(more)
    assert not exchange.connection.usable


async def test_a_body_can_end_with_the_connection() -> None:
    exchange = Exchange()
    await exchange.forward()
    await exchange.receive(b"HTTP/1.1 200 OK\r\n\r\nhello")
    await exchange.lose()
    assert exchange.client.got.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n") and exchange.outcome == "answered"


async def test_a_response_to_head_has_no_body() -> None:
    exchange = Exchange(b"HEAD")
    for _ in range(2):
        await exchange.forward()
        await exchange.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        assert exchange.outcome == "answered" and exchange.connection.usable and exchange.connection.reusable
        assert exchange.client.got.count(b"Content-Length: 500") == 1


async def test_a_function_cannot_switch_protocols() -> None:
    exchange = Exchange()
    await exchange.forward()
    await exchange.receive(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nnoise")
    assert exchange.outcome == "502" and b"switched protocols" in exchange.client.got
    assert not exchange.connection.reusable
