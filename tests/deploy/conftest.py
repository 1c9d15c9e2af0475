from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.controller import Controller
from tests.kube.fake_api import FakeApi, in_thread
from workload_generator import bench


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        yield api


@pytest.fixture
def controller(api: FakeApi) -> Controller:
    return Controller(api)


@pytest.fixture
def kn_bench(api: FakeApi, tmp_path: Path) -> Callable[..., int]:
    """The command against the fake API server; its exit code."""
    config = api.write_kubeconfig(tmp_path / "kubeconfig")

    def run(command: str, *flags: str) -> int:
        return bench.main([command, f"--kubeconfig={config}", *flags])

    return run
