from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.kube.fake_api import FakeApi, running
from workload_generator.kube.client import Kube


@pytest_asyncio.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with running(FakeApi()) as api:
        yield api


@pytest_asyncio.fixture
async def kube(api: FakeApi, tmp_path: Path) -> AsyncIterator[Kube]:
    async with await Kube.connect(api.write_kubeconfig(tmp_path / "kubeconfig"), patience_s=5) as kube:
        yield kube
