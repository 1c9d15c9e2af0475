"""The size of the package, and the dependencies of its parts.

    uv run python bench/house.py [--root DIR]

Definitions:
- a room is a folder or a module directly in the package
- an arrow leads from one room to another if a module of the first imports one of the second, at any place in the module
  and also for types only; `__main__`, which starts the commands, is not a room
- a circle is a set of modules each of which imports all others, directly or indirectly
- a line of code has a token that is neither a comment nor part of a docstring
- a function's length is from `def` to its end; `self`, `cls`, `*args` and `**kwargs` are not counted as parameters
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import publish

PACKAGE = "workload_generator"
LONGEST = 60
MOST_PARAMETERS = 6
BEFORE = "316d623"
COUNTS_BEFORE = (54, 215, 3, 223, 26_571, 2_395, 1, 23)
SPEED = (
    "Speed before and after, measured once, one after the other: closed loop 101,161 and 103,810 requests/s at 12.5 "
    "and 11.6 µs of CPU each (3 rounds of 2 s); open loop at 5,000/s p99 27 and 38 µs, CPU 26.2 and 24.5 % (2 "
    "rounds); TTFB against the wire at 5,000/s p99 23.5 and 12.8 µs; the README's test command on the bare machine "
    "126 to 135 and 125 s, with 2,714 and 2,921 tests passed."
)
"""By hand, of the commit that ended the move: `bench/load.py`, `bench/open.py`, `bench/truth.py`, `.ci/bare`."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the package. `name` is the dotted name within the package, "" for the package's `__init__`."""

    name: str
    tree: ast.Module
    code_lines: int

    @property
    def room(self) -> str:
        """The first part of its name."""
        return self.name.split(".")[0]

    def imports(self, known: Mapping[str, Module]) -> set[str]:
        """The names of the package's modules that it imports. Raises ValueError for a relative import."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {_inside(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                if node.module is None or node.level:
                    raise ValueError(f"{self.name}:{node.lineno}: relative import; import from {PACKAGE}")
                base = _inside(node.module)
                if base is not None:
                    members = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
                    found |= {member if member in known else base for member in members}
        return {name for name in found if name} - {self.name}

    def functions(self) -> Iterator[Function]:
        """All functions, including methods and inner functions."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="count another checkout; print the counts and do not publish them"
    )
    options = parser.parse_args()
    modules = read_package((options.root or Path(__file__).parents[1]) / PACKAGE)
    rows = measure(modules)
    for circle in circles(modules):
        print("circle:", ", ".join(circle))
    if options.root is not None:
        for name, value in rows:
            print(f"{value:>8,}  {name}")
        return 0
    publish(
        "house",
        "The house",
        f"Counts of the package; `bench/house.py` defines the words. Before: commit {BEFORE}. {SPEED} "
        "`just bench-house`.",
        ["count", "before", "now"],
        [(name, f"{before:,}", f"{value:,}") for (name, value), before in zip(rows, COUNTS_BEFORE, strict=True)],
    )
    return 0


def read_package(folder: Path) -> dict[str, Module]:
    """All modules of the package in `folder`, by their names."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        name = ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        text = path.read_text("utf-8")
        tree = ast.parse(text)
        modules[name] = Module(name, tree, len(_lines_with_code(text) - _docstring_lines(tree)))
    return modules


def measure(modules: Mapping[str, Module]) -> list[tuple[str, int]]:
    """The counts with their names."""
    rooms = {module.room for module in modules.values() if module.room and module.room != "__main__"}
    functions = [function for module in modules.values() for function in module.functions()]
    arrows = {
        (module.room, target.split(".")[0])
        for module in modules.values()
        for target in module.imports(modules)
        if module.room != "__main__"
    }
    return [
        ("rooms", len(rooms)),
        ("arrows between rooms", len([1 for start, end in arrows if start != end])),
        ("circles of modules", len(circles(modules))),
        ("modules", len(modules)),
        ("lines of code", sum(module.code_lines for module in modules.values())),
        ("functions", len(functions)),
        (f"functions of more than {LONGEST} lines", sum(_length(function) > LONGEST for function in functions)),
        (
            f"functions of more than {MOST_PARAMETERS} parameters",
            sum(_parameters(function) > MOST_PARAMETERS for function in functions),
        ),
    ]


def circles(modules: Mapping[str, Module]) -> list[list[str]]:
    """The sets of modules that reach each other (strongly connected components), by Tarjan's algorithm."""
    targets = {name: module.imports(modules) & modules.keys() for name, module in modules.items()}
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in targets[name]:
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in targets:
        if name not in order:
            visit(name)
    return found


def _inside(name: str) -> str | None:
    """`name` without the package; None for modules outside of it."""
    if name == PACKAGE:
        return ""
    return name.removeprefix(f"{PACKAGE}.") if name.startswith(f"{PACKAGE}.") else None


def _lines_with_code(text: str) -> set[int]:
    return {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }


def _docstring_lines(tree: ast.Module) -> set[int]:
    """The lines of all strings that are statements. Strings after constants and fields are docstrings, too."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _parameters(function: Function) -> int:
    given = function.args
    names: Sequence[ast.arg] = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return len([each for each in names if each.arg not in ("self", "cls")])


if __name__ == "__main__":
    raise SystemExit(main())
