"""Who may use `/_platform`, and what a client can do to the others: heads, bodies and connections have limits."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.emulator.platforms import DOMAIN, FUNCTION, Local, local
from workload_generator.base.control_token import control_headers, token_file, token_path
from workload_generator.base.errors import UsageError
from workload_generator.emulator import http_stream, platform, proxied_request

NAME = f"{FUNCTION}-0"
HOST = f"Host: {NAME}.{DOMAIN}\r\n".encode()
KILL = b'{"service": "odd-python-http-0", "error-rate": 1}'


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[Local]:
    async with local(tmp_path) as started:
        yield started


async def status(started: Local, line: str, host: str, *, token: str | None = None, extra: str = "") -> int:
    """Of a request with this start line, and a body if it is a POST."""
    body = KILL.decode() if line.startswith("POST") else ""
    head = f"{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{extra}"
    authorization = f"Authorization: Bearer {token}\r\n" if token is not None else ""
    raw = await started.all(f"{head}{authorization}\r\n{body}".encode())
    return int(raw.split()[1])


@pytest.mark.parametrize(
    "line",
    [
        "GET /_platform",
        "GET /_platform/events",
        "HEAD /_platform/",
        "HEAD /_platform/faults",
        "HEAD /_platform?x",
        "POST /_platform/faults",
        "DELETE /_platform/faults",
        "DELETE /_platform/services/x",
        "OPTIONS /_platform/faults",
        "GET http://localhost/_platform",
    ],
)
async def test_the_control_interface_needs_its_token_and_a_loopback_host(started: Local, line: str) -> None:
    assert await status(started, line, "localhost") == 401
    assert await status(started, line, "localhost", token="guessed") == 401
    if "http://" not in line:
        for host in ("rebound.example:8080", f"localhost.{DOMAIN}", NAME, "127.0.0.1.example", "1270.0.0.1", ""):
            assert await status(started, line, host, token=started.token) == 403
        for host in ("rebound.example\r\nHost: localhost", "localhost\r\nHost: rebound.example"):
            assert await status(started, line, host, token=started.token) == 403, "two, of which one is ours"
    for host in ("localhost", f"LOCALHOST:{started.port}", "127.0.0.1", "127.8.9.10:1", f"[::1]:{started.port}"):
        assert await status(started, line, host, token=started.token) in (200, 404, 405)


async def test_a_web_page_changes_nothing(started: Local) -> None:
    """A browser sends this without asking the server first: a simple request (https://fetch.spec.whatwg.org)."""
    simple = "Origin: http://evil.example\r\nContent-Type: text/plain\r\n"
    assert await status(started, "POST /_platform/faults", f"127.0.0.1:{started.port}", extra=simple) == 401
    assert await status(started, "POST http://evil.example/_platform/faults", "localhost", token=started.token) == 403
    assert (await started.ask()).status == 200
    assert (await started.own("/faults")).json()[NAME]["error-rate"] == 0


async def test_detection_and_functions_need_no_token(started: Local) -> None:
    assert await status(started, "HEAD /_platform", "any.example") == 200
    assert await status(started, "GET /", f"{NAME}.{DOMAIN}") == 200


def test_the_token_is_in_a_file_of_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with token_file(7) as token:
        path = token_path(7)
        assert path.parent.parent == tmp_path and path.read_text() == token
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert control_headers("http://localhost:7/") == {"Authorization": f"Bearer {token}"}
        with token_file(7) as second:
            assert second != token, "that of a killed platform is replaced"
    assert not path.exists() and control_headers("http://localhost:7/") == {}


def test_a_token_in_a_folder_of_others_is_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / "elsewhere" / "local-7.token").write_text("planted")
    (tmp_path / f"workload-generator-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is not a folder of this user"), token_file(7):
        pass
    assert control_headers("http://localhost:7/") == {}


async def test_a_request_in_absolute_form_goes_to_the_host_of_its_url(started: Local) -> None:
    for target in (f"http://{NAME}.{DOMAIN}", f"HTTP://{NAME}:80/headers?q", f"http://{NAME}?q"):
        assert await status(started, f"GET {target}", "ignored.example") == 200
        assert await status(started, f"GET {target}".replace(NAME, "unknown"), f"{NAME}.{DOMAIN}") == 404
    head = f"GET http://{NAME}:80/headers HTTP/1.1\r\nHost: ignored.example\r\nConnection: close\r\n\r\n"
    raw = await started.all(head.encode())
    assert f'"host": "{NAME}:80"'.encode() in raw and b"ignored" not in raw


async def test_half_heads_do_not_starve_the_others(started: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_stream, "_HEAD_S", 1)
    await started.ask()
    slow = [await started.raw(b"GET / HTTP/1.1\r\nHost: half") for _ in range(400)]
    async with asyncio.timeout(5):
        assert (await started.ask()).status == 200
    async with asyncio.timeout(20):
        for reader, writer in slow:
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
    assert (await started.ask()).status == 200


async def test_a_head_without_end_is_refused_before_it_is_complete(started: Local) -> None:
    reader, writer = await started.raw(b"GET / HTTP/1.1\r\nX: ", b"x" * (4 << 20))
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 431 "), "not reset by what was not read"
    writer.close()


async def test_a_refused_request_is_read_to_its_end(started: Local) -> None:
    head = b"POST / HTTP/1.1\r\nHost: unknown\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (4 << 20)
    assert (await started.all(head, bytes(4 << 20))).startswith(b"HTTP/1.1 404 ")


async def test_the_oldest_idle_connections_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (2 * (platform._OTHER_DESCRIPTORS + 3), 0)
    monkeypatch.setattr("resource.getrlimit", lambda _: limits)
    async with local(tmp_path) as started:
        await started.ask()
        busy, writer = await started.raw(b"GET /slow?1 HTTP/1.1\r\n" + HOST + b"\r\n")
        while started.platform.to_json()["in_flight"] != 1:
            await asyncio.sleep(0.01)
        idle = [await started.raw() for _ in range(5)]
        assert (await started.ask()).status == 200
        for reader, _ in idle[:3]:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await asyncio.wait_for(reader.readexactly(1), 10)
        assert (await asyncio.wait_for(busy.readuntil(b"slow"), 10)).startswith(b"HTTP/1.1 200")
        for _, each in [*idle, (busy, writer)]:
            each.close()


async def test_a_body_that_does_not_come_is_refused(started: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxied_request, "_BODY_S", 0.3)
    head = f"POST /_platform/faults HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {started.token}\r\n"
    raw = await started.all(f"{head}Content-Length: 9\r\n\r\nhalf".encode())
    assert raw.startswith(b"HTTP/1.1 408 ") and b"no complete body within 0.3 s" in raw
    raw = await started.all(b"POST / HTTP/1.1\r\nHost: unknown\r\nContent-Length: 9\r\n\r\nhalf")
    assert raw.startswith(b"HTTP/1.1 404 "), "and then the end of the connection"


async def test_a_client_that_waits_to_send_its_body_is_told_to(started: Local) -> None:
    head = f"POST /_platform/faults HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {started.token}\r\n"
    reader, writer = await started.raw(f"{head}Expect: 100-continue\r\nContent-Length: {len(KILL)}\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(KILL)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 20)).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(("digits", "expected"), [(20, 200), (47, 200), (48, 404), (300, 404)])
async def test_names_are_as_long_as_in_kubernetes(started: Local, digits: int, expected: int) -> None:
    answer = await started.ask(service=f"{FUNCTION}-{'1' * digits}")
    assert answer.status == expected
    if expected == 200:
        assert len(answer.headers["x-instance"]) <= 63
