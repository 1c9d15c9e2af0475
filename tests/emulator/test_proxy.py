"""The platform as a proxy: bodies, headers, connections and errors."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.emulator.platforms import DOMAIN, FUNCTION, Local, local, until

HOST = f"Host: {FUNCTION}-0.{DOMAIN}\r\n".encode()


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Local]:
    async with local(tmp_path) as platform:
        yield platform


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)


async def test_the_first_request_waits_for_a_real_start(platform: Local) -> None:
    first = await platform.ask()
    queue_ms, start_ms, function_ms = first.ms
    assert (first.status, first.text) == (200, "true")
    assert start_ms > 5 * (queue_ms + function_ms) / 100 and start_ms > 10, "an interpreter does not start in 10 ms"
    second = await platform.ask()
    assert (second.status, second.text, second.ms[1]) == (200, "false", 0)
    for answer in (first, second):
        assert answer.headers["x-instance"] == answer.headers["x-platform-instance"]
        assert answer.headers["x-platform"] == "local"
    assert platform.kinds() == ["scale", "spawned", "listening", "ready", "first-byte"]
    (instance,) = (await platform.state())["instances"]
    phases = instance["phases"]
    assert phases["spawn"] < phases["listening"] < phases["ready"] < phases["first_byte"]
    assert 0 < phases["listening_ms"] < phases["ready_ms"] < phases["first_byte_ms"]
    assert instance["name"] == first.headers["x-instance"] and instance["served"] == 2


async def test_all_but_hop_by_hop_headers_are_forwarded(platform: Local) -> None:
    extra = (
        "X-Mine: 1\r\nx-mine: 2\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nConnection: X-Hop\r\nAccept: */*\r\n"
    )
    answer = await platform.ask("/headers?q=%20a", extra=extra)
    got = json.loads(answer.body)
    assert got["host"] == f"{FUNCTION}-0.{DOMAIN}" and got["accept"] == "*/*" and got["x-mine"] == "2"
    assert not {"te", "keep-alive", "connection", "x-hop"} & got.keys()
    assert [value for name, value in answer.pairs if name == "set-cookie"] == ["a=1", "b=2"]
    assert answer.headers["x-own"] == "yes"


async def test_bodies_stream_both_ways(platform: Local) -> None:
    reader, writer = await platform.raw(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    for word in (b"one", b"twoo", b"threee"):  # each comes back before the next is sent
        writer.write(b"%x\r\n%s\r\n" % (len(word), word))
        if word == b"one":
            assert b"Transfer-Encoding: chunked" in await head_of(reader)
        assert await asyncio.wait_for(reader.readexactly(len(word) + 5), 20) == b"%x\r\n%s\r\n" % (len(word), word)
    writer.write(b"0\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"0\r\nX-Trailer: end\r\n\r\n"
    writer.write(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"200 OK" in await head_of(reader), "the connection stays open"
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_is_forwarded_unchanged(platform: Local, chunked: bool) -> None:
    body = bytes(range(256)) * 4096 * 8
    if chunked:
        framed = b"".join(b"%x\r\n%s\r\n" % (len(body) // 8, body[at:: 1][: len(body) // 8]) for at in
                          range(0, len(body), len(body) // 8)) + b"0\r\n\r\n"  # fmt: skip
        head = b"POST /echo HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        head = head.replace(b"1.0", b"1.1").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    else:
        framed = body
        head = b"POST /echo HTTP/1.0\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body)
    raw = await platform.all(head, framed)
    answered, _, rest = raw.partition(b"\r\n\r\n")
    assert b"200 OK" in answered
    if chunked:
        got = b""
        while size := int(rest.partition(b"\r\n")[0], 16):
            start = rest.index(b"\r\n") + 2
            got, rest = got + rest[start : start + size], rest[start + size + 2 :]
        assert got == body
    else:
        assert rest == body, "HTTP/1.0 knows no chunks: the body ends with the connection"


@pytest.mark.parametrize(
    ("path", "method", "status", "body"),
    [
        ("/", "HEAD", 200, b""),
        ("/empty", "GET", 204, b""),
        ("/not-modified", "GET", 304, b""),
        ("/close", "GET", 200, b"d\r\nuntil the end\r\n0\r\n\r\n"),
        ("/two", "GET", 200, b"one"),
    ],
)
async def test_every_framing_of_a_response(platform: Local, path: str, method: str, status: int, body: bytes) -> None:
    for _ in range(2):
        answer = await platform.ask(path, method=method)
        assert (answer.status, answer.body) == (status, body)
    assert (await platform.ask()).status == 200


async def test_interim_responses_are_forwarded(platform: Local) -> None:
    request = b"POST /continue HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    reader, writer = await platform.raw(request)
    assert await head_of(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await head_of(reader) == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    writer.write(b"12345")
    assert b"200 OK" in await head_of(reader)
    assert await reader.readexactly(1) == b"5"
    writer.close()


async def test_a_response_before_the_end_of_the_request(platform: Local) -> None:
    reader, writer = await platform.raw(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n")
    assert b"413 Too Large" in await head_of(reader)
    assert await reader.readexactly(10) == b"no, thanks"
    writer.write(bytes(300000) + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert b"200 OK" in await head_of(reader), "the rest of the body was read, and nothing came of it"
    writer.close()


async def test_an_error_before_the_end_of_the_request(platform: Local) -> None:
    request = b"POST / HTTP/1.1\r\nHost: unknown\r\nContent-Length: 300000\r\n\r\n"
    reader, writer = await platform.raw(request)
    assert b"404 Not Found" in await head_of(reader)
    writer.write(bytes(300000) + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    await reader.readuntil(b"\n")
    assert b"200 OK" in await head_of(reader)
    writer.close()


async def test_pipelined_requests_are_answered_in_order(platform: Local) -> None:
    asks = [b"GET /headers HTTP/1.1\r\n" + HOST + b"X-Number: %d\r\n\r\n" % number for number in range(50)]
    asks[10:10] = [b"GET / HTTP/1.1\r\nHost: unknown\r\n\r\n"] * 2000  # answered at once, without depth
    last = b"POST /echo HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: 4\r\n\r\nlast"
    raw = await platform.all(b"".join(asks), last)
    assert raw.count(b"HTTP/1.1 404") == 2000 and raw.count(b"HTTP/1.1 200") == 51
    numbers = [int(part.partition(b'"')[0]) for part in raw.split(b'"x-number": "')[1:]]
    assert numbers == list(range(50)) and raw.endswith(b"0\r\nX-Trailer: end\r\n\r\n")


async def test_http_1_0_and_close(platform: Local) -> None:
    assert b"Connection: close" in await platform.all(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")
    reader, writer = await platform.raw(b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive" in await head_of(reader)
    writer.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70000 + b"\r\n\r\n", b"431"),
        (b"CONNECT example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n", b"404"),
    ],
)
async def test_an_invalid_request_ends_only_its_connection(platform: Local, request_: bytes, status: bytes) -> None:
    assert (await platform.all(request_)).startswith(b"HTTP/1.1 " + status)
    assert (await platform.ask()).status == 200


async def test_upgrades_are_ignored(platform: Local) -> None:
    for offer in (
        b"Connection: upgrade\r\nUpgrade: websocket\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
    ):
        raw = await platform.all(b"GET /headers HTTP/1.1\r\n" + HOST + offer + b"\r\n", b"whatever follows")
        assert raw.startswith(b"HTTP/1.1 200") and raw.count(b"HTTP/1.1") == 1 and b'"upgrade"' not in raw


async def test_every_broken_response_is_an_error(platform: Local) -> None:
    for path in ("/silent-cut", "/garbage"):
        answer = await platform.ask(path, method="POST", body=b"x")
        assert answer.status == 502 and answer.text.strip(), path
    assert (await platform.ask("/length-then-cut")).body == b"half", "and the end of the connection"
    assert (await platform.ask("/chunks-then-cut")).body == b"4\r\nhalf\r\n", "without the last chunk"
    with pytest.raises(ConnectionResetError):  # where the end of the connection would be the end of the body
        await platform.all(b"GET /chunks-then-cut HTTP/1.0\r\n" + HOST + b"\r\n")
    assert (await platform.state())["in_flight"] == 0


async def test_closed_idle_connections_cause_no_errors(platform: Local) -> None:
    for _ in range(20):
        assert (await platform.ask("/stale")).status == 200


async def test_a_client_that_does_not_read_pauses_the_function(platform: Local) -> None:
    reader, writer = await platform.raw(b"GET /flood HTTP/1.1\r\n" + HOST + b"\r\n")
    await head_of(reader)
    before, now = -1, 0
    while before != now:
        await asyncio.sleep(0.5)
        before, now = now, int((await platform.ask("/sent")).text)
    assert now < 48 << 20, "what sockets hold, and no more"
    left = 64 << 20
    while left:
        left -= len(await asyncio.wait_for(reader.read(1 << 20), 20))
    writer.close()


async def test_a_function_that_does_not_read_pauses_the_client(platform: Local) -> None:
    await platform.ask()
    _, writer = await platform.raw(b"POST /deaf HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (64 << 20))
    writer.transport.set_write_buffer_limits(0)
    gone = 0
    while gone < 64 << 20:
        writer.write(bytes(1 << 20))
        try:
            await asyncio.wait_for(writer.drain(), 1)
        except TimeoutError:
            break
        gone += 1 << 20
    assert gone < 48 << 20
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()  # a reset, which the platform has to notice although it does not read
    await until(lambda: platform.platform.to_json()["in_flight"] == 0)


async def test_a_client_that_disconnects_frees_its_slot(tmp_path: Path) -> None:
    async with local(tmp_path, containerConcurrency=1, max_scale=1) as platform:
        await platform.ask()
        (_, busy), (_, waiting) = [
            await platform.raw(b"GET /slow?3600 HTTP/1.1\r\n" + HOST + b"\r\n") for _ in range(2)
        ]
        await until(lambda: platform.platform.to_json()["in_flight"] == 2)
        waiting.transport.abort()
        busy.transport.abort()
        assert (await platform.ask()).status == 200
        state = await platform.state()
        assert state["counts"] == {"requests": 4, "answered": 2, "refused": 0, "abandoned": 2}
        assert state["in_flight"] == state["queued"] == 0


@pytest.mark.parametrize(
    "host", ["{}-7", "{}-7.functions", "ODD-Python-http-7.functions.svc:8080", f"{{}}-7.{DOMAIN}.", "{}"]
)
async def test_hosts_of_services(platform: Local, host: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: {host.format(FUNCTION)}\r\nConnection: close\r\n\r\n"
    assert (await platform.all(head.encode())).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("localhost:8080", "no function for the service localhost"),
        ("127.0.0.1", "no service has the host"),
        (f"{FUNCTION}-0.elsewhere.svc", "no service has the host"),
        (f"{FUNCTION}-", "no service has the host"),
        ("", "no service has the host"),
        ("empty-cobol-http-0", "empty-cobol-http is not built"),
    ],
)
async def test_other_hosts_get_404_with_the_reason(platform: Local, host: str, reason: str) -> None:
    raw = await platform.all(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 404") and reason.encode() in raw
