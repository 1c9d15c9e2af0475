"""`just test-all`: runs every part of the tests, one after the other, and prints a table of the results.

`python -m tests.parts [NAME…]` runs the named parts, by default all. Exits with 1 if a part failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDS = ["uv", "run", "--locked", "--group=manifests", "pytest", "-n=auto", "-m=needs"]
TOOLCHAINS = ("go", "cargo", "javac", "mvn", "node", "npm")

Command = Sequence[str]


def _nothing() -> str | None:
    return None


@dataclass(frozen=True)
class Part:
    """Commands that run until one fails. `missing` returns the reason if the machine cannot run them. `minutes` is the
    budget on two cores with warm caches."""

    name: str
    minutes: int
    commands: Sequence[Command]
    missing: Callable[[], str | None] = _nothing
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """The result of a part: `passed`, `failed` or `not run`, the reason, and its time in seconds."""

    part: Part
    result: str
    why: str
    seconds: float


def _toolchains() -> str | None:
    absent = [name for name in TOOLCHAINS if not shutil.which(name)]
    return f"not on the PATH: {', '.join(absent)}" if absent else None


def _last_line(*command: str) -> str | None:
    """None if the command succeeds, else its last line of output."""
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = ran.stdout.strip().splitlines()
    return None if ran.returncode == 0 else lines[-1] if lines else f"exit code {ran.returncode}"


def _plane() -> str | None:
    """Without a cache, building the control plane takes a few minutes."""
    return _last_line(sys.executable, "-m", "tests.cluster", "build", "--within=1200")


def _containers() -> str | None:
    return _last_line(".ci/container-tools")


PARTS = (
    Part("lint", 2, [["just", "lint"]]),
    Part("tests", 5, [[".ci/bare", "uv", "run", "just", "test"]]),
    Part(
        "functions",
        3,
        [
            ["just", "functions", "--all"],
            [*NEEDS, "--must-have=functions of all languages", "tests/functions/test_functions.py"],
        ],
        _toolchains,
    ),
    Part(
        "tools",
        3,
        [[*NEEDS, "--ignore=tests/cluster", "--ignore=tests/container", "--ignore=tests/functions/test_functions.py"]],
        environment={"BENCH_CHECKOV": "1"},
    ),
    Part("control-plane", 4, [["just", "test-cluster", "-n=3", "--dist=loadfile", "--no-loadscope-reorder"]], _plane),
    Part("image", 2, [["just", "test-image"]], _containers),
)
"""`tests` is the README's test command on a bare machine; `tools` are the tests that it skips without a tool."""


def run(part: Part) -> Ran:
    """Run one part. It writes to our standard output and error."""
    began = time.monotonic()
    _say(f"\n=== {part.name} ===")
    why = part.missing()
    if why is not None:
        return Ran(part, "not run", why, time.monotonic() - began)
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"} | part.environment
    for command in part.commands:
        code = subprocess.run(command, cwd=ROOT, env=environment).returncode
        if code != 0:
            return Ran(part, "failed", f"{' '.join(command)}: exit code {code}", time.monotonic() - began)
    return Ran(part, "passed", "", time.monotonic() - began)


def table(ran: Sequence[Ran]) -> list[str]:
    """The lines of the table, with a header."""
    rows = [("part", "result", "took", "budget", "why")]
    rows += [(r.part.name, r.result, _minutes(r.seconds), _minutes(60 * r.part.minutes), r.why) for r in ran]
    rows.append(("all", "", _minutes(sum(r.seconds for r in ran)), _minutes(sum(60 * r.part.minutes for r in ran)), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run the named parts, or all; returns the exit code."""
    names = [part.name for part in parts]
    parser = argparse.ArgumentParser(
        prog="just test-all", description="Runs all parts of the tests and prints a table of the results."
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(names)}")
    wanted = parser.parse_args(argv).parts
    unknown = sorted({*wanted} - {*names})
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; choose from: {', '.join(names)}")
    ran = [run(part) for part in parts if not wanted or part.name in wanted]
    _say("\n" + "\n".join(table(ran)))
    return 1 if any(each.result == "failed" for each in ran) else 0


if __name__ == "__main__":
    sys.exit(main())
