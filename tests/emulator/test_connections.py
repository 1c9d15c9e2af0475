"""Both connections of the proxy, without sockets: the result is the same for any segmentation of the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.emulator.client_connection import ClientConnection
from workload_generator.emulator.instance_connection import InstanceConnection
from workload_generator.emulator.proxied_request import ProxiedRequest


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

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


@dataclass
class Router:
    """Keeps requests until `answer`."""

    waiting: list[ProxiedRequest] = field(default_factory=list)
    seen: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    answered: list[ProxiedRequest] = field(default_factory=list)

    def route(self, request: ProxiedRequest) -> None:
        assert not self.waiting, "one at a time"
        self.waiting.append(request)

    def needs_body(self, target: bytes) -> bool:
        return target.startswith(b"/_platform")

    def connected(self, connection: ClientConnection) -> None:
        pass

    def disconnected(self, connection: ClientConnection) -> None:
        pass

    def answer(self, whole_only: bool) -> bool:
        """Respond to the kept request with its target. Whether there was one."""
        if not self.waiting or (whole_only and not self.waiting[0].body_complete):
            return False
        request = self.waiting.pop()
        self.seen.append((request.head.split(b" ")[0], request.target, request.take_body()))
        self.answered.append(request)
        request.client.send_error(request, 200, request.target.decode())
        return True


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
    transport, router = Transport(), Router()
    client: Any = ClientConnection(router)
    client.connection_made(transport)
    late = iter(answer_now)
    for piece in cut(b"".join(map(encoded, sent)), cuts):
        client.data_received(piece)
        while next(late, True) and router.answer(whole_only=True):
            pass
    while router.answer(whole_only=True):
        pass
    got = [(method, target, body if not chunked or router.needs_body(target) else plain(body))
           for (method, target, body), (_, _, _, chunked) in zip(router.seen, sent, strict=True)]  # fmt: skip
    assert got == [ask[:3] for ask in sent]
    answers = transport.written.split(b"HTTP/1.1 200 OK")[1:]
    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [ask[1] + b"\n" for ask in sent]
    assert transport.reading and not transport.closed and not client.busy


@given(st.lists(asks, min_size=2, max_size=6), st.lists(st.integers(0, 10**6), max_size=20))
def test_the_rest_of_a_request_is_dropped_after_an_early_response(sent: list[Ask], cuts: list[int]) -> None:
    transport, router = Transport(), Router()
    client: Any = ClientConnection(router)
    client.connection_made(transport)
    for piece in cut(b"".join(map(encoded, sent)), cuts):
        client.data_received(piece)
        while router.answer(whole_only=False):
            pass
    assert [seen[:2] for seen in router.seen] == [ask[:2] for ask in sent]
    assert transport.written.count(b"HTTP/1.1 200 OK") == len(sent) and transport.reading
    assert not any(exchange.body for exchange in router.answered), "nor is it kept"


def test_a_pipelining_client_is_not_read() -> None:
    transport, router = Transport(), Router()
    client: Any = ClientConnection(router)
    client.connection_made(transport)
    client.data_received(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert transport.reading
    client.data_received(b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert not transport.reading
    assert router.answer(whole_only=True) and not transport.reading
    assert router.answer(whole_only=True) and transport.reading
    assert router.answer(whole_only=True) and not router.answer(whole_only=True)


def test_a_body_that_is_not_forwarded_is_not_read() -> None:
    transport, router = Transport(), Router()
    client: Any = ClientConnection(router)
    client.connection_made(transport)
    client.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + bytes(65535))
    assert transport.reading
    client.data_received(bytes(1))
    assert not transport.reading
    assert router.answer(whole_only=False) and transport.reading, "refused: the rest goes nowhere"


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=5))
def test_random_bytes_raise_no_exception(data: bytes, cuts: list[int]) -> None:
    transport, router = Transport(), Router()
    client: Any = ClientConnection(router)
    client.connection_made(transport)
    for piece in cut(data, cuts):
        if not transport.closed:
            client.data_received(piece)
    client.connection_lost(None)


# The instance's side


class Client:
    """A client's connection that records what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.completed = 0
        self.ends: list[str] = []

    def send(self, data: bytes) -> None:
        self.got += data

    def complete(self) -> None:
        self.completed += 1

    def send_error(self, request: ProxiedRequest, status: int, reason: str) -> None:
        self.ends.append(f"{status}")

    def send_response(self, request: ProxiedRequest, status: int, body: bytes, content_type: bytes) -> None:
        raise AssertionError

    def close(self) -> None:
        self.ends.append("close")

    def reset(self) -> None:
        self.ends.append("reset")

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Backend:
    """The instance and the service of a connection."""

    def __init__(self) -> None:
        self.name = "i"
        self.header = b"x-platform-instance: i\r\n"
        self.idle: list[InstanceConnection] = []
        self.outcomes: list[str] = []

    def on_first_byte(self, now_ns: int) -> None:
        pass

    def on_answered(self, request: ProxiedRequest) -> None:
        self.outcomes.append("answered")

    def on_failed(self, request: ProxiedRequest) -> None:
        self.outcomes.append("failed")

    def on_not_sent(self, request: ProxiedRequest) -> None:
        self.outcomes.append("not sent")

    def on_abandoned(self, request: ProxiedRequest) -> None:
        raise AssertionError


def connected(method: bytes = b"GET", http_1_1: bool = True) -> tuple[Any, ProxiedRequest, Backend, Client, Transport]:
    """A connection with a request on it."""
    backend, client, transport = Backend(), Client(), Transport()
    connection: Any = InstanceConnection(backend)
    connection.connection_made(transport)
    head = b"%s / HTTP/1.1\r\n\r\n" % method
    request = ProxiedRequest(client, 0, method=method, head=head, http_1_1=http_1_1, retriable=True, service=backend)
    connection.send(request)
    return connection, request, backend, client, transport


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
    raw, body = RESPONSES[kind]
    connection, _, backend, client, transport = connected()
    for piece in cut(raw, cuts):
        connection.data_received(piece)
    head, _, rest = client.got.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    assert b"x-platform: local\r\n" in head and b"x-platform-instance: i" in head
    if b"Transfer-Encoding: chunked" in head:
        chunks, trailer = rest[: rest.index(b"0\r\n")], rest[rest.index(b"0\r\n") :]
        assert plain(chunks) == body and trailer == b"0\r\nX-T: 1\r\n\r\n"
    else:
        assert rest == body
    assert (backend.outcomes, client.completed, client.ends) == (["answered"], 1, [])
    kept = kind != "close"
    assert (connection in backend.idle) == kept == (not transport.closed)


@pytest.mark.parametrize("end", [None, ConnectionResetError("reset")])
@pytest.mark.parametrize("http_1_1", [True, False])
@given(st.data())
def test_a_partial_response_never_looks_complete(end: Exception | None, http_1_1: bool, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["length", "chunks"]))
    raw, _ = RESPONSES[kind]
    place = data.draw(st.integers(0, len(raw) - 1))
    connection, _, backend, client, _ = connected(http_1_1=http_1_1)
    if place:
        connection.data_received(raw[:place])
    connection.connection_lost(end)
    begun = place > raw.index(b"\r\n\r\n") + 3
    unframed = kind == "chunks" and not http_1_1
    assert backend.outcomes == ["failed"] and client.completed == 0
    assert client.ends == [("reset" if unframed else "close") if begun else "502"]


def test_a_request_on_a_closed_connection_is_retried_once() -> None:
    connection, request, backend, client, _ = connected()
    connection.data_received(RESPONSES["length"][0])
    connection.send(request)
    connection.connection_lost(None)
    assert backend.outcomes == ["answered", "not sent"] and client.ends == []
    other, _, _, _, _ = connected()
    other._used = True
    other._request = request
    other.connection_lost(None)
    assert backend.outcomes == ["answered", "not sent", "failed"] and client.ends == ["502"]


@pytest.mark.parametrize("more", [RESPONSES["length"][0], b"and some noise"])
def test_a_connection_with_unexpected_bytes_is_not_reused(more: bytes) -> None:
    connection, _, backend, client, transport = connected()
    connection.data_received(RESPONSES["length"][0] + more)
    assert client.got.endswith(b"hello") and client.got.count(b"HTTP/1.1") == 1
    assert (backend.outcomes, client.ends, backend.idle, transport.closed) == (["answered"], [], [], True)
    connection, _, backend, _, transport = connected()
    connection.data_received(RESPONSES["length"][0])
    connection.data_received(more)
    assert (backend.outcomes, transport.closed) == (["answered"], True)


def test_a_body_can_end_with_the_connection() -> None:
    connection, _, backend, client, _ = connected()
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nhello")
    connection.connection_lost(None)
    assert client.got.endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n") and backend.outcomes == ["answered"]


def test_a_response_to_head_has_no_body() -> None:
    connection, request, backend, client, _ = connected(b"HEAD")
    for _ in range(2):
        connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
        assert connection in backend.idle
        backend.idle.clear()
        connection.send(request)
    assert client.completed == 2 and client.got.count(b"Content-Length: 500") == 2
