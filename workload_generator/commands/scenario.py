"""`kn-bench scenario`: runs a scenario on a platform, from its file to the report."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from workload_generator.base.errors import UsageError
from workload_generator.commands.extract import extract_and_show
from workload_generator.commands.flags import as_in_a_file
from workload_generator.commands.report import MissingExtra, report_and_show
from workload_generator.experiment.bundled import find_manifests, find_scenario
from workload_generator.experiment.field_kinds import whole
from workload_generator.results.database import open_store
from workload_generator.scenarios.cluster import ClusterPlatform
from workload_generator.scenarios.emulator import EmulatorPlatform, with_built_languages
from workload_generator.scenarios.model import Scenario, load_scenario
from workload_generator.scenarios.runner import Campaign, Platform, Runner, describe, put_back
from workload_generator.scenarios.state import StateFile

_LOCAL, _CLUSTER = "local", "cluster"
_INVALID = 3


def add_scenario(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("scenario", metavar="NAME|FILE", help="a bundled scenario, or a file of one (docs/scenarios.md)")
    add(
        "--platform",
        choices=(_LOCAL, _CLUSTER),
        default=_LOCAL,
        help="the embedded platform on this machine, or a cluster",
    )
    add("--languages", metavar="L,…", help="replaces the file's, as the next ones do")
    add("--rates", metavar="R,…", help="requests a second")
    add("--repeats", metavar="N", help="how often each cell of the grid is run")
    add("--duration", metavar="D", help="of each run, without its ramp")
    add("--seed", type=as_in_a_file(whole), metavar="N", help="of the order; default: drawn, and kept in the folder")
    add("--out", type=Path, metavar="DIR", help="default: data/<scenario>; what is done there already is not run again")
    add("--db", type=Path, metavar="FILE", help="default: benchmark.db in that folder")
    add("--port", type=int, metavar="N", help="the embedded platform's; default: a free one")
    add("--kubeconfig", type=Path, metavar="FILE", help="the cluster's; default: as kubectl finds it")
    add("--context", metavar="NAME", help="of the kubeconfig; default: its current one")
    add("--manifests", type=Path, metavar="DIR", help="the folder k8s/; default: the installed one")
    add("--delete", action="store_true", help="in a cluster: delete a run's logs in the pod, once checked here")
    add("--dry-run", action="store_true", help="print the order and the planned time, and run nothing")
    add("--restore", action="store_true", help="only put back what a scenario that was killed had changed")
    command.set_defaults(command=scenario_command)


def scenario_command(options: argparse.Namespace) -> int:
    """Run it; the exit code: 0, or 3 when a run's verdict is invalid. Raises BenchError."""
    _refuse_what_means_nothing(options)
    console = Console(highlight=False)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    path = find_scenario(options.scenario)
    scenario = load_scenario(path, _flags(options))
    out = options.out or Path("data") / scenario.scenario
    if options.platform == _LOCAL:
        scenario = with_built_languages(scenario, say)
    if options.dry_run:
        seed = secrets.randbits(63) if options.seed is None else options.seed
        for line in describe(Campaign(scenario, path, options.platform, seed)):
            say(line)
        return 0

    logs, db = out / "logs", options.db or out / "benchmark.db"
    with StateFile(out) as file:
        with _platform(options, scenario, out, say) as platform:
            if options.restore:
                _restore(file, platform, say)
                return 0
            seed = options.seed
            if seed is None:
                seed = secrets.randbits(63) if file.state is None else file.state.seed
            logs.mkdir(exist_ok=True)
            open_store(db).close()  # what is wrong with it is better known before the runs than after
            campaign = Campaign(scenario, path, options.platform, seed)
            runs = Runner(campaign, platform, file, say).execute()
    say("")
    extract_and_show(logs, db, console)
    try:
        report_and_show(db, out / "report.html", console, tables=False)
    except MissingExtra as error:
        say(f"[yellow]no report:[/] {error}")
    invalid = [run for run in runs if run.code == _INVALID]
    for run in invalid:
        say(f"[yellow]invalid[/] run {run.number}, {run.prefix} ({run.run_id}): its log and the report say why")
    say(f"{len(runs)} runs in {out}, {len(invalid)} of them invalid")
    return _INVALID if invalid else 0


def _refuse_what_means_nothing(options: argparse.Namespace) -> None:
    ours = {_LOCAL: ("port",), _CLUSTER: ("kubeconfig", "context", "manifests", "delete")}
    for platform, names in ours.items():
        for name in names:
            if platform != options.platform and getattr(options, name) not in (None, False):
                raise UsageError(f"--{name} means nothing with --platform {options.platform}")


def _restore(file: StateFile, platform: Platform, say: Callable[[str], None]) -> None:
    """Put back what the folder says was found, or else what the platform itself says."""
    if put_back(file, platform, say):
        say("restored")
        return
    left = platform.left_behind()
    if left:
        platform.restore(left)
        say("restored")
    else:
        say(f"{file.path}: nothing is to be put back")


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for key in ("languages", "rates"):
        text = getattr(options, key)
        if text is not None:
            flags[key] = text.split(",")
    for key in ("repeats", "duration"):
        if getattr(options, key) is not None:
            flags[key] = getattr(options, key)
    return flags


@contextlib.contextmanager
def _platform(
    options: argparse.Namespace, scenario: Scenario, out: Path, say: Callable[[str], None]
) -> Iterator[Platform]:
    if options.platform == _CLUSTER:
        manifests = options.manifests or find_manifests()
        yield ClusterPlatform(
            scenario, out / "logs", manifests, say, options.kubeconfig, options.context, options.delete
        )
        return
    said = out / "platform.txt"
    said.touch()
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name, contextlib.ExitStack() as stack:
        platform = EmulatorPlatform(options.port, scenario, out / "logs", said, Path(name))
        stack.callback(platform.close)
        yield platform
