"""The catalog of functions, `functions/catalog.yaml`: what there is, and how each is built, run and tested.

Rules:
- commands are run in the function's folder, without a shell; `{python}` in them is the function's own interpreter where
  it has a virtual environment, else the one that runs us
- a function is built when everything that `produces` names is there; one that names nothing needs no build
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workload_generator.document import closest, read_document
from workload_generator.errors import ExperimentError, UsageError

FUNCTIONS_DIR = "FUNCTIONS_DIR"
"""The environment variable that names a folder of functions with its catalog, instead of the checkout's."""

_FILE = "catalog.yaml"


Need = Annotated[str, Field(pattern=r"^[a-z][-a-z0-9]*( \d+(\.\d+)*)?$")]
"""A program that builds need, and the oldest version that will do: `go 1.24`."""


class Entry(BaseModel):
    """One function as the catalog has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    language: str
    framework: str
    kind: Literal["http", "event"] = "http"
    image: str
    needs: tuple[Need, ...] = ()
    build: tuple[str, ...] = ()
    produces: tuple[str, ...] = ()
    run: str
    test: str = ""


class _Catalog(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    functions: tuple[Entry, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the catalog and the folder that it lives in."""

    entry: Entry
    folder: Path

    @property
    def name(self) -> str:
        """What it is called: its folder, and its services but for their number."""
        return self.entry.name

    @property
    def built(self) -> bool:
        """Whether it can be run as it stands."""
        return all((self.folder / path).exists() for path in self.entry.produces)

    @property
    def command(self) -> list[str]:
        """What runs one instance, in `folder`, with `$PORT` and `$HOSTNAME` set."""
        return self.words(self.entry.run)

    def words(self, command: str) -> list[str]:
        """A command of the entry as the words that a process is started with."""
        own = self.folder / ".venv" / "bin" / "python"
        python = str(own) if own.exists() else sys.executable
        return [word.replace("{python}", python) for word in shlex.split(command)]


def find_catalog() -> Path:
    """The folder with the catalog: `$FUNCTIONS_DIR`, the checkout's, or the working directory's. Raises UsageError."""
    given = os.environ.get(FUNCTIONS_DIR)
    folders = [Path(given)] if given else [Path(__file__).resolve().parents[1] / "functions", Path.cwd() / "functions"]
    for folder in folders:
        if (folder / _FILE).is_file():
            return folder
    raise UsageError(
        f"no {_FILE} in {', '.join(map(str, folders))}: run this in a checkout, or name the functions' folder in "
        f"{FUNCTIONS_DIR}"
    )


def load_catalog(folder: Path | None = None) -> Mapping[str, Function]:
    """The functions by name, in the catalog's order. Raises UsageError, or ExperimentError with every problem."""
    folder = find_catalog() if folder is None else folder
    document = read_document(folder / _FILE)
    problems = list(document.problems)
    entries: tuple[Entry, ...] = ()
    try:
        entries = _Catalog.model_validate(document.data).functions
    except ValidationError as error:
        problems += [document.problem(tuple(detail["loc"]), detail["msg"]) for detail in error.errors()]
    functions: dict[str, Function] = {}
    for index, entry in enumerate(entries):
        at = ("functions", index, "name")
        if entry.name in functions:
            problems.append(document.problem(at, f"{entry.name} stands here twice"))
        elif not (folder / entry.name).is_dir():
            problems.append(document.problem(at, f"there is no folder {folder / entry.name}"))
        functions[entry.name] = Function(entry, folder / entry.name)
    if problems:
        raise ExperimentError(problems)
    return functions


def find_function(name: str) -> Function:
    """The function of that name. Raises UsageError, which lists those that exist."""
    functions = load_catalog()
    if name in functions:
        return functions[name]
    near = closest(name, functions)
    hint = f"; did you mean {near}?" if near else ""
    raise UsageError(f"no function {name}{hint} The catalog has {', '.join(functions)}")
