"""The engine against servers that behave and servers that do not: one result for each arrival, and the right one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.engine import servers
from tests.engine.client import Client, Make, again
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from workload_generator.engine import resolver
from workload_generator.log.records import Arrival, ErrorKind, Phase


async def test_the_first_request_pays_for_the_connection_and_the_second_does_not(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.functions()) as server:
        first, second = await client.ask(server.url), await client.ask(server.url)
    assert (first.status, first.cold, first.reused, first.instance) == (200, True, False, "pod-0")
    assert first.dns_ns == 0 and first.connect_ns and first.connect_ns > 0 and first.tls_ns == 0
    assert (second.cold, second.reused, second.dns_ns, second.connect_ns, second.tls_ns) == (False, True, 0, 0, 0)
    assert server.connections == 1 and first.bytes_read == 4 and first.error is None


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
async def test_ttfb_ends_at_the_first_byte_and_total_at_the_last(clients: Make, delay: float) -> None:
    client = clients()
    async with servers.serve(servers.answers(delay=delay, gap=0.1)) as server:
        result = await client.ask(server.url)
        request = server.requests[0]
    assert result.ttfb_ns is not None and result.total_ns is not None and request.answered_ns is not None
    waited_ns = request.answered_ns - request.came_ns
    assert waited_ns >= delay * NS_PER_S - NS_PER_MS
    assert result.ttfb_ns >= waited_ns
    assert result.total_ns - result.ttfb_ns >= 95 * NS_PER_MS


@pytest.mark.parametrize(
    ("behaviour", "size"),
    [
        (servers.chunks(b"fal", b"se", pause=0.02), 5),
        (servers.chunks(b"x" * 100_000, trailers=b"X-End: 1\r\n"), 100_000),
        (servers.until_close(b"false"), 5),
        (servers.continues(2, pause=0.02), 5),
        (servers.says_close(), 5),
        (servers.answers(b"x" * 3_000_000), 3_000_000),
        (servers.answers(status=204, body=b""), 0),
    ],
)
async def test_bodies_are_read_to_their_end(clients: Make, behaviour: servers.Behaviour, size: int) -> None:
    client = clients()
    async with servers.serve(behaviour) as server:
        for _ in range(2):
            result = await client.ask(server.url)
            assert (result.error, result.bytes_read) == (None, size), result
            assert result.total_ns is not None and result.ttfb_ns is not None and result.total_ns >= result.ttfb_ns


async def test_interim_responses_are_not_the_first_byte(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.continues(1, pause=0.1)) as server:
        result = await client.ask(server.url)
    assert result.status == 200 and result.ttfb_ns is not None and result.ttfb_ns >= 95 * NS_PER_MS


async def test_head_has_no_body_and_keeps_its_connection(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.answers()) as server:
        results = [await client.ask(server.url, method="HEAD"), await client.ask(server.url)]
    assert [(r.error, r.bytes_read, r.reused) for r in results] == [(None, 0, False), (None, 5, True)]


async def test_a_large_body_is_sent_whole(clients: Make) -> None:
    client, body = clients(), b"0123456789" * 500_000
    async with servers.serve(_large_echo()) as server:
        result = await client.ask(server.url, method="POST", body=body)
    assert result.error is None and result.bytes_read == 7


def _large_echo() -> servers.Behaviour:
    async def behave(peer: servers.Peer) -> None:
        while (request := await peer.request()) is not None:
            await peer.send(b"".join(servers.response(b"%d" % len(request.body))))

    return behave


async def test_an_answer_that_comes_before_the_body_is_sent_counts(clients: Make) -> None:
    client = clients()
    head, body = servers.response(b"too large", status=413, headers=b"Connection: close\r\n")
    async with servers.serve(_answers_unread(head + body)) as server:
        result = await client.ask(server.url, method="POST", body=b"x" * 8_000_000)
    assert (result.error, result.status, result.bytes_read) == (None, 413, 9)


def _answers_unread(data: bytes) -> servers.Behaviour:
    """Answer at once, then stop listening, while the client is still sending."""

    async def behave(peer: servers.Peer) -> None:
        await peer.send(data)
        await asyncio.sleep(0.1)
        peer.end(servers.End.CLOSE)

    return behave


@pytest.mark.parametrize(
    ("behaviour", "kind", "has_ttfb"),
    [
        (servers.silent(), ErrorKind.TIMEOUT, False),
        (servers.garbage(), ErrorKind.PROTOCOL, True),
        (servers.half_head(), ErrorKind.RESET, True),
        (servers.half_body(), ErrorKind.BODY, True),
        (servers.half_body(end=servers.End.RESET), ErrorKind.BODY, True),
        (servers.half_body(end=servers.End.KEEP), ErrorKind.TIMEOUT, True),
        (servers.half_chunk(), ErrorKind.BODY, True),
        (servers.hangs_up(), ErrorKind.RESET, False),
        (servers.hangs_up(end=servers.End.RESET), ErrorKind.RESET, False),
        (servers.hangs_up_at_once(), ErrorKind.RESET, False),
    ],
)
async def test_each_misbehaviour_has_its_kind(
    clients: Make, behaviour: servers.Behaviour, kind: ErrorKind, has_ttfb: bool
) -> None:
    client = clients(timeout_s=0.5 if kind is ErrorKind.TIMEOUT else 60)
    async with servers.serve(behaviour) as server:
        results = await client.ask_many(server.url, 5)
    assert {r.error for r in results} == {kind}, results[0]
    assert all((r.ttfb_ns is not None) == has_ttfb and r.total_ns is None and r.cold is None for r in results)
    assert all(r.message for r in results) and client.idle == 0


async def test_refused_and_unknown(clients: Make) -> None:
    client = clients()
    async with servers.refusing() as server:
        refused = await client.ask(server.url)
    assert (refused.error, refused.dns_ns, refused.connect_ns) == (ErrorKind.CONNECT_REFUSED, 0, None)
    tls = servers.Certificates().client()
    for url in ("http://no-such-host.invalid/", f"http://{'a' * 64}.test/", f"https://{'a' * 64}.test/"):
        unknown = await client.ask(url, tls=tls if url.startswith("https") else None)
        assert (unknown.error, unknown.dns_ns) == (ErrorKind.DNS, None)


async def test_a_name_is_looked_up_once_for_many_at_once_and_every_address_is_tried(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.answers()) as server:  # localhost may be ::1 first, where no server listens
        results = await client.ask_many(f"http://localhost:{server.port}/", 20)
        again = await client.ask(f"http://localhost:{server.port}/")
    assert {r.error for r in results} == {None}
    assert all(r.dns_ns is not None and r.dns_ns > 0 for r in results)
    assert again.reused and again.dns_ns == 0


@pytest.mark.parametrize(("host", "name"), [("svc.test.", "svc.test"), ("127.0.0.1", None)])
async def test_tls_names_have_no_trailing_dot(
    clients: Make, host: str, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the greeting nor in the certificate (RFC 6066, 3); addresses are not sent at all."""
    certificates, client, seen = servers.Certificates(), clients(), list[str | None]()
    context = certificates.server("svc.test", "127.0.0.1")
    context.sni_callback = lambda _sock, server_name, _context: seen.append(server_name)
    async with servers.serve(servers.answers(), tls=context) as server:
        found = [resolver.Address(socket.AF_INET, ("127.0.0.1", server.port))]
        monkeypatch.setattr(resolver, "_look_up", lambda *_: found)
        result = await client.ask(f"https://{host}:{server.port}/", tls=certificates.client())
    assert (result.error, seen) == (None, [name])
    assert server.requests[0].headers["host"] == f"{host}:{server.port}"


async def test_ipv6(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.answers(), host="::1") as server:
        result = await client.ask(server.url)
        assert server.requests[0].headers["host"] == server.authority
    assert result.error is None


# Resets that come together with data: the event loop tells of them once and never again


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 2", ErrorKind.RESET),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfa", ErrorKind.BODY),
        (b"HTTP/1.1 200 OK\r\n\r\nfal", ErrorKind.BODY),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 600_000, ErrorKind.BODY),
        (b"", ErrorKind.RESET),
    ],
)
async def test_a_reset_right_behind_data_is_seen(clients: Make, data: bytes, kind: ErrorKind) -> None:
    client = clients(timeout_s=20)
    async with servers.serve(_answers_then_resets(data)) as server:
        before_ns = monotonic_ns()
        results = await client.ask_many(server.url, 20)
        assert monotonic_ns() - before_ns < 10 * NS_PER_S
    assert {r.error for r in results} == {kind}, results[0]


async def test_a_reset_behind_a_whole_answer_is_met_by_a_retry(clients: Make) -> None:
    client = clients(timeout_s=20)
    async with servers.serve(_answers_then_resets(b"".join(servers.response()))) as server:
        results = [await client.ask(server.url) for _ in range(20)]
        post = await client.ask(server.url, method="POST", body=b"x")
    assert {r.error for r in results} == {None}
    assert post.error in (None, ErrorKind.RESET), "a POST is not repeated, but does not wait for its timeout either"


def _answers_then_resets(data: bytes) -> servers.Behaviour:
    async def behave(peer: servers.Peer) -> None:
        if await peer.request() is not None:
            await peer.send(data)
            peer.reset()

    return behave


# Retries


async def test_a_get_on_a_connection_that_died_is_repeated_once(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.stale()) as server:
        first, second = await client.ask(server.url), await client.ask(server.url)
    assert (first.retries, second.retries, second.error, second.reused) == (0, 1, None, False)
    assert server.connections == 2 and second.ttfb_ns is not None and second.connect_ns is not None
    assert second.ttfb_ns > second.connect_ns, "the start stays the first one"


async def test_a_post_is_never_repeated(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.stale()) as server:
        await client.ask(server.url)
        result = await client.ask(server.url, method="POST", body=b"x")
    assert (result.error, result.retries, result.reused) == (ErrorKind.RESET, 0, True)
    assert server.connections == 1


async def test_a_fresh_connection_is_never_repeated(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.hangs_up()) as server:
        result = await client.ask(server.url)
    assert (result.error, result.retries, server.connections) == (ErrorKind.RESET, 0, 1)


async def test_nothing_is_repeated_once_a_byte_has_come(clients: Make) -> None:
    client = clients()
    good = b"".join(servers.response())

    async def half_the_second_time(peer: servers.Peer) -> None:
        await peer.request()
        await peer.send(good)
        await peer.request()
        await peer.send(b"HTTP/1.1 2")

    async with servers.serve(half_the_second_time) as server:
        await client.ask(server.url)
        result = await client.ask(server.url)
    assert (result.error, result.retries, server.connections) == (ErrorKind.RESET, 0, 1)


# The pool


async def test_the_last_released_connection_is_taken_first(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.answers(delay=0.02)) as server:
        await client.ask_many(server.url, 5)
        for _ in range(3):
            await client.ask(server.url)
        assert server.connections == 5
        assert len({request.connection for request in server.requests[5:]}) == 1


@pytest.mark.parametrize(("limits", "kept"), [({"per_host": 3}, 3), ({"max_idle": 2}, 2), ({"per_host": 0}, 2)])
async def test_idle_connections_are_limited(clients: Make, limits: dict[str, int], kept: int) -> None:
    client = clients(**limits)
    async with servers.serve(servers.answers(delay=0.02)) as server:
        await client.ask_many(server.url, 10)
        assert client.idle == kept
        for _ in range(100):
            if server.open_now == kept:
                break
            await asyncio.sleep(0.01)
        assert server.open_now == kept


async def test_a_request_that_is_started_again_goes_out_on_the_connection_of_the_one_before(clients: Make) -> None:
    """Without it having been idle: there is no place for an idle one here."""
    client = clients(max_idle=1, per_host=1)
    async with servers.serve(servers.functions()) as server:
        client.add_endpoint(server.url)
        client.add_endpoint(server.url + "other")
        for seq in (100, 101):
            client.engine.start(Arrival(seq, Phase.MEASURE, 0, 0), again(client, [0, 1, 0, 1, 1]))
        await client.engine.drain()
        assert client.idle == 1
    assert server.connections == 2 and len(client.results) == 12
    assert [result.error for result in client.results] == [None] * 12
    assert sum(result.reused for result in client.results) == 10
    assert sorted(result.target for result in client.results) == [0] * 6 + [1] * 6


async def test_a_request_that_is_started_again_goes_where_its_target_is(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.functions()) as one, servers.serve(servers.functions()) as other:
        client.add_endpoint(one.url)
        client.add_endpoint(other.url)
        client.engine.start(Arrival(9, Phase.MEASURE, 0, 0), again(client, [1, 0, 1]))
        await client.engine.drain()
        assert (one.connections, other.connections, client.idle) == (1, 1, 2)
    assert [result.target for result in client.results] == [0, 1, 0, 1]
    assert [result.reused for result in client.results] == [False, False, True, True]


async def test_a_target_that_was_only_ever_started_again_gives_its_connection_back(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.functions()) as server:
        client.add_endpoint(server.url)
        client.add_endpoint(server.url + "other")
        client.engine.start(Arrival(9, Phase.MEASURE, 0, 0), again(client, [1]))
        await client.engine.drain()
        assert client.idle == 1
    assert [result.target for result in client.results] == [0, 1]


async def test_data_from_before_the_request_is_not_its_response(clients: Make) -> None:
    """An idle connection is read, and a request takes it before it gets the data."""
    client = clients()
    async with servers.serve(servers.functions()) as server:
        first = await client.ask(server.url)
        watched = client.engine.poller._watched
        ((_, connection),) = watched.values()
        stray, before_ns = next(iter(client.engine.cache)), monotonic_ns()
        client.start(server.url, method="POST", body=b"x")
        connection.on_received(stray, (), before_ns)
        assert [result.error for result in client.results] == [first.error, ErrorKind.PROTOCOL]
        client.start(server.url)
        connection.on_received(stray, (), before_ns)  # it is closed
        await client.engine.drain()
    assert client.results[-1].error is None


async def test_a_connection_that_is_idle_too_long_is_closed(clients: Make) -> None:
    client = clients(idle_s=0.1)
    async with servers.serve(servers.answers()) as server:
        await client.ask(server.url)
        assert client.idle == 1
        for _ in range(300):
            if server.open_now == 0:
                break
            await asyncio.sleep(0.01)
        assert (client.idle, server.open_now) == (0, 0)


async def test_a_server_that_closes_an_idle_connection_costs_nothing(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.closes_idle(0.3)) as server:
        await client.ask(server.url)
        assert client.idle == 1
        while client.idle:
            await asyncio.sleep(0.01)
        result = await client.ask(server.url)
    assert (result.error, result.retries, result.reused) == (None, 0, False)


async def test_bytes_after_a_response_do_not_answer_the_next_request(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.sends(b"".join(servers.response()) + b"HTTP/1.1 200 OK\r\n")) as server:
        results = [await client.ask(server.url) for _ in range(3)]
    assert [r.error for r in results] == [None] * 3 and server.connections == 3


# TLS


async def test_tls_is_verified_timed_and_reused(clients: Make) -> None:
    certificates, client = servers.Certificates(), clients()
    async with servers.serve(servers.answers(), tls=certificates.server()) as server:
        tls = certificates.client()
        first, second = await client.ask(server.url, tls=tls), await client.ask(server.url, tls=tls)
        large = await client.ask(server.url, tls=tls, method="POST", body=b"x" * 1_000_000)
    assert first.error is None and first.tls_ns and first.ttfb_ns and first.connect_ns
    assert first.ttfb_ns > first.tls_ns + first.connect_ns
    assert (second.error, second.reused, second.tls_ns) == (None, True, 0)
    assert large.error is None and len(server.requests[-1].body) == 1_000_000


@pytest.mark.parametrize("fault", ["unknown authority", "other name", "plain text", "silent"])
async def test_wrong_tls_has_its_kind(clients: Make, fault: str) -> None:
    certificates, client = servers.Certificates(), clients(timeout_s=0.5 if fault == "silent" else 60)
    if fault in ("plain text", "silent"):
        behaviour = servers.garbage(b"HTTP/1.1 400 Bad\r\n\r\n") if fault == "plain text" else servers.silent()
        async with servers.serve(_without_asking(behaviour)) as server:
            result = await client.ask(server.other_url, tls=certificates.client())
    else:
        context = certificates.server("example.org") if fault == "other name" else certificates.server()
        trusted = servers.Certificates() if fault == "unknown authority" else certificates
        async with servers.serve(servers.answers(), tls=context) as server:
            result = await client.ask(server.url, tls=trusted.client())
    assert result.error is (ErrorKind.TIMEOUT if fault == "silent" else ErrorKind.TLS), result
    assert result.connect_ns is not None and result.tls_ns is None and result.message
    if fault in ("unknown authority", "other name"):
        assert "certificate" in result.message


def _without_asking(behaviour: servers.Behaviour) -> servers.Behaviour:
    """Speak plain text at a client that begins with a TLS hello."""

    async def behave(peer: servers.Peer) -> None:
        if behaviour.__qualname__.startswith("silent"):
            await peer.gone()
        else:
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await peer.gone()

    return behave


# Time and ends


async def test_the_timeout_covers_the_whole_request(clients: Make) -> None:
    client = clients(timeout_s=0.3)
    dribble = servers.sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *[b"x"] * 100, pause=0.05)
    async with servers.serve(dribble) as server:
        before_ns = monotonic_ns()
        result = await client.ask(server.url)
        took_ns = monotonic_ns() - before_ns
    assert result.error is ErrorKind.TIMEOUT and result.ttfb_ns is not None and result.status == 200
    assert took_ns >= 300 * NS_PER_MS


async def test_cancelling_ends_everything_at_once(clients: Make) -> None:
    client = clients()
    async with servers.serve(servers.silent()) as server:
        for _ in range(10):
            client.start(server.url)
        client.start("http://no-such-host.invalid/")
        client.engine.cancel_all("the run was stopped")
        await client.engine.drain()
        await asyncio.sleep(0.2)  # the late answer of the resolver must not come back to life
    assert {(r.error, r.message) for r in client.results} == {(ErrorKind.CANCELLED, "the run was stopped")}


@pytest.mark.parametrize("how", ["cancel_all", "cancel"])
async def test_cancelling_ends_connections_that_open_before_the_run(clients: Make, how: str) -> None:
    client = clients(timeout_s=60)
    async with servers.serve(servers.silent()) as server:
        client.add_endpoint(server.other_url, tls=servers.Certificates().client())
        opening = asyncio.create_task(client.engine.preconnect(40))
        while server.connections < 16:
            await asyncio.sleep(0.01)
        if how == "cancel":
            opening.cancel()
        client.engine.cancel_all("the run was stopped")
        async with asyncio.timeout(10):
            (outcome,) = await asyncio.gather(opening, return_exceptions=True)
            while server.open_now:
                await asyncio.sleep(0.01)
    assert isinstance(outcome, asyncio.CancelledError) if how == "cancel" else outcome == "the run was stopped"
    assert client.idle == 0 and not client.results


async def test_connections_that_do_not_open_end_with_the_timeout(clients: Make) -> None:
    client = clients(timeout_s=0.2)
    async with servers.serve(servers.silent()) as server:
        client.add_endpoint(server.other_url, tls=servers.Certificates().client())
        assert await client.engine.preconnect(3) == "3 connections were not open within 0.2 s"
    assert client.idle == 0


@pytest.mark.parametrize("behaviour", [servers.functions, servers.hangs_up])
@pytest.mark.parametrize("where", ["the record", "on_done"])
async def test_the_drain_does_not_wait_for_a_request_that_a_generator_fault_has_ended(
    clients: Make, behaviour: Callable[[], servers.Behaviour], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault goes to the event loop, and the arrival is out of flight all the same."""
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(str(context["exception"])))

    def fail(*_: object) -> None:
        raise LookupError("planted")

    def failing(record: Callable[..., None]) -> Callable[..., None]:
        def take(*fields: Any) -> None:
            record(*fields)
            fail()

        return take

    if where == "the record":
        for name in ("add", "served"):
            monkeypatch.setattr(Client, name, failing(getattr(Client, name)))
    client = clients(timeout_s=60)
    async with servers.serve(behaviour()) as server:
        client.add_endpoint(server.url)
        client.engine.start(Arrival(0, Phase.MEASURE, 0, 0), fail if where == "on_done" else None)
        async with asyncio.timeout(10):
            await client.engine.drain()
    assert faults == ["planted"]


async def test_a_thousand_at_once_to_a_dying_server_are_a_thousand_results(clients: Make) -> None:
    client = clients(timeout_s=60)

    async def sometimes(peer: servers.Peer) -> None:
        while (request := await peer.request()) is not None:
            if request.connection % 3 == 0:
                peer.reset()
                return
            await peer.send(b"".join(servers.response()))

    async with servers.serve(sometimes) as server:
        for _ in range(1000):
            client.start(server.url)
            if client.engine.in_flight % 50 == 0:
                await asyncio.sleep(0)
        await client.engine.drain()
    assert len(client.results) == 1000 and len({r.seq for r in client.results}) == 1000
    assert {r.error for r in client.results} == {None, ErrorKind.RESET}
