"""Runs a scenario on a platform: step after step, from where it was left off, and everything put back at the end.

Rules:
- what is there is read, and written down, before it is changed; it is put back however the scenario ends
- a step is done when the generator ended with a verdict (exit 0 or 3): an invalid run is said, and the scenario goes on
- nothing sleeps: conditions are waited for, and the one that does not come is named
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import COMPLETE_RUN, ExitCode
from workload_generator.experiment.bundled import find_experiment
from workload_generator.experiment.field_kinds import plain
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.model import Experiment
from workload_generator.kube.names import FUNCTIONS_DOMAIN
from workload_generator.scenarios.model import (
    GridCell,
    RunMode,
    Scenario,
    ScenarioStep,
    WaitCondition,
    fingerprint,
    order,
)
from workload_generator.scenarios.state import FinishedRun, RunInProgress, ScenarioState, StateFile


@dataclass(frozen=True, slots=True)
class CellSetup:
    """What has to be there for a cell. Without `triggers` the platform's own stay as they are."""

    services: tuple[str, ...]
    event: bool = False
    triggers: int | None = None
    parallelism: int | None = None


@dataclass(frozen=True, slots=True)
class GeneratorRun:
    """One run of the generator: the text of its experiment, its name, and the flags that any platform passes on."""

    name: str
    experiment: str
    prefix: str
    run_id: str
    flags: tuple[str, ...]
    event: bool
    pods: int
    planned_s: float


class ScenarioPlatform(Protocol):
    """Where a scenario runs. Every method raises BenchError with what did not work; `wait` and `run` may take long."""

    name: str

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """What the scenario will change, as it is now: JSON, for `restore`."""

    def patch(self, scenario: Scenario) -> None:
        """Change it."""

    def restore(self, found: Mapping[str, Any]) -> None:
        """Put back what `read` found."""

    def left_behind(self) -> dict[str, Any]:
        """What is to be put back by the platform's own account, for `restore`: the folder's may be lost."""

    def deploy(self, deployment: CellSetup) -> None:
        """See that it is there, as patched. What is so already is left alone."""

    def wait(self, condition: WaitCondition, deployment: CellSetup) -> None:
        """Until the condition holds."""

    def run(self, job: GeneratorRun, again: bool) -> int:
        """Run it and bring back its logs; the generator's exit code. `again`: it may be in progress, or over, already:
        then that is the run. -1: there is no trace of it, it has to be run anew."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A step with its experiment, as it will be run."""

    step: ScenarioStep
    experiment: Experiment
    name: str
    text: str
    prefix: str
    deployment: CellSetup

    @property
    def seconds(self) -> float:
        """How long the generator sends."""
        rate = self.experiment.rate
        return (rate.duration_ns + rate.ramp_up_ns) / NS_PER_S


class ScenarioPlan:
    """A scenario with everything that is known before it begins."""

    def __init__(self, scenario: Scenario, path: Path, platform: str, seed: int) -> None:
        """Raises UsageError (or ExperimentError) when an experiment is not there, or does not load with its rate."""
        self.scenario = scenario
        self.seed = seed
        self.platform = platform
        self._known: dict[GridCell, PlannedRun] = {}
        self._folder = path.parent
        self.steps = [self._planned(step) for step in order(scenario, seed)]
        texts = {planned.prefix: planned.text.encode() for planned in self._known.values()}
        self.fingerprint = fingerprint(scenario, platform, texts)

    def _planned(self, step: ScenarioStep) -> PlannedRun:
        known = self._known.get(step.cell)
        if known is None:
            known = self._known[step.cell] = self._plan(step)
        return PlannedRun(step, known.experiment, known.name, known.text, known.prefix, known.deployment)

    def _plan(self, step: ScenarioStep) -> PlannedRun:
        scenario, cell = self.scenario, step.cell
        wanted = scenario.experiment_of(cell)
        beside = self._folder / wanted
        path = beside if beside.is_file() else find_experiment(wanted)
        event = scenario.mode is RunMode.EVENT
        experiment = load_experiment(path, event=event, rps=cell.rate, duration_ns=scenario.duration_ns)
        services = scenario.services_of(cell)
        text = path.read_text()
        if services:
            document = yaml.safe_load(text)
            first = document["targets"][0]
            document["targets"] = [{**first, "url": f"http://{service}.{FUNCTIONS_DOMAIN}"} for service in services]
            text = yaml.safe_dump(document, sort_keys=False)
        deployment = CellSetup(services, event, cell.triggers, cell.parallelism)
        return PlannedRun(step, experiment, path.stem, text, scenario.prefix_of(cell), deployment)

    def job(self, planned: PlannedRun, run_id: str) -> GeneratorRun:
        """The run of a step."""
        scenario, cell = self.scenario, planned.step.cell
        flags = []
        if cell.rate is not None:
            flags.append(f"--rps={plain(cell.rate)}")
        if scenario.duration_ns is not None:
            flags.append(f"--duration={format_duration(scenario.duration_ns)}")
        if planned.experiment.seed is None:
            drawn = hashlib.sha256(f"{self.seed}/{planned.step.number}".encode()).digest()
            flags.append(f"--seed={int.from_bytes(drawn[:8]) >> 1}")
        if scenario.processes > 1:
            flags.append(f"--processes={scenario.processes}")
        flags += {RunMode.WARM: ["--ping"], RunMode.COLD: ["--cold-start"], RunMode.EVENT: ["--event"]}[scenario.mode]
        return GeneratorRun(
            planned.name,
            planned.text,
            planned.prefix,
            run_id,
            tuple(flags),
            planned.deployment.event,
            scenario.pods,
            planned.seconds,
        )

    def begin(self, file: StateFile) -> ScenarioState:
        """The folder's state, or a new one. Raises UsageError when the folder is another scenario's."""
        state = file.state
        if state is None:
            state = file.state = ScenarioState(self.scenario.scenario, self.fingerprint, self.platform, self.seed)
            file.write()
        elif (state.fingerprint, state.seed) != (self.fingerprint, self.seed):
            raise UsageError(
                f"{file.path} is of another scenario, or of this one before it was changed (its file, an experiment, a "
                f"flag, the platform): the {len(state.runs)} runs that it has would not be comparable. "
                "Use another --out, or put the change back"
            )
        return state


class Runner:
    """One pass over a campaign's steps."""

    def __init__(
        self, campaign: ScenarioPlan, platform: ScenarioPlatform, file: StateFile, say: Callable[[str], None]
    ) -> None:
        self._campaign = campaign
        self._platform = platform
        self._file = file
        self._say = say
        self._overhead: list[float] = []

    def execute(self) -> list[FinishedRun]:
        """Run what is not done yet; all runs. Raises BenchError; what was changed is put back in any case."""
        state = self._campaign.begin(self._file)
        left = [planned for planned in self._campaign.steps if planned.step.number not in state.done]
        if state.runs:
            self._say(f"{len(state.runs)} of {len(self._campaign.steps)} runs are done already")
        if left or state.found is not None:
            self._prepare(state)
            try:
                for index, planned in enumerate(left):
                    self._step(state, planned, left[index:])
            finally:
                restore_changes(self._file, self._platform, self._say)
        return state.runs

    def _prepare(self, state: ScenarioState) -> None:
        if state.found is None:  # else it is what was there before a run that was killed: that is what goes back
            state.found = self._platform.read(self._campaign.scenario)
            self._file.write()
        try:
            self._platform.patch(self._campaign.scenario)
        except BaseException:
            restore_changes(self._file, self._platform, self._say)
            raise

    def _step(self, state: ScenarioState, planned: PlannedRun, left: list[PlannedRun]) -> None:
        steps = len(self._campaign.steps)
        self._say(
            f"\n[bold]{planned.step.number} of {steps}: {planned.prefix}[/], "
            f"repeat {planned.step.repeat}; {_span(self._left(left))} left"
        )
        began = time.monotonic()
        again = state.begun is not None and state.begun.number == planned.step.number
        code = -1
        if again and state.begun is not None:
            code = self._platform.run(self._campaign.job(planned, state.begun.run_id), again=True)
        if code < 0:
            self._platform.deploy(planned.deployment)
            for condition in WaitCondition:
                if condition in self._campaign.scenario.wait:
                    self._say(f"waiting until {_WAITING[condition]}")
                    self._platform.wait(condition, planned.deployment)
            state.begun = RunInProgress(
                planned.step.number, secrets.token_hex(8), f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            )
            self._file.write()
            code = self._platform.run(self._campaign.job(planned, state.begun.run_id), again=False)
        if planned.deployment.event:  # what is still under way is this run's, and would be lost with its broker
            self._say(f"waiting until {_WAITING[WaitCondition.DRAINED]}")
            self._platform.wait(WaitCondition.DRAINED, planned.deployment)
        begun = state.begun
        assert begun is not None
        if code not in COMPLETE_RUN:
            raise BenchError(f"{planned.prefix}: the workload generator ended with exit code {code}")
        seconds = time.monotonic() - began
        self._overhead.append(max(seconds - planned.seconds, 0.0))
        digest = hashlib.sha256(planned.text.encode()).hexdigest()
        state.runs.append(
            FinishedRun(begun.number, planned.prefix, begun.run_id, digest, code, begun.started, round(seconds, 3))
        )
        state.begun = None
        self._file.write()
        if code == ExitCode.INVALID:
            self._say("[yellow]its verdict is invalid, for the reasons above; the scenario goes on[/]")

    def _left(self, planned: list[PlannedRun]) -> float:
        """Seconds: what will be sent, and as much around each run as there was until now."""
        around = sum(self._overhead) / len(self._overhead) if self._overhead else 0.0
        return sum(each.seconds + around for each in planned)


def restore_changes(file: StateFile, platform: ScenarioPlatform, say: Callable[[str], None]) -> bool:
    """Restore what was found and forget it; whether there was something. Raises BenchError: it stays written down."""
    state = file.state
    if state is None or state.found is None:
        return False
    if state.found:
        say("putting back what was found")
    platform.restore(state.found)
    state.found = None
    file.write()
    return True


def describe(campaign: ScenarioPlan) -> list[str]:
    """The order, as `--dry-run` prints it."""
    lines = [
        f"{campaign.scenario.scenario} on the platform {campaign.platform}, seed {campaign.seed}: "
        f"{len(campaign.scenario.cells())} cells, {campaign.scenario.repeats} times each"
    ]
    lines += [
        f"{each.step.number:>4}  repeat {each.step.repeat}  {each.prefix}  {each.name}, {_span(each.seconds)}"
        for each in campaign.steps
    ]
    lines.append(f"{_span(sum(each.seconds for each in campaign.steps))} of load, and the waiting between runs")
    return lines


_WAITING = {
    WaitCondition.READY: "what is deployed is ready",
    WaitCondition.DRAINED: "the previous load is drained",
    WaitCondition.ZERO: "everything is scaled to zero",
}


def _span(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"
