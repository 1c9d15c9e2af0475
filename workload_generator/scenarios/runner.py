"""Runs a scenario on a platform: one run after the other, resumable, with all changes restored at the end.

Rules:
- the values to be changed are read and stored before they are changed; they are restored however the scenario ends
- a run is complete when the generator ended with a verdict (exit 0 or 3); an invalid run is reported and not repeated
- there are no fixed pauses: conditions are waited for, and a condition that does not come is named
"""

from __future__ import annotations

import dataclasses
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
from workload_generator.cluster.pods.pod_run import RunSpec
from workload_generator.experiment.bundled import find_experiment
from workload_generator.experiment.field_kinds import plain
from workload_generator.experiment.load import load_experiment
from workload_generator.kube.names import FUNCTIONS_DOMAIN
from workload_generator.scenarios.model import GridCell, RunMode, Scenario, WaitCondition, fingerprint, order
from workload_generator.scenarios.state import FinishedRun, RunInProgress, ScenarioState, StateFile

Say = Callable[[str], None]
_PARALLELISM = "parallelism: needs a RabbitMQ broker; the triggers of an in-memory broker have none"


@dataclass(frozen=True, slots=True)
class CellSetup:
    """What must be deployed for a cell. With `triggers` None the platform keeps its triggers."""

    services: tuple[str, ...]
    event: bool = False
    triggers: int | None = None
    parallelism: int | None = None


class ScenarioPlatform(Protocol):
    """Where a scenario runs. Every method raises BenchError; `wait` and `run` may take long."""

    name: str

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """The present values of what the scenario will change, as JSON for `restore`."""

    def patch(self, scenario: Scenario) -> None:
        """Make the changes."""

    def restore(self, found: Mapping[str, Any]) -> None:
        """Restore the values that `read` returned."""

    def left_behind(self) -> dict[str, Any]:
        """The values to restore according to the platform itself, if the scenario's folder does not have them."""

    def deploy(self, setup: CellSetup) -> None:
        """Deploy what the cell needs and is not deployed yet."""

    def wait(self, condition: WaitCondition, setup: CellSetup) -> None:
        """Wait until the condition holds."""

    def run(self, run: RunSpec, again: bool) -> int:
        """Run it and copy its logs. Returns the generator's exit code.

        `again`: the run was started before. It is followed if it is in progress, or its result is used; -1 if there is
        no trace of it, or no complete log.
        """


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run of a cell, the `number`-th of the scenario: its experiment, and what must be deployed."""

    number: int
    repeat: int
    cell: GridCell
    name: str
    text: str
    prefix: str
    setup: CellSetup
    seconds: float
    """How long the generator sends."""
    has_seed: bool


class ScenarioPlan:
    """A scenario with all of its runs in order."""

    def __init__(self, scenario: Scenario, path: Path, platform: str, seed: int) -> None:
        """Raises UsageError or ExperimentError when an experiment does not exist, or is not valid at a cell's rate."""
        self.scenario = scenario
        self.seed = seed
        self.platform = platform
        cells = {cell: self._plan(cell, path.parent) for cell in scenario.cells()}
        self.runs = [
            dataclasses.replace(cells[cell], number=index + 1, repeat=index // len(cells) + 1)
            for index, cell in enumerate(order(scenario, seed))
        ]
        self.fingerprint = fingerprint(scenario, platform, {run.prefix: run.text.encode() for run in cells.values()})

    def _plan(self, cell: GridCell, folder: Path) -> PlannedRun:
        scenario = self.scenario
        wanted = scenario.experiment_of(cell)
        path = folder / wanted if (folder / wanted).is_file() else find_experiment(wanted)
        event = scenario.mode is RunMode.EVENT
        experiment = load_experiment(path, event=event, rps=cell.rate, duration_ns=scenario.duration_ns)
        services = scenario.services_of(cell)
        text = path.read_text()
        if services:
            document = yaml.safe_load(text)
            first = document["targets"][0]
            document["targets"] = [{**first, "url": f"http://{service}.{FUNCTIONS_DOMAIN}"} for service in services]
            text = yaml.safe_dump(document, sort_keys=False)
        setup = CellSetup(services, event, cell.triggers, cell.parallelism)
        seconds = (experiment.rate.duration_ns + experiment.rate.ramp_up_ns) / NS_PER_S
        prefix = scenario.prefix_of(cell)
        return PlannedRun(0, 0, cell, path.stem, text, prefix, setup, seconds, experiment.seed is not None)

    def generator_run(self, planned: PlannedRun, run_id: str) -> RunSpec:
        """The run with its flags."""
        scenario, rate = self.scenario, planned.cell.rate
        flags = []
        if rate is not None:
            flags.append(f"--rps={plain(rate)}")
        if scenario.duration_ns is not None:
            flags.append(f"--duration={format_duration(scenario.duration_ns)}")
        if not planned.has_seed:
            drawn = hashlib.sha256(f"{self.seed}/{planned.number}".encode()).digest()
            flags.append(f"--seed={int.from_bytes(drawn[:8]) >> 1}")
        if scenario.processes > 1:
            flags.append(f"--processes={scenario.processes}")
        flags.append({RunMode.WARM: "--ping", RunMode.COLD: "--cold-start", RunMode.EVENT: "--event"}[scenario.mode])
        texts = run_id, planned.name, planned.prefix, planned.text
        return RunSpec(*texts, tuple(flags), scenario.processes, scenario.pods)

    def begin(self, file: StateFile) -> ScenarioState:
        """The folder's state, or a new one. Raises UsageError when the folder has runs of another scenario."""
        state = file.state
        if state is None:
            state = file.state = ScenarioState(self.scenario.scenario, self.fingerprint, self.platform, self.seed)
            file.write()
        elif (state.fingerprint, state.seed) != (self.fingerprint, self.seed):
            raise UsageError(
                f"{file.path} belongs to another scenario, or its file, an experiment, a flag or the platform was "
                f"changed: the {len(state.runs)} runs in the folder would not be comparable with new ones. "
                "Use another --out, or undo the change"
            )
        return state

    def describe(self) -> list[str]:
        """The lines of `--dry-run`."""
        scenario = self.scenario
        return [
            *([_PARALLELISM] if scenario.parallelism and self.platform == "cluster" else []),
            f"{scenario.scenario} on the platform {self.platform}, seed {self.seed}: "
            f"{len(scenario.cells())} cells, {scenario.repeats} repeats",
            *(
                f"{each.number:>4}  repeat {each.repeat}  {each.prefix}  {each.name}, {_span(each.seconds)}"
                for each in self.runs
            ),
            f"{_span(sum(each.seconds for each in self.runs))} of load, plus the waiting between runs",
        ]


class Runner:
    """Runs a plan once."""

    def __init__(self, plan: ScenarioPlan, platform: ScenarioPlatform, file: StateFile, say: Say) -> None:
        self._plan = plan
        self._platform = platform
        self._file = file
        self._say = say
        self._overheads: list[float] = []

    def execute(self) -> list[FinishedRun]:
        """Run what is not complete yet. Returns all runs. Restores all changes, also when it raises BenchError."""
        state = self._plan.begin(self._file)
        done = {run.number for run in state.runs}
        left = [planned for planned in self._plan.runs if planned.number not in done]
        if state.runs:
            self._say(f"{len(state.runs)} of {len(self._plan.runs)} runs are complete")
        if left or state.found is not None:
            if state.found is None:  # otherwise it has the values from before a scenario that was killed
                state.found = self._platform.read(self._plan.scenario)
                self._file.write()
            try:
                self._platform.patch(self._plan.scenario)
                for index, planned in enumerate(left):
                    self._run(state, planned, left[index:])
            finally:
                restore_changes(self._file, self._platform, self._say)
        return state.runs

    def _run(self, state: ScenarioState, planned: PlannedRun, left: list[PlannedRun]) -> None:
        self._say(
            f"\n{planned.number} of {len(self._plan.runs)}: {planned.prefix}, "
            f"repeat {planned.repeat}; {_span(self._seconds_left(left))} left"
        )
        began = time.monotonic()
        code = -1
        if state.begun is not None and state.begun.number == planned.number:
            code = self._platform.run(self._plan.generator_run(planned, state.begun.run_id), again=True)
        if code < 0 or state.begun is None:
            self._platform.deploy(planned.setup)
            for condition in WaitCondition:
                if condition in self._plan.scenario.wait:
                    self._wait(condition, planned)
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            state.begun = RunInProgress(planned.number, secrets.token_hex(8), now)
            self._file.write()
            code = self._platform.run(self._plan.generator_run(planned, state.begun.run_id), again=False)
        if planned.setup.event:  # events that are not delivered yet are this run's, and would be lost with the broker
            self._wait(WaitCondition.DRAINED, planned)
        if code not in COMPLETE_RUN:
            raise BenchError(f"{planned.prefix}: the workload generator ended with exit code {code}")
        seconds = time.monotonic() - began
        self._overheads.append(max(seconds - planned.seconds, 0.0))
        digest = hashlib.sha256(planned.text.encode()).hexdigest()
        run_id, started = state.begun.run_id, state.begun.started
        state.runs.append(FinishedRun(planned.number, planned.prefix, run_id, digest, code, started, round(seconds, 3)))
        state.begun = None
        self._file.write()
        if code == ExitCode.INVALID:
            self._say("the run is invalid for the reasons above; the scenario continues")

    def _wait(self, condition: WaitCondition, planned: PlannedRun) -> None:
        self._say(f"waiting until {_WAITING[condition]}")
        self._platform.wait(condition, planned.setup)

    def _seconds_left(self, left: list[PlannedRun]) -> float:
        """The load of these runs, and the mean overhead of the runs so far for each."""
        overhead = sum(self._overheads) / len(self._overheads) if self._overheads else 0.0
        return sum(each.seconds + overhead for each in left)


def restore_changes(file: StateFile, platform: ScenarioPlatform, say: Say) -> bool:
    """Restore the values in the state and remove them from it. Returns whether there were any.

    Raises BenchError; then they stay in the state.
    """
    state = file.state
    if state is None or state.found is None:
        return False
    if state.found:
        say("restoring the settings from before the scenario")
    platform.restore(state.found)
    state.found = None
    file.write()
    return True


_WAITING = {
    WaitCondition.READY: "the deployed services are ready",
    WaitCondition.DRAINED: "the previous load is drained",
    WaitCondition.ZERO: "all services are scaled to zero",
}


def _span(seconds: float) -> str:
    return format_duration(round(seconds) * NS_PER_S)
