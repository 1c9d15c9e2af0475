from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.deploy.controller import Controller
from tests.kube.fake_api import FakeApi, in_thread
from workload_generator.cluster.deploy import deployment, kustomize
from workload_generator.commands import delete
from workload_generator.commands import kn_bench as program
from workload_generator.kube.resources import Object

_rendered: dict[tuple[str, Path, tuple[Path, ...]], list[Object]] = {}


@pytest.fixture(autouse=True)
def rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """kustomize renders each folder once a worker: it takes longer than all the rest, and the folders do not change."""

    def render(folder: Path, components: Sequence[Path] = ()) -> list[Object]:
        key = (os.environ["PATH"], folder, tuple(components))
        if key not in _rendered:
            _rendered[key] = kustomize.render(folder, components)
        return copy.deepcopy(_rendered[key])

    for module in (delete, deployment):
        monkeypatch.setattr(module, "render", render)


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
        return program.main([command, f"--kubeconfig={config}", *flags])

    return run
