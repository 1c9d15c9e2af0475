"""`kn-bench scenario`: a scenario on a platform, from its file to the report. Here rooms are put together.

The embedded platform is a child, as in the quickstart: what a scenario changes is its settings, which end with it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import glob
import secrets
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from workload_generator.base.errors import BenchError, ExperimentError, UsageError
from workload_generator.base.no_proxy import open_directly
from workload_generator.commands.extract import extract_and_show
from workload_generator.commands.flags import as_in_a_file
from workload_generator.commands.report import MissingExtra, report_and_show
from workload_generator.emulator.child import Embedded, Receivers
from workload_generator.emulator.settings import function_of, load_config
from workload_generator.experiment.bundled import find_manifests, find_scenario
from workload_generator.experiment.values import whole
from workload_generator.functions.catalog import load_catalog
from workload_generator.log.format import CodecError, decode
from workload_generator.results.database import open_store
from workload_generator.scenarios.cluster import ClusterPlatform
from workload_generator.scenarios.model import Condition, Scenario, load_scenario
from workload_generator.scenarios.runner import Campaign, Deployment, Job, Platform, Runner, describe, put_back
from workload_generator.scenarios.state import StateFile

_LOCAL, _CLUSTER = "local", "cluster"
_INVALID = 3
_ANSWER_S = 60.0  # for a first start
_RENAMED = {"window": "stable-window", "target-utilization-percentage": "container-concurrency-target-percentage"}


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
    path = find_scenario(options.scenario)
    scenario = load_scenario(path, _flags(options))
    out = options.out or Path("data") / scenario.scenario
    if options.platform == _LOCAL:
        scenario = _with_what_is_built(scenario, console)
    if options.dry_run:
        seed = secrets.randbits(63) if options.seed is None else options.seed
        for line in describe(Campaign(scenario, path, options.platform, seed)):
            console.print(line, soft_wrap=True)
        return 0

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

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


def _with_what_is_built(scenario: Scenario, console: Console) -> Scenario:
    """The scenario without the languages whose functions are not built here. Raises UsageError when none is."""
    if scenario.services is None:
        return scenario
    functions = load_catalog()
    missing, built = {}, []
    for language in scenario.languages:
        service = scenario.services.replace("{language}", language)
        name = function_of(service, functions)
        if name is None or not functions[name].built:
            missing[language] = service
        else:
            built.append(language)
    if scenario.languages and not built:
        raise UsageError(
            f"no function is built for {', '.join(missing.values())}: `kn-bench functions build` builds them, "
            "or choose other --languages (python needs no build)"
        )
    if missing:
        console.print(f"not built here, and so left out: {', '.join(missing)}", soft_wrap=True)
    return dataclasses.replace(scenario, languages=tuple(built))


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
        platform = LocalPlatform(options.port, scenario, out / "logs", said, Path(name))
        stack.callback(platform.close)
        yield platform


class LocalPlatform:
    """The embedded platform as scenarios need it: a change of its settings is a start anew."""

    name = _LOCAL

    def __init__(self, port: int | None, scenario: Scenario, logs: Path, said: Path, folder: Path) -> None:
        """Raises UsageError when its settings cannot do what the scenario patches."""
        self._logs = logs
        self._folder = folder
        self._wait_s = scenario.wait_at_most_ns / 1e9
        self._embedded = Embedded(port, said, folder)
        self._scenario = scenario
        self._running: Deployment | None = None
        self._children = contextlib.ExitStack()
        self._patched = False
        self._check(scenario)

    def _check(self, scenario: Scenario) -> None:
        services = tuple(dict.fromkeys(each for cell in scenario.cells() for each in scenario.services_of(cell)))
        path = self._folder / "patch"
        path.write_text(yaml.safe_dump(_settings(scenario, services)))
        try:
            load_config(path, load_catalog(), {})
        except ExperimentError as error:
            reasons = "\n".join(f"  {problem.key}: {problem.message}" for problem in error.problems)
            raise UsageError(f"patch: the embedded platform cannot do this (docs/local.md):\n{reasons}") from None

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """Nothing: its settings end with it."""
        return {}

    def patch(self, scenario: Scenario) -> None:
        """From the next start on."""
        self._patched = True

    def restore(self, found: Mapping[str, Any]) -> None:
        """End it."""
        self._patched = False
        self.close()

    def left_behind(self) -> dict[str, Any]:
        """Nothing can be: see `read`."""
        return {}

    def close(self) -> None:
        """End its processes."""
        self._running = None
        self._children.close()

    def deploy(self, deployment: Deployment) -> None:
        """Start it with these settings, unless it runs with them already."""
        if self._running == deployment:
            return
        self.close()
        document = _settings(self._scenario, deployment.services) if self._patched else {}
        triggers = (deployment.triggers or 1) if deployment.event else 0
        self._embedded.configure(document, triggers, deployment.parallelism or 10)
        self._children.enter_context(self._embedded)
        if deployment.event:
            self._children.enter_context(Receivers(self._embedded, self._logs))
        for service in deployment.services:
            self._start(service)
        self._running = deployment

    def _start(self, service: str) -> None:
        """An instance of it, as every new revision has one first."""
        request = urllib.request.Request(f"{self._embedded.url}/health/readiness", headers={"Host": service})
        try:
            with open_directly(request, _ANSWER_S):
                pass
        except urllib.error.HTTPError as error:
            why = error.read().decode("utf-8", "replace").strip()
            raise BenchError(f"{service} does not become ready: {error.code} {why}") from None
        except OSError as error:
            raise BenchError(f"{service} does not become ready: {error}") from None

    def wait(self, condition: Condition, deployment: Deployment) -> None:
        """Until it holds."""
        match condition:
            case Condition.READY:
                pass  # `deploy` returns when it is
            case Condition.DRAINED:
                self._embedded.wait_for_drained(self._wait_s)
            case Condition.ZERO:
                self._embedded.wait_for_zero(self._wait_s)

    def _set_aside(self, job: Job) -> None:
        """Keep the log of a run that was interrupted where extraction does not take it for one of the cell's."""
        for log in self._logs.glob(f"{glob.escape(job.prefix)}_*.log"):
            if _run_id_of(log) == job.run_id:
                log.rename(log.with_suffix(".interrupted"))

    def run(self, job: Job, again: bool) -> int:
        """Run the generator as a child. One that was begun before ended with the process that began it."""
        if again:
            self._set_aside(job)
            return -1
        if job.pods > 1:
            raise UsageError("pods: the embedded platform has none; use processes")
        config = self._folder / f"{job.name}.yaml"
        config.write_text(job.experiment)
        flags = [f"--config={config}", f"--prefix={job.prefix}", f"--log-dir={self._logs}", f"--run-id={job.run_id}"]
        return self._embedded.generate([*flags, *job.flags], event=job.event)


def _run_id_of(log: Path) -> str | None:
    """What its first line says, when that was written."""
    with log.open("rb") as file:
        try:
            header = decode(file.readline())
        except CodecError:
            return None
    run_id = header.get("run_id")
    return run_id if isinstance(run_id, str) else None


def _settings(scenario: Scenario, services: tuple[str, ...]) -> dict[str, Any]:
    """The patch under the platform's names."""
    patch = scenario.patch
    own: dict[str, Any] = {_RENAMED.get(key, key): str(value) for key, value in patch.annotations.items()}
    if patch.container_concurrency is not None:
        own["containerConcurrency"] = patch.container_concurrency
    plain = {key: int(value) if isinstance(value, str) and value.isdecimal() else value for key, value in own.items()}
    return {
        "defaults": {key: str(value) for key, value in patch.autoscaler.items()},
        "services": dict.fromkeys(services, plain),
    }
