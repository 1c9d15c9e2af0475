"""`kn-bench quickstart`: the whole benchmark on this machine, from functions to a report.

It runs the bundled scenarios `quickstart-*` on the embedded platform, with the functions that are built here, extracts
their logs and writes the report. Another quickstart adds its runs to the same database.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import plain_printer
from workload_generator.commands.scenario import extract_and_report
from workload_generator.experiment.bundled import find_scenario
from workload_generator.functions.catalog import Function, load_catalog
from workload_generator.results.database import open_store
from workload_generator.results.extract_summary import proof_lines
from workload_generator.scenarios.emulator import EmulatorPlatform
from workload_generator.scenarios.model import Scenario, load_scenario
from workload_generator.scenarios.runner import Runner, ScenarioPlan
from workload_generator.scenarios.state import StateFile

_EACH_LANGUAGE = ("quickstart-warm", "quickstart-cold")
_OTHERS = ("quickstart-concurrency", "quickstart-events")


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    command.add_argument("--port", type=int, metavar="N", help="port of the platform; default: a free one")


def run(options: argparse.Namespace) -> int:
    """Run it; returns the exit code. `--data` gets `logs/`, `platform.txt`, `benchmark.db` and `report.html`.

    Raises BenchError; no process is left running.
    """
    start, data, say = time.monotonic(), options.data, plain_printer()
    logs, db, output = data / "logs", data / "benchmark.db", data / "platform.txt"
    _prepare(logs, output)
    open_store(db).close()  # a database that cannot be used is reported before the runs
    scenarios = plan(load_catalog(), say)
    say(f"the events of the embedded platform are in {output}")
    invalid = []
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name:
        for path, scenario in scenarios:
            folder = Path(name) / path.stem
            with StateFile(folder) as file:
                platform = EmulatorPlatform(options.port, scenario, logs, output, folder)
                with contextlib.closing(platform):
                    campaign = ScenarioPlan(scenario, path, platform.name, secrets.randbits(63))
                    runs = Runner(campaign, platform, file, say).execute()
            invalid += [each.prefix for each in runs if each.code == ExitCode.INVALID]
    say("")
    extract_and_report(logs, db, data / "report.html", say)
    with open_store(db) as store:
        for line in proof_lines(store):
            say(line)
    for prefix in invalid:
        say(f"{prefix} is invalid: this machine was too busy to measure; run it again")
    say(f"done in {time.monotonic() - start:.0f} s; for queries of {db} see docs/database.md")
    return ExitCode.OK


def plan(functions: Mapping[str, Function], say: Callable[[str], None]) -> list[tuple[Path, Scenario]]:
    """The scenarios, for the languages whose functions are built. Raises UsageError when no function is built."""
    empty = {match[1]: name for name in functions if (match := re.fullmatch(r"empty-(.+)-http", name))}
    languages = [language for language, name in empty.items() if functions[name].built]
    missing = [language for language in empty if language not in languages]
    if not languages:
        raise UsageError("no function is built: run kn-bench functions build")
    if missing:
        say(f"skipping languages whose functions are not built: {', '.join(missing)}")
    paths = {find_scenario(name): {"languages": languages} for name in _EACH_LANGUAGE}
    paths |= {find_scenario(name): {} for name in _OTHERS}
    return [(path, load_scenario(path, flags)) for path, flags in paths.items()]


def _prepare(logs: Path, output: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
        output.write_text("")
    except OSError as error:
        place = error.filename or logs
        raise UsageError(f"cannot write to {place}: {error.strerror}; choose another folder with --data") from None
