"""Data that no request asked for ends its connection, and never answers the next request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.engine import servers
from tests.engine.client import Client, Make, again
from tests.engine.test_stamps import ask_stamped, stall
from workload_generator.log.records import Arrival, ErrorKind, Phase

ANSWER = b"".join(servers.response())
STRAY = b"".join(servers.response(b"", status=408, headers=b"Connection: close\r\n"))
OLDER_S = 0.002  # well beyond what a stamp and the clock may differ by


@pytest.fixture
async def client(clients: Make) -> Client:
    return clients()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("data", [STRAY, ANSWER, b"\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_data_on_an_idle_connection_ends_it(client: Client, data: bytes) -> None:
    async with servers.serve(servers.answers()) as server:
        await client.ask(server.url)
        server.peers[0].send_now(data)
        await until(lambda: not client.idle)
        result = await client.ask(server.url, method="POST", body=b"x")
    assert (result.error, result.status, result.reused, result.retries) == (None, 200, False, 0)
    assert client.engine.unasked == 1
    assert [(request.method, request.connection) for request in server.requests] == [("GET", 0), ("POST", 1)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("stray", [STRAY, ANSWER])
async def test_data_older_than_the_request_is_not_its_response(client: Client, method: str, stray: bytes) -> None:
    """It shows by the kernel's stamp only: the data had not been read when the request was sent."""
    body = b"x" if method == "POST" else None
    async with servers.serve(servers.answers()) as server:
        await ask_stamped(client, server.url)
        before = len(server.requests)
        server.peers[0].send_now(stray)
        stall(OLDER_S)
        result = await client.ask(server.url, method=method, body=body)
        asked = server.requests[before:]
    if method == "POST":
        assert (result.error, result.status, result.ttfb_ns, result.retries) == (ErrorKind.PROTOCOL, 0, None, 0)
        assert result.message == "the server sent data before the request" and result.reused
        assert len(asked) <= 1, "nothing is sent twice"
    else:
        assert (result.error, result.status, result.retries, result.reused) == (None, 200, 1, False)
        assert [request.connection for request in asked][-1] == 1
    assert client.engine.unasked == 1 and client.engine.cache


async def test_a_connection_whose_data_was_read_is_not_taken(client: Client) -> None:
    """A closed loop goes on to another origin while data of an idle connection to it waits in the same batch."""
    async with servers.serve(servers.answers()) as one, servers.serve(servers.answers()) as other:
        client.add_endpoint(one.url)
        client.add_endpoint(other.url, method="POST", body=b"x")
        for target in (0, 1):
            client.engine.start(Arrival(target, Phase.MEASURE, target, 0))
        await client.engine.drain()
        assert client.idle == 2
        client.engine.start(Arrival(2, Phase.MEASURE, 0, 0), again(client, [1]))
        one.peers[0].send_now(ANSWER)  # before the server itself does
        other.peers[0].send_now(STRAY)
        await client.engine.drain()
    assert [result.error for result in client.results] == [None] * 4
    assert [request.connection for request in other.requests] == [0, 1]
    assert client.engine.unasked >= 1


async def test_a_lost_idle_connection_is_not_taken(client: Client) -> None:
    """As above, with a reset in place of the data."""
    loop = asyncio.get_running_loop()
    async with servers.serve(servers.answers()) as one:
        with socket.create_server(("127.0.0.1", 0)) as other:
            client.add_endpoint(one.url)
            client.add_endpoint(f"http://127.0.0.1:{other.getsockname()[1]}/", method="POST", body=b"x")
            assert await client.engine.preconnect(1) is None
            client.engine.start(Arrival(2, Phase.MEASURE, 0, 0), again(client, [1]))
            await until(lambda: bool(one.peers))
            one.peers[0].send_now(ANSWER)  # before the server itself does
            lost, _ = other.accept()
            lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            lost.close()
            other.setblocking(False)
            async with asyncio.timeout(10):
                peer, _ = await loop.sock_accept(other)
            with peer:
                assert (await loop.sock_recv(peer, 4096)).startswith(b"POST / ")
                peer.sendall(ANSWER)
                await client.engine.drain()
    assert [(result.error, result.reused) for result in client.results] == [(None, True), (None, False)]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_data_older_than_the_first_request_of_a_connection(client: Client, method: str) -> None:
    """There is no connection to repeat it on: that server says it to each one."""
    async with servers.serve(servers.answers()) as other:
        await ask_stamped(client, other.url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client.start(f"http://127.0.0.1:{listening.getsockname()[1]}/", method=method, body=b"x")
        peer, _ = listening.accept()
        with peer:
            peer.sendall(ANSWER)
            stall(OLDER_S)
            await client.engine.drain()
    result = client.results[-1]
    assert (result.error, result.status, result.retries, result.reused) == (ErrorKind.PROTOCOL, 0, 0, False)
    assert client.engine.unasked == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_one_answer_too_many_is_counted(client: Client, method: str) -> None:
    async with servers.serve(servers.sends_more(ANSWER)) as server:
        results = [await client.ask(server.url, method=method, body=b"x") for _ in range(3)]
    assert [result.error for result in results] == [None] * 3 and server.connections == 3
    assert client.engine.unasked == 3


@contextlib.contextmanager
def answering_and_closing(certificates: servers.Certificates) -> Iterator[str]:
    """A TLS server in a thread, which ends the session with its answer, without saying so in the head."""
    context = certificates.server()

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                session = context.wrap_bio(incoming, outgoing, server_side=True)
                step: Callable[[], object] = session.do_handshake
                with plain:
                    while True:
                        try:
                            step()
                        except ssl.SSLWantReadError:
                            plain.sendall(outgoing.read())
                            if not (data := plain.recv(65536)):
                                break
                            incoming.write(data)
                            continue
                        if step == session.do_handshake:
                            step = session.read
                            continue
                        session.write(ANSWER)
                        with contextlib.suppress(ssl.SSLError):
                            session.unwrap()
                        plain.sendall(outgoing.read())  # one segment
                        plain.recv(65536)
                        break

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        yield f"https://localhost:{listening.getsockname()[1]}/"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


async def test_an_answer_and_the_end_of_tls_in_one_read_leave_no_connection_to_reuse(client: Client) -> None:
    certificates = servers.Certificates()
    with answering_and_closing(certificates) as url:
        await only_new_connections(client, url, certificates.client())


async def test_an_answer_and_the_end_in_one_segment_leave_no_connection_to_reuse(client: Client) -> None:
    async def answer_and_close(peer: servers.Peer) -> None:
        if await peer.request() is not None:
            peer.send_now(ANSWER, last=True)
            await peer.gone()

    async with servers.serve(answer_and_close) as server:
        await only_new_connections(client, server.url)


async def only_new_connections(client: Client, url: str, tls: ssl.SSLContext | None = None) -> None:
    client.add_endpoint(url, method="POST", body=b"x", tls=tls)
    for seq in (100, 101):
        client.engine.start(Arrival(seq, Phase.MEASURE, 0, 0), again(client, [0, 0, 0, 0]))
        await client.engine.drain()
    assert [(result.error, result.reused) for result in client.results] == [(None, False)] * 10
    assert client.idle == 0 and client.engine.unasked == 0


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("after", [0.0, 0.0005, 0.003])
@pytest.mark.parametrize(("method", "data"), [("GET", ANSWER), ("POST", ANSWER), ("POST", STRAY)])
async def test_whatever_is_sent_unasked_each_arrival_has_one_result_and_nothing_is_sent_twice(
    client: Client, method: str, data: bytes, after: float, times: int
) -> None:
    """Closed loops to a server that also says what nobody asked. What comes just after the next request cannot be told
    from its answer; but then there is one answer too many, unless the server closes as well."""
    async with servers.serve(servers.sends_more(data, after, times)) as server:
        client.add_endpoint(server.url, method=method, body=b"x")
        for seq in range(4):
            client.engine.start(Arrival(100 + seq, Phase.MEASURE, 0, 0), again(client, [0] * 20))
        await client.engine.drain()
        if data == ANSWER or not after:
            await until(lambda: client.engine.unasked > 0)
        asked = len(server.requests)
    assert len(client.results) == 84
    retries = sum(result.retries for result in client.results)
    assert asked <= 84 + retries and (method == "GET" or retries == 0)
    assert {result.error for result in client.results} <= {None, ErrorKind.PROTOCOL, ErrorKind.RESET}


async def test_a_server_that_speaks_first(client: Client) -> None:
    async with servers.serve(servers.sends_at_once(b"220 mail.example ESMTP\r\n")) as server:
        results = await client.ask_many(server.url, 20)
    assert {result.error for result in results} == {ErrorKind.PROTOCOL}


async def test_preconnected_connections_on_which_a_server_speaks_first_are_not_used(client: Client) -> None:
    greeting = servers.sends_at_once(STRAY, servers.silent())
    async with servers.serve(greeting) as server:
        client.add_endpoint(server.url)
        await client.engine.preconnect(5)
        await until(lambda: not client.idle)
    assert client.engine.unasked == 5
