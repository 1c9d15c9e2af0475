"""Functions as child processes, and their errors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.function_process import FunctionProcess, run_function
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.emulator.ports import free_port, reserve_port
from workload_generator.functions.catalog import find_function

NAME = "empty-python-http"


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is reserved for this test."""
    with reserve_port(random.Random()) as reserved:
        yield reserved.getsockname()[1]


@pytest.fixture
def function(port: int) -> Iterator[FunctionProcess]:
    with run_function(NAME, port) as process:
        yield process


def test_unknown_functions_and_used_ports_are_reported(function: FunctionProcess, port: int) -> None:
    with pytest.raises(UsageError, match="no-such-function"):
        find_function("no-such-function")
    assert function.url == f"http://127.0.0.1:{port}"
    with pytest.raises(UsageError, match=f"port {port}"):
        free_port(port)
    assert free_port(first=port, last=port + 99) > port


def test_a_function_that_ends_before_it_is_ready_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "main.py").write_text("raise SystemExit(7)")
    entry = "{name: broken, language: python, framework: none, image: broken, run: '{python} main.py'}"
    (tmp_path / "catalog.yaml").write_text(f"functions:\n  - {entry}\n")
    monkeypatch.setenv("FUNCTIONS_DIR", str(tmp_path))
    with pytest.raises(BenchError, match="exit code 7"), run_function("broken", port):
        pass


def test_another_server_on_the_port_is_an_error(function: FunctionProcess, port: int) -> None:
    with pytest.raises(UsageError, match="in use"), run_function(NAME, port):
        pass
