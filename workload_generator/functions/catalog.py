"""The catalog of functions, `functions/catalog.yaml`, with the commands that build, run and test each.

Rules:
- commands run in the folder of the function, without a shell; `{python}` is the interpreter of its virtual environment,
  or else our own
- a function is built if all files in `produces` exist; without `produces` it needs no build
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.experiment.field_kinds import TEXT, any_text, checked, word
from workload_generator.experiment.fields import Kind, YamlSection, key, many, read, section
from workload_generator.experiment.yaml_lines import did_you_mean, read_yaml

FUNCTIONS_DIR = "FUNCTIONS_DIR"
"""The environment variable with a folder of functions and their catalog, instead of the checkout's."""

CATALOG_FILE = "catalog.yaml"


def _matching(pattern: str, message: str) -> Kind[str]:
    return checked(any_text, re.compile(pattern).fullmatch, message)


_NAME = _matching(r"[a-z]([-a-z0-9]*[a-z0-9])?", "is not a function name: use lower-case letters, digits and hyphens")
_LANGUAGE = _matching(r"[a-z][a-z0-9]*", "is not a language name: use lower-case letters and digits")
_NEED = _matching(r"[a-z][-a-z0-9]*( \d+(\.\d+)*)?", "is not a program with its oldest version, such as go 1.24")


@dataclass(frozen=True, kw_only=True)
class Entry(YamlSection):
    """The entry of a function. `needs` are programs for its build, optionally with their oldest version."""

    name: str = key(_NAME)
    language: str = key(_LANGUAGE)
    framework: str = key(TEXT)
    kind: str = key(word("http", "event"), "http")
    image: str = key(TEXT)
    needs: tuple[str, ...] = key(many(_NEED), ())
    build: tuple[str, ...] = key(many(TEXT), ())
    produces: tuple[str, ...] = key(many(TEXT), ())
    run: str = key(TEXT)
    test: str = key(TEXT, "")


@dataclass(frozen=True, kw_only=True)
class Catalog(YamlSection):
    """The catalog file."""

    functions: tuple[Entry, ...] = key(many(section(Entry), at_least=1))


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the catalog and its folder."""

    entry: Entry
    folder: Path

    @property
    def name(self) -> str:
        """The name of the function, of its folder, and, with a number, of its services."""
        return self.entry.name

    @property
    def built(self) -> bool:
        """Whether everything that its build produces exists."""
        return all((self.folder / path).exists() for path in self.entry.produces)

    @property
    def command(self) -> list[str]:
        """The command of one instance, to run in `folder` with `$PORT` and `$HOSTNAME`."""
        return self.words(self.entry.run)

    def words(self, command: str) -> list[str]:
        """A command of the entry as a list of arguments."""
        own = self.folder / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        return [word.replace("{python}", python) for word in shlex.split(command)]


def find_catalog() -> Path:
    """The folder of the catalog: `$FUNCTIONS_DIR`, the checkout's or the working directory's. Raises UsageError."""
    given = os.environ.get(FUNCTIONS_DIR)
    folders = [Path(given)] if given else [Path(__file__).resolve().parents[2] / "functions", Path.cwd() / "functions"]
    for folder in folders:
        if (folder / CATALOG_FILE).is_file():
            return folder
    raise UsageError(
        f"no {CATALOG_FILE} in {', '.join(map(str, folders))}: run this in a checkout, or set {FUNCTIONS_DIR} to the "
        "folder of the functions"
    )


def load_catalog(folder: Path | None = None) -> Mapping[str, Function]:
    """The functions by name, in the catalog's order. Raises UsageError, or ExperimentError with every problem."""
    folder = find_catalog() if folder is None else folder
    document = read_yaml(folder / CATALOG_FILE)
    catalog, problems = read(Catalog, document)
    functions: dict[str, Function] = {}
    for index, entry in enumerate(catalog.functions if catalog else ()):
        at = ("functions", index, "name")
        if entry.name in functions:
            problems.append(document.problem(at, f"{entry.name} is a duplicate name"))
        elif not (folder / entry.name).is_dir():
            problems.append(document.problem(at, f"{folder / entry.name} does not exist: create the folder"))
        functions[entry.name] = Function(entry, folder / entry.name)
    if problems:
        raise ExperimentError(problems)
    return functions


def find_function(name: str) -> Function:
    """The function `name`. Raises UsageError, which lists all functions."""
    functions = load_catalog()
    if name in functions:
        return functions[name]
    raise UsageError(f"no function {name}{did_you_mean(name, functions, '.')} The catalog has {', '.join(functions)}")
