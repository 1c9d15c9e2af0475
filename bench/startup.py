"""Start-up time of commands compared with `import asyncio, json` in the same interpreter.

    uv run python bench/startup.py [--rounds N] [--environment DIR]

The commands are those of the environment, without `uv run`, and their bytecode is cached. The target is at most
4 times the imports.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from harness import publish, ratios, run, spread

IMPORTS = "import asyncio, json"
BEFORE = "107f1a8"
RATIOS_BEFORE = {
    "workload-generator --help": "5.33 (5.07 to 5.63)",
    "workload-generator --check": "5.43 (5.26 to 5.80)",
    "kn-bench --help": "8.80 (8.54 to 9.49)",
    "kn-bench extract, an empty folder": "8.97 (8.68 to 9.71)",
}
"""Of that commit, measured with `--environment`."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="DIR",
        help="measure another environment; print the times and do not publish them",
    )
    options = parser.parse_args()
    programs = (options.environment or Path(sys.prefix)) / "bin"
    caching = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    took: dict[str, list[float]] = {name: [] for name in (IMPORTS, *RATIOS_BEFORE)}
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as name:
        logs = Path(name) / "logs"
        logs.mkdir()
        for number in range(options.rounds + 1):
            commands = [
                [programs / "python", "-c", IMPORTS],
                [programs / "workload-generator", "--help"],
                [programs / "workload-generator", "--check", "--config=serving-scenario-1-go"],
                [programs / "kn-bench", "--help"],
                [programs / "kn-bench", "extract", f"--logs={logs}", f"--db={name}/{number}.db"],
            ]
            for walls, command in zip(took.values(), commands, strict=True):
                walls.append(run([str(word) for word in command], core=None, fine=(0, 1), env=caching).wall_s)
    took = {name: walls[1:] for name, walls in took.items()}  # fills the caches
    rows = [(name, spread([s * 1000 for s in walls]), ratios(walls, took[IMPORTS])) for name, walls in took.items()]
    if options.environment is not None:
        for row in rows:
            print(*row, sep="  ")
        return 0
    publish(
        "startup",
        "Start-up",
        f"{options.rounds} alternating runs in the environment's interpreter, bytecode cached: "
        f"median (min to max). Before: commit {BEFORE}. Target: at most 4 times the imports. "
        "`just bench-startup`.",
        ["command", "ms", f"÷ `{IMPORTS}`", "before"],
        [(*row, RATIOS_BEFORE.get(row[0], "")) for row in rows],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
