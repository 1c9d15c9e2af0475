"""A scenario file: experiments over a grid of languages, rates, triggers and parallelism, with repeats.

`docs/scenarios.md` describes it.

Rules:
- the file has what to run, what to change for it and what to wait for; the platform implements it
- flags replace the file's values before anything is checked; all problems are reported at once, with file, line and key
- each repeat runs every cell of the grid once, in an order drawn from the seed, so that a drift of the platform affects
  all cells alike (a randomised complete block design)
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
from workload_generator.cluster.paths import BURST_CAPACITY, PATHS
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


class RunMode(StrEnum):
    """How the generator runs. A warm run begins with a ping of each target, so that each has an instance."""

    WARM = "warm"
    COLD = "cold-start"
    EVENT = "event"


class WaitCondition(StrEnum):
    """What to wait for before a run, always in this order."""

    READY = "ready"
    DRAINED = "drained"
    ZERO = "zero"


def _word(value: object) -> str:
    text = any_text(value)
    if not text or not text.replace("-", "").isalnum() or not text.isascii():
        raise ValueError(f"{short(text)}: only letters, digits and hyphens: it becomes part of file names")
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
_PATH = scalar(lambda value: one_of(value, tuple(PATHS)))
_YES_OR_NO = scalar(lambda value: one_of(value, ("true", "false")) == "true")


@dataclass(frozen=True, kw_only=True)
class Patch(YamlSection):
    """Changes for the scenario that are undone after it, under Knative's names."""

    autoscaler: dict[str, str] = key(named(_SETTING), {})
    """Keys of the ConfigMap `config-autoscaler`."""
    container_concurrency: int | None = key(POSITIVE_WHOLE, None)
    """Of every service of the scenario."""
    annotations: dict[str, str] = key(named(_SETTING), {})
    """Of every service's revisions, without the prefix `autoscaling.knative.dev/`: `max-scale`."""


@dataclass(frozen=True, kw_only=True)
class Scenario(YamlSection):
    """The file. Durations are in nanoseconds; an axis without values is not part of the grid."""

    scenario: str = key(_WORD)
    experiment: str = key(_SETTING)
    mode: RunMode = key(_MODE, RunMode.WARM)
    services: str | None = key(_SETTING, None)
    languages: tuple[str, ...] = key(many(_WORD), ())
    together: bool = key(_YES_OR_NO, False)
    rates: tuple[Fraction, ...] = key(many(RPS), ())
    triggers: tuple[int, ...] = key(many(POSITIVE_WHOLE), ())
    parallelism: tuple[int, ...] = key(many(POSITIVE_WHOLE), ())
    path: str | None = key(_PATH, None)
    """Which way warm requests take to the functions: `activator`, or `direct`."""
    duration_ns: int | None = key(POSITIVE_DURATION, None)
    repeats: int = key(POSITIVE_WHOLE, 4)
    pods: int = key(POSITIVE_WHOLE, 1)
    processes: int = key(POSITIVE_WHOLE, 1)
    patch: Patch = key(section(Patch), Patch())
    wait_at_most_ns: int = key(POSITIVE_DURATION, 600 * NS_PER_S)
    wait: tuple[WaitCondition, ...] = key(many(_CONDITION), (WaitCondition.READY, WaitCondition.DRAINED))

    def misfits(self) -> list[str]:
        """The problems of fields that do not go together."""
        problems = []
        event = self.mode is RunMode.EVENT
        if event:
            problems += [
                f"{name} cannot be used with mode: event" for name in ("languages", "services") if getattr(self, name)
            ]
        elif self.triggers or self.parallelism:
            problems.append("triggers and parallelism need mode: event")
        if self.path and self.mode is not RunMode.WARM:
            problems.append("path needs mode: warm; a cold start always goes through the activator")
        if not event and not self.services:
            problems.append("services is missing: the services to send requests to, such as empty-{language}-http-0")
        for name in ("experiment", "services"):
            if _LANGUAGE in (getattr(self, name) or "") and not self.languages:
                problems.append(f"{name} contains {_LANGUAGE}, but languages is empty")
        if self.together and _LANGUAGE in self.experiment:
            problems.append(f"together runs all languages in one experiment, so experiment cannot contain {_LANGUAGE}")
        if self.mode is RunMode.COLD and (self.pods > 1 or self.processes > 1):
            problems.append("cold-start rounds cannot be split: pods and processes must be 1")
        for name in ("languages", "rates", "triggers", "parallelism"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(f"{name} contains a value twice; increase repeats instead")
        return problems

    def annotations(self) -> dict[str, str]:
        """Of every service's revisions, without their prefix: those of the patch, and that of the path."""
        return {**self.patch.annotations, **({BURST_CAPACITY: PATHS[self.path]} if self.path else {})}

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
        """The services that the cell's requests are sent to."""
        if self.services is None:
            return ()
        return tuple(dict.fromkeys(self.services.replace(_LANGUAGE, each) for each in cell.languages or ("",)))

    def all_services(self) -> list[str]:
        """The services of all cells."""
        return list(dict.fromkeys(service for cell in self.cells() for service in self.services_of(cell)))

    def experiment_of(self, cell: GridCell) -> str:
        """The name or path of the cell's experiment."""
        return self.experiment.replace(_LANGUAGE, cell.languages[0] if cell.languages else "")

    def prefix_of(self, cell: GridCell) -> str:
        """The prefix of the cell's logs, from which extraction reads scenario, rate, language, triggers and workers."""
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
    """One combination of the axes' values; None for an axis that the grid does not have."""

    languages: tuple[str, ...]
    rate: Fraction | None
    triggers: int | None
    parallelism: int | None


def order(scenario: Scenario, seed: int) -> list[GridCell]:
    """The cells of the runs: in each repeat every cell once, in an order drawn from the seed."""
    draw = random.Random(seed)
    runs: list[GridCell] = []
    for _ in range(scenario.repeats):
        cells = scenario.cells()
        draw.shuffle(cells)
        runs += cells
    return runs


def fingerprint(scenario: Scenario, platform: str, experiments: Mapping[str, bytes]) -> str:
    """The sha256 of everything that determines the runs: the scenario with its flags, the platform, the experiments."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in experiments.items()}
    whole = {"scenario": scenario.to_json(), "platform": platform, "experiments": files}
    return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


# From a file to a scenario


def load_scenario(path: Path, flags: Mapping[str, Any]) -> Scenario:
    """The scenario in `path`. `flags` are those of the command line by the file's keys, as texts or lists of texts.

    Raises ExperimentError with every problem of the file, and then of the flags.
    """
    document = read_yaml(path)
    given = {key: _scalars(value) for key, value in flags.items()}
    data = document.data
    if data is None:
        empty = Problem(document.file, 0, "", "the file is empty: a scenario needs at least scenario and experiment")
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
