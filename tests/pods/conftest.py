from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pods.standin import Clock, Standin


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    made = Standin(tmp_path / "cluster", monkeypatch)
    made.pod()
    yield made
    made.end()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)
