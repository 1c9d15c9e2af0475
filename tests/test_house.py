"""The structure of the package: what must stay as it is, and the script that counts it."""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from workload_generator.commands import kn_bench

PACKAGE = Path(__file__).parents[1] / "workload_generator"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
FOLDERS = [path.parent for path in sorted(PACKAGE.rglob("__init__.py"))]

MOST_FLAT_MODULES = 3
SAME_NAME = {
    "scaling": "how the emulator scales, and the report's table of it",
    "thresholds": "of an experiment, and their outcome in the report",
    "shards": "of a run as processes, and as pods",
    "errors": "of every command, and of the Kubernetes API",
    "model": "of an experiment, and of a scenario",
    "runner": "of an experiment, and of a scenario",
    "resources": "of the Kubernetes API, and of the machine",
    "cold_starts": "read into the database, and reported from it",
    "emulator": "as a platform of scenarios, and as a source of cold-start proofs",
}
"""Names of more than one module, each with the reason. Modules of `commands/` have the names that users type."""


def repeated(names: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, path in names:
        places[name].append(str(path.relative_to(PACKAGE)))
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def test_few_modules_lie_flat_in_the_package() -> None:
    flat = [path.name for path in MODULES if path.parent == PACKAGE]
    assert len(flat) <= MOST_FLAT_MODULES, flat


def test_two_modules_have_the_same_name_only_with_a_reason() -> None:
    same = repeated((path.stem, path) for path in MODULES if path.parent.name != "commands")
    assert not {name: paths for name, paths in same.items() if name not in SAME_NAME}


def test_public_classes_have_different_names() -> None:
    classes = [
        (node.name, path)
        for path in MODULES
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert not repeated(classes)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(PACKAGE.parent)))
def test_a_folders_docstring_has_two_or_three_sentences(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))) or ""
    sentences = re.findall(r"[.!?](?=\s|$)", docstring)
    assert 2 <= len(sentences) <= 3, docstring


def test_each_command_is_a_module_of_its_name() -> None:
    programs = tomllib.loads(PACKAGE.parent.joinpath("pyproject.toml").read_text())["project"]["scripts"].keys()
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", kn_bench.make_parser().format_help(), re.MULTILINE)
    modules = {
        path.stem for path in MODULES if path.parent.name == "commands" and {"add_flags", "run"} <= functions_of(path)
    }
    assert {name.replace("-", "_") for name in programs | {*listed}} == modules


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that counts."""
    monkeypatch.syspath_prepend(PACKAGE.parent / "bench")
    import house

    return house


def test_rooms_arrows_and_circles_are_counted(house: ModuleType, tmp_path: Path) -> None:
    counts, circles = counted(
        house,
        tmp_path,
        {
            "__init__.py": "",
            "__main__.py": "import workload_generator.low\n",  # not a room: its imports are not arrows
            "low.py": "import os\nfrom elsewhere.low import name\n",
            "middle/__init__.py": "",
            "middle/a.py": "from workload_generator.middle import b\nfrom workload_generator import __version__\n",
            "middle/b.py": "def late():\n    from workload_generator.middle.c import name\n",
            "middle/c.py": "import workload_generator.middle.a\n",
            "high/__init__.py": "",
            "high/a.py": """
                from typing import TYPE_CHECKING
                from workload_generator import low, middle
                from workload_generator.middle import a, b
                if TYPE_CHECKING:
                    from workload_generator.low import name
            """,
            "high/b.py": "from workload_generator.high import a\n",
        },
    )
    assert (counts["rooms"], counts["modules"]) == (3, 10)
    assert counts["arrows between rooms"] == 2, "high to low, high to middle: each once, and none inside a room"
    assert circles == [["middle.a", "middle.b", "middle.c"]] and counts["circles of modules"] == 1


def test_two_circles_are_two_and_a_path_is_none(house: ModuleType, tmp_path: Path) -> None:
    imports = {"a": "b", "b": "a c", "c": "d", "d": "c e", "e": "f", "f": ""}
    modules = {
        f"{name}.py": "".join(f"import workload_generator.{to}\n" for to in imports[name].split()) for name in imports
    }
    assert counted(house, tmp_path, modules)[1] == [["c", "d"], ["a", "b"]]


def test_a_relative_import_is_refused(house: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"middle\.a:1: relative import"):
        counted(house, tmp_path, {"middle/a.py": "from . import b\n", "middle/b.py": ""})


def test_lines_functions_lengths_and_parameters_are_counted(house: ModuleType, tmp_path: Path) -> None:
    long = "".join(f"    a{i} = {i}\n" for i in range(house.LONGEST - 1))
    counts, _ = counted(
        house,
        tmp_path,
        {
            "a.py": '''
                """The docstring
                of the module."""

                # a comment

                X = 1  # code, with a comment
                """The docstring of a constant."""
                TEXT = """two
                lines"""


                class A:
                    """The docstring of a class."""

                    def method(self, a, b, /, c, *, d, e, f):
                        """The docstring of a method."""

                        def inner(a, b, c, d, e, f, g): ...
            ''',
            "just_long_enough.py": f"@decorator\ndef f():\n{long}",
            "too_long.py": f"async def f():\n{long}    b = 1\n",
        },
    )
    assert counts["lines of code"] == 6 + (house.LONGEST + 1) + (house.LONGEST + 1)
    assert counts["functions"] == 4
    assert counts[f"functions of more than {house.LONGEST} lines"] == 1
    assert counts[f"functions of more than {house.MOST_PARAMETERS} parameters"] == 1


def counted(house: ModuleType, folder: Path, files: dict[str, str]) -> tuple[dict[str, int], list[list[str]]]:
    """The counts and the circles of a package of these files."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    modules = house.read_package(folder)
    return dict(house.measure(modules)), house.circles(modules)
