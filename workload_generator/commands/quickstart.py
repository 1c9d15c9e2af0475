"""`kn-bench quickstart`: the whole benchmark on this machine, from functions to a report.

It starts `kn-bench local`, runs short experiments against it with `workload-generator`, extracts their logs and writes
the report. The experiments are the bundled `quickstart-*`, with the functions that are built here as targets.
"""

from __future__ import annotations

import argparse
import contextlib
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
from workload_generator.results.extract_summary import proof_lines

_TRIGGERS = 2


@dataclass(frozen=True, slots=True)
class QuickstartRun:
    """One run: a bundled experiment with `services` as its targets, in a mode of the generator, such as `ping`."""

    title: str
    experiment: str
    prefix: str
    services: tuple[str, ...]
    mode: str | None = None


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    command.add_argument("--port", type=int, metavar="N", help="port of the platform; default: a free one")


def run(options: argparse.Namespace) -> int:
    """Run it; returns the exit code. `--data` gets `logs/`, `platform.txt`, `benchmark.db` and `report.html`.

    Raises BenchError; no process is left running.
    """
    start, data, console = time.monotonic(), options.data, Console(highlight=False, soft_wrap=True)
    logs, db, output = data / "logs", data / "benchmark.db", data / "platform.txt"
    _prepare(logs, output)
    open_store(db).close()  # a database that cannot be used is reported before the runs
    runs = plan(load_catalog(), console)
    invalid = []
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name:
        folder = Path(name)
        embedded = PlatformProcess(options.port, output, folder)
        embedded.configure(yaml.safe_load(find_platform("quickstart").read_text()), triggers=_TRIGGERS)
        with embedded.running():
            console.print(f"the embedded platform is at {embedded.url}; its events are in {output}")
            for number, each in enumerate(runs, 1):
                console.print(f"\n[bold]{number} of {len(runs)}: {each.title}[/]")
                if not _is_valid(each, embedded, logs, folder, console):
                    invalid.append(each.title)
                    console.print("[yellow]the run is invalid, for the reasons above; the quickstart continues[/]")
    console.print()
    extract_and_show(logs, db)
    with open_store(db) as store:
        for line in proof_lines(store):
            console.print(line)
    try:
        report_and_show(db, data / "report.html", tables=False)
    except MissingExtra as error:
        console.print(f"[yellow]no report:[/] {error}")
    for title in invalid:
        console.print(f"[yellow]invalid[/] {title}: this machine was too busy to measure; run it again")
    console.print(f"done in {time.monotonic() - start:.0f} s; for queries of {db} see docs/database.md")
    return ExitCode.OK


def plan(functions: Mapping[str, Function], console: Console) -> list[QuickstartRun]:
    """The runs, for the languages whose functions are built. Raises UsageError when no function is built."""
    empty = {match[1]: name for name in functions if (match := re.fullmatch(r"empty-(.+)-http", name))}
    languages = [language for language, name in empty.items() if functions[name].built]
    missing = [language for language in empty if language not in languages]
    if not languages:
        raise UsageError("no function is built: run kn-bench functions build")
    if missing:
        console.print(f"skipping languages whose functions are not built: {', '.join(missing)}")
    services = {language: f"empty-{language}-http-0" for language in languages}
    warm, busy, events = (_rps(f"quickstart-{name}") for name in ("warm", "concurrency", "events"))
    return [
        *(
            QuickstartRun(
                f"scenario 1, warm calls: {language}, {warm} requests a second",
                "quickstart-warm",
                f"serving-scenario-1_{warm}rps_{language}",
                (service,),
                "ping",  # starts the instance before the run
            )
            for language, service in services.items()
        ),
        QuickstartRun(
            f"scenario 2, cold starts: {', '.join(languages)}",
            "quickstart-cold",
            f"serving-scenario-2_{languages[0] if len(languages) == 1 else 'all'}",
            tuple(services.values()),
            "cold-start",
        ),
        QuickstartRun(
            f"scenario 3, one request at a time: {busy} requests a second are more than the instances can serve",
            "quickstart-concurrency",
            f"serving-scenario-3_{busy}rps_python",
            ("sleep-python-http-0",),
        ),
        QuickstartRun(
            f"eventing: {events} events a second through a broker with {_TRIGGERS} triggers",
            "quickstart-events",
            f"eventing-scenario-1_{_TRIGGERS}triggers_{events}rps",
            (),
            "event",
        ),
    ]


def narrowed(experiment: str, services: Sequence[str], folder: Path) -> Path:
    """The bundled experiment as a file in `folder`, with its first target repeated for each of `services`, if any."""
    path = find_experiment(experiment)
    document = yaml.safe_load(path.read_text())
    first = document["targets"][0]
    urls = [f"http://{service}.{FUNCTIONS_DOMAIN}" for service in services] or [first["url"]]
    document["targets"] = [{**first, "url": url} for url in urls]
    narrow = folder / path.name
    narrow.write_text(yaml.safe_dump(document, sort_keys=False))
    return narrow


def _rps(experiment: str) -> str:
    return load_experiment(find_experiment(experiment), event=True).rate.arrival.display_rps()


def _prepare(logs: Path, output: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
        output.write_text("")
    except OSError as error:
        place = error.filename or logs
        raise UsageError(f"cannot write to {place}: {error.strerror}; choose another folder with --data") from None


def _is_valid(each: QuickstartRun, platform: PlatformProcess, logs: Path, folder: Path, console: Console) -> bool:
    """Run it; returns whether its verdict is valid. Raises BenchError when its log is incomplete."""
    is_event = each.mode == "event"
    if each.mode == "cold-start" and platform.instances():
        console.print("waiting for the platform to scale to zero")
        platform.wait_for_zero()
    flags = [f"--config={narrowed(each.experiment, each.services, folder)}", f"--prefix={each.prefix}"]
    flags += [f"--log-dir={logs}", *([f"--{each.mode}"] if each.mode else [])]
    with receiver_processes(platform, logs) if is_event else contextlib.nullcontext():
        code = platform.generate(flags, event=is_event)
        if code not in COMPLETE_RUN:
            raise BenchError(f"the workload generator ended with exit code {code}")
        if is_event:
            platform.wait_for_delivery()
    return code == ExitCode.OK
