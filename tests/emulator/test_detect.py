"""The generator learns what it measures without being told."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.servers import answers, garbage, hangs_up, refusing, serve, silent
from workload_generator.emulator import detect
from workload_generator.emulator.detect import platform_of


async def asked(url: str | None) -> str:
    return await asyncio.to_thread(platform_of, url)


async def test_only_the_header_makes_it_local() -> None:
    async with serve(answers(headers=b"x-platform: local\r\n")) as server:
        assert await asked(server.url) == "local"
        assert [(request.method, request.path) for request in server.requests] == [("HEAD", "/_platform")]
    async with serve(answers(b'{"platform": "local"}')) as server:
        assert await asked(server.url) == "host"


@pytest.mark.parametrize("behaviour", [garbage(), hangs_up(), silent()])
async def test_whoever_misbehaves_is_a_host(behaviour: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_TIMEOUT_S", 0.1)
    async with serve(behaviour) as server:  # type: ignore[arg-type]
        assert await asked(server.url) == "host"


async def test_what_cannot_be_asked_is_what_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with refusing() as server:
        assert await asked(server.url) == "host"
    assert await asked("https://127.0.0.1:1") == "host"
    assert await asked("http://[::1]:1") == "host"
    assert await asked(None) == "host"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert await asked(None) == "kubernetes"
