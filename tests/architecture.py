"""The tree in ARCHITECTURE.md: each folder and module of the package with the first sentence of its docstring.

    python -m tests.architecture

writes it, `just fix` calls it, and a test holds the page to it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
PACKAGE = ROOT / "workload_generator"
FOLDERS = (
    "commands", "scenarios", "run", "cluster", "results", "emulator", "engine", "coldstart", "eventing", "functions",
    "kube", "experiment", "log", "cloudevents", "base",
)  # fmt: skip
"""The folders in the order of their arrows, as in the import contract."""
_BEGIN, _END = "## The package\n\n```\n", "```\n"
_COLUMN = 24


def page() -> str:
    """ARCHITECTURE.md with the tree of today."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(_BEGIN)
    return before + _BEGIN + "".join(f"{line}\n" for line in tree()) + _END + rest.partition(_END)[2]


def tree() -> Iterator[str]:
    """Its lines."""
    for name in FOLDERS:
        yield from _folder(PACKAGE / name, "")


def _folder(folder: Path, indent: str) -> Iterator[str]:
    yield _line(f"{indent}{folder.name}/", folder / "__init__.py")
    for module in sorted(folder.glob("[!_]*.py")):
        yield _line(f"{indent}  {module.stem}", module)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _folder(inner, f"{indent}  ")


def _line(name: str, path: Path) -> str:
    paragraph = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n\n")[0]
    sentence = paragraph.replace("\n", " ").split(". ")[0].rstrip(".")
    return f"{name:<{_COLUMN}}{sentence}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    sys.exit(0)
