"""The generator detects the platform that it measures."""

from __future__ import annotations

import asyncio

import pytest

from tests.engine.servers import answers, garbage, hangs_up, refusing, serve, silent
from workload_generator.emulator import detect
from workload_generator.emulator.detect import platform_of


async def asked(url: str | None) -> str:
    return await asyncio.to_thread(platform_of, url)


async def test_only_the_header_identifies_the_platform() -> None:
    async with serve(answers(headers=b"x-platform: local\r\n")) as server:
        assert await asked(server.url) == "local"
        assert [(request.method, request.path) for request in server.requests] == [("HEAD", "/_platform")]
    async with serve(answers(b'{"platform": "local"}')) as server:
        assert await asked(server.url) == "host"


@pytest.mark.parametrize("behaviour", [garbage(), hangs_up(), silent()])
async def test_a_server_that_misbehaves_is_not_the_platform(behaviour: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_TIMEOUT_S", 0.1)
    async with serve(behaviour) as server:  # type: ignore[arg-type]
        assert await asked(server.url) == "host"


async def test_without_the_platform_it_is_the_machine_or_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    async with refusing() as server:
        assert await asked(server.url) == "host"
    assert await asked("https://127.0.0.1:1") == "host"
    assert await asked("http://[::1]:1") == "host"
    assert await asked(None) == "host"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert await asked(None) == "kubernetes"
