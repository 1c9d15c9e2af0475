from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doctor.fit import TOOLS, Doctor, make_fit, make_tools
from tests.kube.fake_api import FakeApi, in_thread
from workload_generator.cluster.doctor import rights


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the only one in PATH, with kubectl: without it the exit code is always 1."""
    folder = make_tools(tmp_path / "tools", {"kubectl": TOOLS["kubectl"]})
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def tools(path: Path) -> Path:
    """The folder with all tools in it."""
    return make_tools(path, TOOLS)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """A cluster that is fit."""
    with in_thread(FakeApi()) as api:
        make_fit(api)
        yield api


@pytest.fixture
def doctor(api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Doctor:
    return Doctor(api, tmp_path, capsysbinary)


@pytest.fixture
def all_rights() -> None:
    """For tests of rights: those of all commands are requested."""


@pytest.fixture(autouse=True)
def few_rights(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere only those of `top`: 190 of the 220 requests are about rights."""
    if "all_rights" not in request.fixturenames:
        monkeypatch.setattr(rights, "COMMANDS", {"top": rights.COMMANDS["top"]})
