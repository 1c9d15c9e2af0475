"""`kn-bench scenario`: runs a scenario on a platform, from its file to the report."""

from __future__ import annotations

import argparse
import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import plain_printer
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.paths import PATHS
from workload_generator.commands.extract import extract_and_show
from workload_generator.commands.flags import add_db, add_dry_run, add_kubeconfig, add_manifests, add_seed
from workload_generator.commands.report import report_and_show
from workload_generator.commands.results_extra import MissingExtra
from workload_generator.experiment.bundled import find_manifests, find_scenario
from workload_generator.results.database import open_store
from workload_generator.scenarios.cluster import ClusterPlatform
from workload_generator.scenarios.emulator import EmulatorPlatform, with_built_languages
from workload_generator.scenarios.model import Scenario, load_scenario
from workload_generator.scenarios.runner import Runner, ScenarioPlan, ScenarioPlatform, restore_changes
from workload_generator.scenarios.state import StateFile

_LOCAL, _CLUSTER = "local", "cluster"


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("scenario", metavar="NAME|FILE", help="a bundled scenario, or a scenario file (docs/scenarios.md)")
    add("--platform", choices=(_LOCAL, _CLUSTER), default=_LOCAL, help="this machine (default), or a cluster")
    add("--languages", type=_several, metavar="L,…", help="replaces the file's languages")
    add("--rates", type=_several, metavar="R,…", help="replaces the file's rates, in requests a second")
    add("--repeats", metavar="N", help="replaces the file's repeats: runs of each cell")
    add("--duration", metavar="D", help="replaces the file's duration of a run, without its ramp")
    add("--path", choices=tuple(PATHS), help="replaces the file's path of warm requests")
    add_seed(command, "seed of the order; default: random, kept in the folder")
    add("--out", type=Path, metavar="DIR", help="default: data/<scenario>; complete runs there are not repeated")
    add_db(command, required=False, text="default: benchmark.db in that folder")
    add("--port", type=int, metavar="N", help="port of the embedded platform; default: a free one")
    add_kubeconfig(command)
    add_manifests(command)
    add("--delete", action="store_true", help="in a cluster: delete a run's logs in the pod once they are copied")
    add_dry_run(command, "print the order and the planned time, and run nothing")
    add("--restore", action="store_true", help="only restore what an interrupted scenario had changed")


def run(options: argparse.Namespace) -> int:
    """Run the scenario; returns the exit code: `INVALID` when a run's verdict is invalid. Raises BenchError."""
    _refuse_unused(options)
    say = plain_printer()
    path = find_scenario(options.scenario)
    flags = {key: getattr(options, key) for key in ("languages", "rates", "repeats", "duration", "path")}
    scenario = load_scenario(path, {key: value for key, value in flags.items() if value is not None})
    out = options.out or Path("data") / scenario.scenario
    if options.platform == _LOCAL:
        scenario = with_built_languages(scenario, say)
    if options.dry_run:
        seed = secrets.randbits(63) if options.seed is None else options.seed
        for line in ScenarioPlan(scenario, path, options.platform, seed).describe():
            say(line)
        return ExitCode.OK

    logs, db = out / "logs", options.db or out / "benchmark.db"
    with StateFile(out) as file:
        with _platform(options, scenario, out, say) as platform:
            if options.restore:
                _restore(file, platform, say)
                return ExitCode.OK
            seed = options.seed
            if seed is None:
                seed = secrets.randbits(63) if file.state is None else file.state.seed
            logs.mkdir(exist_ok=True)
            open_store(db).close()  # a database that cannot be used is reported before the runs
            campaign = ScenarioPlan(scenario, path, options.platform, seed)
            runs = Runner(campaign, platform, file, say).execute()
    say("")
    extract_and_report(logs, db, out / "report.html", say)
    invalid = [each for each in runs if each.code == ExitCode.INVALID]
    for each in invalid:
        say(f"run {each.number}, {each.prefix} ({each.run_id}) is invalid: its log and the report say why")
    say(f"{len(runs)} runs in {out}, {len(invalid)} of them invalid")
    return ExitCode.INVALID if invalid else ExitCode.OK


def extract_and_report(logs: Path, db: Path, page: Path, say: Callable[[str], None]) -> None:
    """Extract the logs and, where the libraries for it are installed, write the report. Raises BenchError."""
    extract_and_show(logs, db)
    try:
        report_and_show(db, page, tables=False)
    except MissingExtra as error:
        say(f"no report: {error}")


def _refuse_unused(options: argparse.Namespace) -> None:
    ours = {_LOCAL: ("port",), _CLUSTER: ("kubeconfig", "context", "manifests", "delete")}
    for platform, names in ours.items():
        for name in names:
            if platform != options.platform and getattr(options, name) not in (None, False):
                raise UsageError(f"--{name} cannot be used with --platform {options.platform}")


def _restore(file: StateFile, platform: ScenarioPlatform, say: Callable[[str], None]) -> None:
    """Restore the values in the folder's state or, without them, those that the platform has recorded."""
    if not restore_changes(file, platform, say):
        left = platform.left_behind()
        if not left:
            say(f"{file.path}: there is nothing to restore")
            return
        platform.restore(left)
    say("restored")


def _several(text: str) -> list[str]:
    return text.split(",")


@contextlib.contextmanager
def _platform(
    options: argparse.Namespace, scenario: Scenario, out: Path, say: Callable[[str], None]
) -> Iterator[ScenarioPlatform]:
    if options.platform == _CLUSTER:
        kubectl = Kubectl(options.kubeconfig, options.context)
        yield ClusterPlatform(
            scenario, out / "logs", options.manifests or find_manifests(), say, kubectl, options.delete
        )
        return
    said = out / "platform.txt"
    said.touch()
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name, contextlib.ExitStack() as stack:
        platform = EmulatorPlatform(options.port, scenario, out / "logs", said, Path(name))
        stack.callback(platform.close)
        yield platform
