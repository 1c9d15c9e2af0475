"""A scenario: experiments over a grid of languages, rates, triggers and parallelism, repeated: `docs/scenarios.md`.

Rules:
- a file says what to run, what to change for it, and what to wait for; how that is done is the platform's
- flags replace what the file says before anything is checked; every problem is reported at once, with file, line, key
- a cell is one place of the grid. Repeat by repeat every cell is run once, in an order drawn from the seed anew, so
  that a drift of the platform meets all cells alike (a randomised complete block design)
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import ExperimentError, Problem
from workload_generator.experiment.field_kinds import (
    POSITIVE_DURATION,
    POSITIVE_WHOLE,
    RPS,
    any_text,
    one_of,
    plain,
    short,
)
from workload_generator.experiment.fields import YamlSection, key, many, named, read, scalar, section
from workload_generator.experiment.yaml_lines import Scalar, read_yaml

_LANGUAGE = "{language}"
ALL = "all"
_NAME = r"letters, digits and hyphens"


class RunMode(StrEnum):
    """How the generator runs: a warm run begins with a ping of each target, so that an instance is there."""

    WARM = "warm"
    COLD = "cold-start"
    EVENT = "event"


class WaitCondition(StrEnum):
    """What is waited for before a run, in this order, whatever the file's."""

    READY = "ready"
    DRAINED = "drained"
    ZERO = "zero"


def _word(value: object) -> str:
    text = any_text(value)
    if not text or not text.replace("-", "").isalnum() or not text.isascii():
        raise ValueError(f"{short(text)}: {_NAME} only, since it becomes part of file names")
    return text


def _setting(value: object) -> str:
    text = any_text(value)
    if not text:
        raise ValueError("must not be empty")
    return text


_WORD = scalar(_word)
_SETTING = scalar(_setting)
_MODE = scalar(lambda value: RunMode(one_of(value, tuple(RunMode))), str)
_CONDITION = scalar(lambda value: WaitCondition(one_of(value, tuple(WaitCondition))), str)
_YES_OR_NO = scalar(lambda value: one_of(value, ("true", "false")) == "true")


@dataclass(frozen=True, kw_only=True)
class Patch(YamlSection):
    """What is changed for the scenario and put back after it, under Knative's names."""

    autoscaler: dict[str, str] = key(named(_SETTING), {})
    """Keys of the ConfigMap `config-autoscaler`."""
    container_concurrency: int | None = key(POSITIVE_WHOLE, None)
    """Of every service of the scenario."""
    annotations: dict[str, str] = key(named(_SETTING), {})
    """Of every service's revisions, without `autoscaling.knative.dev/`: `max-scale`."""


@dataclass(frozen=True, kw_only=True)
class Scenario(YamlSection):
    """The file. Durations are nanoseconds; an axis without values is not part of the grid."""

    scenario: str = key(_WORD)
    experiment: str = key(_SETTING)
    mode: RunMode = key(_MODE, RunMode.WARM)
    services: str | None = key(_SETTING, None)
    languages: tuple[str, ...] = key(many(_WORD), ())
    together: bool = key(_YES_OR_NO, False)
    rates: tuple[Fraction, ...] = key(many(RPS), ())
    triggers: tuple[int, ...] = key(many(POSITIVE_WHOLE), ())
    parallelism: tuple[int, ...] = key(many(POSITIVE_WHOLE), ())
    duration_ns: int | None = key(POSITIVE_DURATION, None)
    repeats: int = key(POSITIVE_WHOLE, 4)
    pods: int = key(POSITIVE_WHOLE, 1)
    processes: int = key(POSITIVE_WHOLE, 1)
    patch: Patch = key(section(Patch), Patch())
    wait_at_most_ns: int = key(POSITIVE_DURATION, 600 * NS_PER_S)
    wait: tuple[WaitCondition, ...] = key(many(_CONDITION), (WaitCondition.READY, WaitCondition.DRAINED))

    def misfits(self) -> list[str]:
        """What is wrong with it as a whole."""
        problems = []
        event = self.mode is RunMode.EVENT
        if event:
            problems += [
                f"{name} means nothing with mode: event" for name in ("languages", "services") if getattr(self, name)
            ]
        elif self.triggers or self.parallelism:
            problems.append("triggers and parallelism need mode: event")
        if not event and not self.services:
            problems.append("services is missing: which services the requests are for, such as empty-{language}-http-0")
        for name in ("experiment", "services"):
            if _LANGUAGE in (getattr(self, name) or "") and not self.languages:
                problems.append(f"{name} has {_LANGUAGE}, but there are no languages")
        if self.together and _LANGUAGE in self.experiment:
            problems.append(f"together runs all languages in one experiment, so experiment cannot have {_LANGUAGE}")
        if self.mode is RunMode.COLD and (self.pods > 1 or self.processes > 1):
            problems.append("cold-start rounds cannot be shared: pods and processes have to be 1")
        for name in ("languages", "rates", "triggers", "parallelism"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(f"{name} has a value twice; repeats says how often")
        return problems

    def cells(self) -> list[GridCell]:
        """The grid, in the file's order."""
        one: tuple[None] = (None,)
        groups: Sequence[tuple[str, ...]] = [self.languages] if self.together else [(each,) for each in self.languages]
        return [
            GridCell(languages, rate, triggers, parallelism)
            for languages, rate, triggers, parallelism in itertools.product(
                groups or [()], self.rates or one, self.triggers or one, self.parallelism or one
            )
        ]

    def services_of(self, cell: GridCell) -> tuple[str, ...]:
        """The services that get the cell's requests."""
        if self.services is None:
            return ()
        return tuple(dict.fromkeys(self.services.replace(_LANGUAGE, each) for each in cell.languages or ("",)))

    def experiment_of(self, cell: GridCell) -> str:
        """The name or path of the cell's experiment."""
        return self.experiment.replace(_LANGUAGE, cell.languages[0] if cell.languages else "")

    def prefix_of(self, cell: GridCell) -> str:
        """What the cell's logs are called: extraction reads scenario, rate, language, triggers and workers from it."""
        parts = [self.scenario]
        if cell.triggers is not None:
            parts.append(f"{cell.triggers}triggers")
        if cell.rate is not None:
            parts.append(f"{plain(cell.rate)}rps")
        if cell.parallelism is not None:
            parts.append(f"{cell.parallelism}workers")
        if cell.languages:
            parts.append(cell.languages[0] if len(cell.languages) == 1 else ALL)
        return "_".join(parts)


@dataclass(frozen=True, slots=True)
class GridCell:
    """One place of the grid; None is an axis that the scenario does not have."""

    languages: tuple[str, ...]
    rate: Fraction | None
    triggers: int | None
    parallelism: int | None


@dataclass(frozen=True, slots=True)
class ScenarioStep:
    """One run of a cell; `number` counts from 1 over the whole scenario, `repeat` from 1."""

    number: int
    repeat: int
    cell: GridCell


def order(scenario: Scenario, seed: int) -> list[ScenarioStep]:
    """Every cell once in each repeat, shuffled anew by the seed."""
    draw = random.Random(seed)
    steps: list[ScenarioStep] = []
    for repeat in range(1, scenario.repeats + 1):
        cells = scenario.cells()
        draw.shuffle(cells)
        steps += [ScenarioStep(len(steps) + index, repeat, cell) for index, cell in enumerate(cells, 1)]
    return steps


def fingerprint(scenario: Scenario, platform: str, experiments: Mapping[str, bytes]) -> str:
    """A sha256 of all that decides what is run: the scenario with its flags, the platform, the experiments' files."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in experiments.items()}
    whole = {"scenario": scenario.to_json(), "platform": platform, "experiments": files}
    return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


# From a file to a scenario


def load_scenario(path: Path, flags: Mapping[str, Any]) -> Scenario:
    """The scenario in `path`; `flags` are the command line's, by the file's keys, as a file would have them (text, or
    a list of texts). Raises ExperimentError with every problem of the file, and then of the flags."""
    document = read_yaml(path)
    given = {key: _scalars(value) for key, value in flags.items()}
    data = document.data
    if data is None:
        empty = Problem(document.file, 0, "", "is empty: a scenario has a name, an experiment and a grid")
        raise ExperimentError([*document.problems, empty])
    if isinstance(data, dict):
        document = replace(document, data={**data, **given})
    scenario, problems = read(Scenario, document)
    if scenario is not None:
        problems += [document.problem((), each) for each in scenario.misfits()]
    if problems or scenario is None:
        of_flags = [each for each in problems if each.key.partition("[")[0] in given]
        of_file = [each for each in problems if each not in of_flags]
        named = [Problem(f"--{each.key.partition('[')[0]}", 0, "", each.message) for each in of_flags]
        raise ExperimentError([*sorted(of_file, key=lambda each: each.line), *named])
    return scenario


def _scalars(value: Any) -> Any:
    return [Scalar(each) for each in value] if isinstance(value, list) else Scalar(value)
