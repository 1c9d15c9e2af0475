from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.eventing.services import Services


@pytest_asyncio.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    made = Services(tmp_path)
    yield made
    await made.end()
