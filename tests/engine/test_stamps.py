"""What kernel stamps are for: a TTFB that does not depend on how busy the generator's loop is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine import servers
from tests.engine.client import Client
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from workload_generator.engine import dialer, timestamps
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.log.records import Result, Stamp

HEAD, BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"false"
STALL_S = 0.4

Answer = Callable[[Any], None]


@contextlib.contextmanager
def server(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server in a thread of its own, so that it answers while the event loop is stalled."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            plain, _ = listening.accept()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with tls.wrap_socket(plain, server_side=True) if tls is not None else plain as peer:
                while peer.recv(4096):
                    answer(peer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        scheme, name = ("https", "localhost") if tls is not None else ("http", "127.0.0.1")
        yield f"{scheme}://{name}:{listening.getsockname()[1]}/"
    thread.join(5)


def whole(peer: Any) -> None:
    peer.sendall(HEAD + BODY)


def head_then_body(peer: Any) -> None:
    peer.sendall(HEAD)
    time.sleep(0.01)
    peer.sendall(BODY)


def stall(seconds: float = STALL_S) -> None:
    time.sleep(seconds)


async def ask_stamped(client: Client, url: str, **options: Any) -> Result:
    """The kernel begins to stamp a little after it was asked to: ask until it does."""
    for _ in range(200):
        result = await client.ask(url, **options)
        if result.stamp is Stamp.KERNEL:
            return result
        await asyncio.sleep(0.01)
    raise AssertionError("the kernel does not stamp")


async def ask_stalled(
    client: Client, url: str, meanwhile: Callable[[], None] | None = None, stamps: bool = True, **options: Any
) -> Result:
    """One request on a connection that is open, with the loop stalled while it is answered."""
    if stamps:
        await ask_stamped(client, url, **options)
    else:
        await client.ask(url, **options)
    client.start(url, **options)
    (meanwhile or stall)()
    await client.engine.drain()
    return client.results[-1]


@pytest.fixture
async def client() -> Any:
    made = Client()
    yield made
    made.engine.close()


async def test_a_stalled_loop_reads_late_and_reports_the_truth(client: Client) -> None:
    with server(whole) as url:
        result = await ask_stalled(client, url)
        client.engine.close()
    assert (result.stamp, result.segments, result.reused) == (Stamp.KERNEL, 1, True)
    assert result.ttfb_ns is not None and 0 < result.ttfb_ns < STALL_S * NS_PER_S
    assert result.total_ns == result.ttfb_ns, "one segment: first and last byte came together"


async def test_under_tls_too(client: Client) -> None:
    certificates = servers.Certificates()
    with server(whole, certificates.server()) as url:
        result = await ask_stalled(client, url, tls=certificates.client())
        client.engine.close()
    assert (result.stamp, result.reused) == (Stamp.KERNEL, True)
    assert result.ttfb_ns is not None and 0 < result.ttfb_ns < STALL_S * NS_PER_S


async def test_a_head_that_comes_before_its_body_is_the_first_byte(client: Client) -> None:
    def slow_body(peer: Any) -> None:
        peer.sendall(HEAD)
        time.sleep(0.2)
        peer.sendall(BODY)

    with server(slow_body) as url:
        result = await ask_stamped(client, url)
        client.engine.close()
    assert (result.stamp, result.segments) == (Stamp.KERNEL, 2)
    assert result.ttfb_ns is not None and result.total_ns is not None
    assert result.total_ns - result.ttfb_ns >= 150 * NS_PER_MS


async def test_segments_that_are_read_at_once_are_counted(client: Client) -> None:
    with server(head_then_body) as url:
        result = await ask_stalled(client, url)
        again = await ask_stalled(client, url)
        client.engine.close()
    assert result.segments >= 2 and again.segments >= 2  # a third is the server's tail loss probe
    assert result.stamp is Stamp.KERNEL


async def test_cached_responses_are_counted_once_one_had_more_segments(client: Client) -> None:
    """Cached responses are assumed to have one segment only until one had more."""
    answers = iter([whole] * 40 + [head_then_body] * 80)
    with server(lambda peer: next(answers)(peer)) as url:
        for _ in range(40):
            assert (await client.ask(url)).segments == 1
        for _ in range(80):
            client.start(url)
            stall(0.02)  # so that both segments are there, and one read takes them
            await client.engine.drain()
        client.engine.close()
    counted = [result.segments for result in client.results[40:]]
    assert client.engine.counts_segments and min(counted[-40:]) >= 2
    assert sum(counted) >= 160, "those that were taken to have one show with the next question"


@pytest.mark.parametrize("step_ns", [-300 * NS_PER_MS, 250 * NS_PER_MS, 3600 * NS_PER_S])
async def test_a_step_of_the_clock_in_mid_run_changes_no_ttfb(step_ns: int) -> None:
    ahead_ns = 0
    client = Client(clock=ReceiveClock(monotonic_ns, lambda: time.time_ns() + ahead_ns))

    def stall_and_step() -> None:
        nonlocal ahead_ns
        stall()
        ahead_ns = step_ns

    with server(whole) as url:
        result = await ask_stalled(client, url, stall_and_step)
        client.engine.close()
    assert result.stamp is Stamp.USER and client.engine.clock.steps == 1
    assert result.ttfb_ns is not None and STALL_S * NS_PER_S <= result.ttfb_ns < 10 * NS_PER_S


async def test_where_the_kernel_does_not_stamp_the_read_does(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamps.platform, "machine", lambda: "mips")
    assert dialer.stamp_receipts is timestamps.stamp_receipts
    with server(whole) as url:
        result = await ask_stalled(client, url, stamps=False)
        client.engine.close()
    assert result.stamp is Stamp.USER
    assert result.ttfb_ns is not None and result.ttfb_ns >= STALL_S * NS_PER_S


async def test_preconnected_connections_are_used_and_a_failure_is_reported() -> None:
    client = Client()
    async with servers.serve(servers.answers()) as server:
        client.add_endpoint(server.url)
        assert await client.engine.preconnect(40) is None
        assert client.idle == 40
        results = await client.ask_many(server.url, 40)
        assert all(result.reused for result in results) and server.connections == 40
        client.engine.close()
    refused = Client()
    async with servers.refusing() as nobody:
        refused.add_endpoint(nobody.url)
        fault = await refused.engine.preconnect(3)
    assert fault is not None and "refused" in fault
    refused.engine.close()
