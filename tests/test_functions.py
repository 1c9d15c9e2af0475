"""The function, as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from workload_generator.catalog import find_function
from workload_generator.errors import BenchError, UsageError
from workload_generator.local.process import FunctionProcess, free_port

NAME = "empty-python-http"


@pytest.fixture
def function() -> Iterator[FunctionProcess]:
    with FunctionProcess(NAME, free_port()) as process:
        yield process


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, str, str | None]:
    async with session.get(url) as response:
        return response.status, await response.text(), response.headers.get("x-instance")


async def test_health_does_not_count_as_the_first_request(
    function: FunctionProcess, session: aiohttp.ClientSession
) -> None:
    for path in ("/health/liveness", "/health/readiness"):
        assert (await get(session, function.url + path))[0] == 200
    assert await get(session, function.url) == (200, "true", f"{NAME}-1")
    async with session.post(function.url, data=b"x" * 100_000) as response:
        assert (response.status, response.content_type, await response.text()) == (200, "text/plain", "false")
    assert (await get(session, function.url + "/nothing"))[0] == 404


async def test_fifty_first_requests_have_one_true(function: FunctionProcess, session: aiohttp.ClientSession) -> None:
    answers = await asyncio.gather(*(get(session, function.url) for _ in range(50)))
    assert Counter(text for _, text, _ in answers) == {"true": 1, "false": 49}


async def test_sigterm_ends_it_at_once_and_cleanly(function: FunctionProcess, session: aiohttp.ClientSession) -> None:
    await get(session, function.url)
    pid = function.pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    assert await asyncio.to_thread(lambda: os.waitpid(pid, 0)[1]) == 0


def test_unknown_functions_and_taken_ports_are_named(function: FunctionProcess) -> None:
    with pytest.raises(UsageError, match="no-such-function"):
        find_function("no-such-function")
    port = int(function.url.rpartition(":")[2])
    with pytest.raises(UsageError, match=f"port {port}"):
        free_port(port)
    assert free_port() != port


def test_a_function_that_ends_before_it_is_ready_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "main.py").write_text("raise SystemExit(7)")
    entry = "{name: broken, language: python, framework: none, image: broken, run: '{python} main.py'}"
    (tmp_path / "catalog.yaml").write_text(f"functions:\n  - {entry}\n")
    monkeypatch.setenv("FUNCTIONS_DIR", str(tmp_path))
    with pytest.raises(BenchError, match="exit code 7"), FunctionProcess("broken", free_port()):
        pass


def test_nobody_else_answers_for_a_function(function: FunctionProcess) -> None:
    with pytest.raises(UsageError, match="in use"), FunctionProcess(NAME, int(function.url.rpartition(":")[2])):
        pass
