"""The engine's tests run on the loop that runs in the pod."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop

from tests.engine.client import Client, Make


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """uvloop, and nothing else."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def clients() -> AsyncIterator[Make]:
    made: list[Client] = []

    def make(**options: Any) -> Client:
        made.append(Client(**options))
        return made[-1]

    yield make
    for client in made:
        assert client.engine.in_flight == 0
        assert client.engine.started == client.engine.finished == len(client.results)
        client.engine.close()
