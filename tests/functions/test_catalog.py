"""The catalog of functions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.functions.catalog import find_catalog, find_function, load_catalog


def write(folder: Path, text: str) -> Path:
    (folder / "catalog.yaml").write_text(text)
    return folder


def test_every_folder_has_an_entry_and_every_entry_a_folder() -> None:
    folders = {path.name for path in find_catalog().iterdir() if path.is_dir()}
    assert set(load_catalog()) == folders


def test_unknown_function_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"did you mean empty-python-http\? The catalog has .*sleep-python-http"):
        find_function("empty-pyton-http")


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    text = """\
functions:
  - {name: a, language: go, framework: net/http, image: a, run: ./a}
  - {name: a, language: go, framework: net/http, image: a, run: ./a}
  - {name: gone, language: go, framework: net/http, image: a, run: ./a}
"""
    with pytest.raises(ExperimentError) as caught:
        load_catalog(write(tmp_path, text))
    assert [(problem.line, problem.message.partition(" ")[2][:14]) for problem in caught.value.problems] == [
        (3, "is a duplicate"),
        (4, "does not exist"),
    ]
    with pytest.raises(ExperimentError, match=r"catalog.yaml:2: functions\[0\].name: 'A/' is not a function name"):
        load_catalog(write(tmp_path, "functions:\n  - {name: A/, language: go, framework: x, image: a, run: ./a}\n"))
    with pytest.raises(ExperimentError, match=r"catalog.yaml:2: functions\[0\].rnu: unknown key; valid keys are name"):
        load_catalog(write(tmp_path, "functions:\n  - {name: a, language: go, framework: x, image: a, rnu: ./a}\n"))


def test_built_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    line = "{name: a, language: go, framework: x, image: a, produces: [bin/a], run: '{python} \"b c\"'}"
    monkeypatch.setenv("FUNCTIONS_DIR", str(write(tmp_path, f"functions:\n  - {line}\n")))
    function = find_function("a")
    assert not function.built
    assert function.command == [sys.executable, "b c"]
    (tmp_path / "a" / "bin").mkdir()
    (tmp_path / "a" / "bin" / "a").touch()
    assert function.built
    own = tmp_path / "a" / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.touch()
    assert function.command[0] == str(own)
