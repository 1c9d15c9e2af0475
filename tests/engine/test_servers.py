"""The test servers do what they are named after."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic_ns

import pytest

from tests import needs
from tests.engine import servers
from tests.engine.servers import Certificates, End, Server, serve
from workload_generator.engine.http1 import ProtocolError, ResponseReader, encode_request

MS = 1_000_000


class Client:
    """One connection that asks and reads; after an end it says how that came: "eof" or "reset"."""

    def __init__(self, url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._url = url
        self._reader = reader
        self._writer = writer
        self.response = ResponseReader()
        self.first_ns = self.last_ns = 0

    async def ask(self, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None) -> str:
        self.response.start(method)
        start_ns = monotonic_ns()
        self.first_ns = 0
        try:
            self._writer.write(encode_request(method, self._url, headers or {}, body))
            while data := await self._reader.read(65536):
                self.first_ns = self.first_ns or monotonic_ns() - start_ns
                if self.response.feed(data):
                    self.last_ns = monotonic_ns() - start_ns
                    return "complete"
        except ConnectionError:
            return "reset"
        return "complete" if self.response.at_eof() else "eof"

    async def ended(self) -> str:
        try:
            return "data" if await self._reader.read(1) else "eof"
        except ConnectionError:
            return "reset"

    @property
    def said(self) -> tuple[int, bytes]:
        return self.response.status, self.response.body_head


@asynccontextmanager
async def client(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(server.host, server.port, ssl=tls)
    try:
        yield Client(server.url, reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_answers_over_and_over_and_records() -> None:
    async with serve(servers.answers(b"true", headers=b"x-instance: pod-1\r\n")) as server:
        async with client(server) as one:
            for body in (None, b"\0\r\n\r\n"):
                assert await one.ask("POST", body) == "complete"
                assert one.said == (200, b"true")
                assert one.response.instance == b"pod-1"
                assert one.response.keep_alive
            assert await one.ask("HEAD") == "complete"
            assert one.response.keep_alive
        async with client(server) as two:
            assert await two.ask(headers={"Connection": "close"}) == "complete"
            assert not two.response.keep_alive
            assert await two.ended() == "eof"
    assert [(r.method, r.body, r.connection, r.nth) for r in server.requests] == [
        ("POST", b"", 0, 0),
        ("POST", b"\0\r\n\r\n", 0, 1),
        ("HEAD", b"", 0, 2),
        ("GET", b"", 1, 0),
    ]
    assert server.requests[1].raw == encode_request("POST", server.url, {}, b"\0\r\n\r\n")
    assert server.requests[0].headers["host"] == server.authority
    assert (server.connections, server.open_now) == (2, 0)
    assert server.most_open <= 2


async def test_the_delays_are_what_they_say() -> None:
    async with serve(servers.answers(delay=0.05, gap=0.3)) as server, client(server) as one:
        assert await one.ask() == "complete"
        assert one.first_ns >= 50 * MS
        assert one.last_ns >= one.first_ns + 100 * MS
        (request,) = server.requests
        assert request.answered_ns is not None
        assert request.answered_ns - request.came_ns >= 50 * MS


async def test_unexpected_status() -> None:
    async with serve(servers.answers(b"no", status=503)) as server, client(server) as one:
        assert await one.ask() == "complete"
        assert one.said == (503, b"no")


async def test_functions_are_cold_once() -> None:
    async with serve(servers.functions(instances=2)) as server:
        said = []
        for _ in range(3):
            async with client(server) as one:
                assert await one.ask() == "complete"
                said.append((one.response.instance, one.response.cold))
                assert await one.ask() == "complete"
                assert one.response.cold is False
    assert said == [(b"pod-0", True), (b"pod-1", True), (b"pod-0", False)]


@pytest.mark.parametrize(
    ("behaviour", "keep_alive"),
    [
        (servers.chunks(b"fal", b"se"), True),
        (servers.chunks(b"fal", b"se", trailers=b"A: b\r\n", pause=0.01), True),
        (servers.until_close(), False),
        (servers.until_close(pause=0.01), False),
        (servers.continues(), True),
        (servers.continues(times=3, pause=0.01), True),
        (servers.says_close(), False),
        (servers.closes_after_each(), True),
        (servers.closes_idle(0.5), True),
        (servers.stale(), True),
    ],
)
async def test_complete_answers(behaviour: servers.Behaviour, keep_alive: bool) -> None:
    async with serve(behaviour) as server, client(server) as one:
        assert await one.ask() == "complete"
        assert one.said == (200, b"false")
        assert one.response.keep_alive == keep_alive


@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
@pytest.mark.parametrize(
    ("make", "has_data", "head_complete"),
    [
        (servers.hangs_up, False, False),
        (servers.hangs_up_at_once, False, False),
        (servers.half_head, True, False),
        (servers.half_body, True, True),
        (servers.half_chunk, True, True),
    ],
)
async def test_answers_that_end_early(
    make: Callable[[End], servers.Behaviour], has_data: bool, head_complete: bool, end: End
) -> None:
    async with serve(make(end)) as server, client(server) as one:
        how = await one.ask()
        # A close with a request unread is a reset, too.
        assert how == "reset" if end is End.RESET else how in ("eof", "reset")
        assert (one.response.has_data, one.response.head_complete) == (has_data, head_complete)


async def test_an_idle_connection_that_is_gone() -> None:
    async with serve(servers.closes_after_each()) as server, client(server) as one:
        assert await one.ask() == "complete"
        assert one.response.keep_alive
        assert await one.ended() == "eof"


@pytest.mark.parametrize(("end", "how"), [(End.CLOSE, "eof"), (End.RESET, "reset")])
async def test_a_stale_connection_takes_the_request_and_ends(end: End, how: str) -> None:
    async with serve(servers.stale(end=end, good=2)) as server:
        for _ in range(2):
            async with client(server) as one:
                assert await one.ask() == await one.ask() == "complete"
                assert await one.ask() == how
                assert not one.response.has_data
    assert [(r.connection, r.nth) for r in server.requests] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


async def test_an_idle_connection_is_closed_in_time() -> None:
    async with serve(servers.closes_idle(0.5)) as server, client(server) as one:
        assert await one.ask() == await one.ask() == "complete"
        start_ns = monotonic_ns()
        assert await one.ended() == "eof"
        assert monotonic_ns() - start_ns >= 450 * MS


async def test_silence_and_garbage() -> None:
    async with serve(servers.silent()) as server, client(server) as one:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.ask(), 0.1)
        while not server.requests:
            await asyncio.sleep(0.01)
    async with serve(servers.garbage()) as server, client(server) as one:
        with pytest.raises(ProtocolError):
            await one.ask()


async def test_refusing() -> None:
    async with servers.refusing() as server:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(server.host, server.port)


@needs.mark(needs.IPV6)
async def test_ipv6() -> None:
    async with serve(servers.answers(), host="::1") as server, client(server) as one:
        assert server.url.startswith("http://[::1]:")
        assert await one.ask() == "complete"


async def test_tls_good_and_bad() -> None:
    ours, theirs = Certificates(), Certificates()
    async with serve(servers.answers(), tls=ours.server()) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with client(server, ours.client()) as one:
            assert await one.ask() == await one.ask() == "complete"
            assert one.said == (200, b"false")
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer|self.signed"):
            async with client(server, theirs.client()):
                pass
    assert len(server.requests) == 2
    async with serve(servers.answers(), tls=ours.server("wrong.example")) as server:
        with pytest.raises(ssl.SSLCertVerificationError, match="(?i)IP address mismatch"):
            async with client(server, ours.client()):
                pass
    async with serve(servers.garbage()) as server:
        assert server.other_url.startswith("https://")
        with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
            await asyncio.wait_for(asyncio.open_connection(server.host, server.port, ssl=ours.client()), 0.5)
    async with serve(servers.hangs_up(End.RESET), tls=ours.server()) as server, client(server, ours.client()) as one:
        assert await one.ask() in ("reset", "eof")


async def test_a_behaviour_that_breaks_fails_the_test() -> None:
    async def broken(_peer: servers.Peer) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with serve(broken) as server, client(server) as one:
            await one.ended()
