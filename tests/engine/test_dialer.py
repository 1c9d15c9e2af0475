"""Names with several addresses: turns, attempts beside each other, and the memory of those that failed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from tests import needs
from tests.engine import servers
from tests.engine.client import Client, Make
from workload_generator.base.clock import NS_PER_MS, NS_PER_S
from workload_generator.engine import dialer, resolver
from workload_generator.engine.dialer import Dialer
from workload_generator.engine.resolver import Address
from workload_generator.log.records import ErrorKind

URL = "http://several.test:{}/"
Name = Callable[..., int]


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str], int], None]:
    """Gives `several.test` its addresses."""

    def resolve(hosts: list[str], port: int) -> None:
        found = [Address(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)) for host in hosts]

        def look_up(host: str, _port: int, flags: int = 0) -> resolver.Answer:
            return socket.gaierror(socket.EAI_NONAME, host) if flags else found

        monkeypatch.setattr(resolver, "_look_up", look_up)

    return resolve


@contextlib.asynccontextmanager
async def serve_on(*hosts: str) -> AsyncIterator[list[servers.Server]]:
    """Servers on one port of several addresses, which answer one request of each connection."""
    async with contextlib.AsyncExitStack() as opened:
        made: list[servers.Server] = []
        for host in hosts:
            port = made[0].port if made else 0
            made.append(await opened.enter_async_context(servers.serve(servers.says_close(), host=host, port=port)))
        yield made


@contextlib.contextmanager
def swallowing(host: str, port: int) -> Iterator[None]:
    """A port that does not answer: its backlog is full."""
    with socket.socket() as listening, contextlib.ExitStack() as waiting:
        listening.bind((host, port))
        listening.listen(0)
        for _ in range(6):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex((host, port))
        yield


async def test_each_connection_begins_at_the_next_address(clients: Make, name: Name) -> None:
    client: Client = clients()
    hosts = ["127.0.0.43", "127.0.0.44", "127.0.0.45"]
    async with serve_on(*hosts) as three:
        name(hosts, three[0].port)
        results = [await client.ask(URL.format(three[0].port)) for _ in range(9)]
    assert [server.connections for server in three] == [3, 3, 3]
    assert [result.address for result in results] == hosts * 3 and {result.error for result in results} == {None}


async def test_a_reused_connection_has_no_address(clients: Make) -> None:
    client: Client = clients()
    async with servers.serve(servers.answers()) as server:
        results = [await client.ask(server.url) for _ in range(2)]
    assert [result.address for result in results] == ["127.0.0.1", None]


@pytest.mark.parametrize("times", [1, 6])
async def test_an_address_that_refuses_costs_nothing(clients: Make, name: Name, times: int) -> None:
    client: Client = clients()
    async with serve_on("127.0.0.42") as (server,):
        name(["127.0.0.41", "127.0.0.42"], server.port)
        results = [await client.ask(URL.format(server.port)) for _ in range(times)]
    assert {result.error for result in results} == {None}
    assert {result.address for result in results} == {"127.0.0.42"}
    assert all(result.ttfb_ns is not None and result.ttfb_ns < 200 * NS_PER_MS for result in results[1:])


async def test_an_address_that_does_not_answer_costs_250_ms_once(clients: Make, name: Name) -> None:
    client: Client = clients()
    async with serve_on("127.0.0.47") as (server,):
        with swallowing("127.0.0.46", server.port):
            name(["127.0.0.46", "127.0.0.47"], server.port)
            first, *others = [await client.ask(URL.format(server.port)) for _ in range(4)]
    assert {result.error for result in (first, *others)} == {None} and server.connections == 4
    assert first.ttfb_ns is not None and first.ttfb_ns >= 249 * NS_PER_MS, "TTFB counts from the first attempt"
    assert first.connect_ns is not None and first.connect_ns < 240 * NS_PER_MS, "connect is the winner's"
    assert all(result.ttfb_ns is not None and result.ttfb_ns < 240 * NS_PER_MS for result in others)


async def test_the_first_address_may_still_win(clients: Make, name: Name, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Client = clients()
    monkeypatch.setattr(dialer, "_PATIENCE_S", 0.0)
    async with serve_on("127.0.0.48") as (server,):
        with swallowing("127.0.0.49", server.port):
            name(["127.0.0.48", "127.0.0.49"], server.port)
            results = [await client.ask(URL.format(server.port)) for _ in range(4)]
    assert [result.address for result in results] == ["127.0.0.48"] * 4


@needs.mark(needs.IPV6)
async def test_both_families_are_used(clients: Make, name: Name) -> None:
    client: Client = clients()
    async with serve_on("127.0.0.1", "::1") as (four, six):
        name(["127.0.0.1", "::1"], four.port)
        results = [await client.ask(URL.format(four.port)) for _ in range(4)]
    assert [result.address for result in results] == ["127.0.0.1", "::1"] * 2
    assert (four.connections, six.connections) == (2, 2)


async def test_when_all_fail_the_error_that_says_most_is_reported(clients: Make, name: Name) -> None:
    client: Client = clients()
    async with servers.refusing() as nobody:
        name(["127.0.0.1", "not an address"], nobody.port)
        results = [await client.ask(URL.format(nobody.port)) for _ in range(2)]
    assert [(result.error, result.address) for result in results] == [(ErrorKind.CONNECT_REFUSED, None)] * 2
    assert all(result.message is not None and "Connection refused" in result.message for result in results)


async def test_addresses_that_do_not_answer_end_with_the_timeout(clients: Make, name: Name) -> None:
    client: Client = clients(timeout_s=0.6)
    async with serve_on("127.0.0.1") as (server,):
        port = server.port
    with swallowing("127.0.0.46", port), swallowing("127.0.0.47", port):
        name(["127.0.0.46", "127.0.0.47"], port)
        result = await client.ask(URL.format(port))
    assert (result.error, result.connect_ns, result.address) == (ErrorKind.CONNECT_TIMEOUT, None, None)


def addresses(*hosts: str) -> list[Address]:
    return [Address(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, 1)) for host in hosts]


async def test_addresses_that_failed_are_last_for_30_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 5 * NS_PER_S
    monkeypatch.setattr(dialer, "monotonic_ns", lambda: now_ns)
    made, three = Dialer(asyncio.get_running_loop()), addresses("1.1.1.1", "2.2.2.2", "3.3.3.3")
    one, two, _ = three
    assert made.in_turn(three) == three
    made.failed(one)
    for _ in range(4):
        assert made.in_turn(three)[-1] == one
    now_ns += 30 * NS_PER_S
    assert one in {made.in_turn(three)[0] for _ in range(3)}
    for each in three:
        made.failed(each)
    assert {made.in_turn(three)[0] for _ in range(3)} == {*three}, "when all have failed, they take turns"
    assert made.in_turn([two]) == [two]


async def test_an_address_that_wins_is_not_last_any_more() -> None:
    made, found = Dialer(asyncio.get_running_loop()), addresses("1.1.1.1", "2.2.2.2")
    made.failed(found[1])
    assert [made.in_turn(found)[0] for _ in range(2)] == [found[0]] * 2
    made.works(found[1])
    assert {made.in_turn(found)[0] for _ in range(2)} == {*found}


async def test_families_alternate() -> None:
    made = Dialer(asyncio.get_running_loop())
    found = addresses("::1", "::2", "::3", "1.1.1.1")
    assert made.in_turn(found) == addresses("::1", "1.1.1.1", "::2", "::3")
    assert made.in_turn(found) == addresses("1.1.1.1", "::2", "::3", "::1")
