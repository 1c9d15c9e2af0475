"""`kn-bench quickstart`: the whole benchmark on this machine, from functions to a report, by the code of any run.

It starts `kn-bench local`, runs four short experiments against it with `workload-generator`, extracts their logs and
writes the report. The experiments are the bundled `quickstart-*`, with the functions that are built here in the place
of the Python one.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import COMPLETE_RUN, ExitCode
from workload_generator.commands.extract import extract_and_show
from workload_generator.commands.report import report_and_show
from workload_generator.commands.results_extra import MissingExtra
from workload_generator.emulator.platform_process import PlatformProcess, receiver_processes
from workload_generator.experiment.bundled import find_experiment, find_platform
from workload_generator.experiment.load import load_experiment
from workload_generator.functions.catalog import Function, load_catalog
from workload_generator.kube.names import FUNCTIONS_DOMAIN
from workload_generator.results.database import open_store
from workload_generator.results.ingest.cold_starts import proof_lines

_TRIGGERS = 2


@dataclass(frozen=True, slots=True)
class QuickstartRun:
    """One run of the quickstart: an experiment with its targets replaced by `services`."""

    title: str
    experiment: str
    prefix: str
    services: tuple[str, ...]
    flags: tuple[str, ...] = ()
    from_zero: bool = False
    events: bool = False


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    command.add_argument("--port", type=int, metavar="N", help="the platform's; default: a free one")


def run(options: argparse.Namespace) -> int:
    """Run it; returns the exit code. Raises BenchError."""
    quickstart(options.data, options.port, Console(highlight=False))
    return ExitCode.OK


def quickstart(data: Path, port: int | None, console: Console) -> None:
    """Run it. `data` gets `logs/`, `platform.txt`, `benchmark.db` and `report.html`.

    Raises BenchError; nothing is left running.
    """
    began = time.monotonic()
    logs, db, said = data / "logs", data / "benchmark.db", data / "platform.txt"
    _prepare(logs, said)
    open_store(db).close()  # what is wrong with it is better known before the runs than after
    functions = load_catalog()
    parts = plan(functions, console)
    invalid = []
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name, _platform(port, said, Path(name)) as platform:
        console.print(f"the embedded platform answers at {platform.url}; what it does is in {said}", soft_wrap=True)
        for number, part in enumerate(parts, 1):
            console.print(f"\n[bold]{number} of {len(parts)}: {part.title}[/]", soft_wrap=True)
            if part.from_zero and platform.instances():
                console.print("waiting for the platform to scale to zero")
                platform.wait_for_zero()
            if part.events:
                with receiver_processes(platform, logs):
                    valid = _generate(part, platform, logs, Path(name))
                    platform.wait_for_delivery()
            else:
                valid = _generate(part, platform, logs, Path(name))
            if not valid:
                invalid.append(part.title)
                console.print("[yellow]its verdict is invalid, for the reasons above; the quickstart goes on[/]")
    console.print()
    extract_and_show(logs, db)
    with open_store(db) as store:
        for line in proof_lines(store):
            console.print(line, soft_wrap=True, highlight=False)
    try:
        report_and_show(db, data / "report.html", tables=False)
    except MissingExtra as error:
        console.print(f"[yellow]no report:[/] {error}", soft_wrap=True)
    for title in invalid:
        console.print(f"[yellow]invalid[/] {title}: this machine was too busy to measure; run it again", soft_wrap=True)
    console.print(f"done in {time.monotonic() - began:.0f} s; ask {db} more: docs/database.md", soft_wrap=True)


def plan(functions: Mapping[str, Function], console: Console) -> list[QuickstartRun]:
    """The runs, for the languages whose functions are built. Raises UsageError when one that is needed is not."""
    empty = {match[1]: name for name in functions if (match := re.fullmatch(r"empty-(.+)-http", name))}
    languages = [language for language, name in empty.items() if functions[name].built]
    missing = [language for language in empty if language not in languages]
    if not languages:
        raise UsageError("no function is built: `kn-bench functions build` builds them")
    if missing:
        console.print(f"not built, and so left out: {', '.join(missing)}; `kn-bench functions build` builds them")
    warm, concurrency = (_rps(name) for name in ("quickstart-warm", "quickstart-concurrency"))
    parts = [
        QuickstartRun(
            f"scenario 1, warm calls: {language}, {warm} requests a second",
            "quickstart-warm",
            f"serving-scenario-1_{warm}rps_{language}",
            (f"empty-{language}-http-0",),
            ("--ping",),  # its instance is there when the run begins
        )
        for language in languages
    ]
    parts.append(
        QuickstartRun(
            f"scenario 2, cold starts: {', '.join(languages)}",
            "quickstart-cold",
            f"serving-scenario-2_{languages[0] if len(languages) == 1 else 'all'}",
            tuple(f"empty-{language}-http-0" for language in languages),
            ("--cold-start",),
            from_zero=True,
        )
    )
    parts.append(
        QuickstartRun(
            f"scenario 3, one request at a time: {concurrency} requests a second are more than the instances can serve",
            "quickstart-concurrency",
            f"serving-scenario-3_{concurrency}rps_python",
            ("sleep-python-http-0",),
        )
    )
    events = _rps("quickstart-events")
    parts.append(
        QuickstartRun(
            f"eventing: {events} events a second through a broker with {_TRIGGERS} triggers",
            "quickstart-events",
            f"eventing-scenario-1_{_TRIGGERS}triggers_{events}rps",
            (),
            ("--event",),
            events=True,
        )
    )
    return parts


def narrowed(experiment: str, services: Sequence[str], folder: Path) -> Path:
    """The bundled experiment with its first target for each of the services, as a file in `folder`."""
    path = find_experiment(experiment)
    document = yaml.safe_load(path.read_text())
    first = document["targets"][0]
    document["targets"] = [{**first, "url": f"http://{service}.{FUNCTIONS_DOMAIN}"} for service in services]
    narrow = folder / path.name
    narrow.write_text(yaml.safe_dump(document, sort_keys=False))
    return narrow


def _rps(experiment: str) -> str:
    return load_experiment(find_experiment(experiment), event=True).rate.display_rps


def _prepare(logs: Path, said: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
        said.write_text("")
    except OSError as error:
        raise UsageError(
            f"cannot write to {error.filename or logs}: {error.strerror}; choose another folder with --data"
        ) from None


def _platform(port: int | None, said: Path, folder: Path) -> PlatformProcess:
    platform = PlatformProcess(port, said, folder)
    platform.configure(yaml.safe_load(find_platform("quickstart").read_text()), triggers=_TRIGGERS)
    return platform


def _generate(part: QuickstartRun, platform: PlatformProcess, logs: Path, folder: Path) -> bool:
    """Run one part; whether its verdict is valid. Raises BenchError when it has no whole log."""
    config = find_experiment(part.experiment) if part.events else narrowed(part.experiment, part.services, folder)
    flags = [f"--config={config}", f"--prefix={part.prefix}", f"--log-dir={logs}", *part.flags]
    code = platform.generate(flags, event=part.events)
    if code not in COMPLETE_RUN:
        raise BenchError(f"the workload generator ended with exit code {code}")
    return code == ExitCode.OK
