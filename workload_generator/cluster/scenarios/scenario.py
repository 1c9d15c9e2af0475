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
from typing import Annotated, Any

import orjson
from pydantic import Field, PlainSerializer, PlainValidator, ValidationError, model_validator
from pydantic_core import ErrorDetails

from workload_generator.clock import NS_PER_S
from workload_generator.document import Document, Location, Scalar, closest, read_document
from workload_generator.errors import ExperimentError, Problem
from workload_generator.sections import Section
from workload_generator.values import PositiveDuration, PositiveWhole, Rps, any_text, plain, positive_whole, short

_LANGUAGE = "{language}"
ALL = "all"
_NAME = r"letters, digits and hyphens"


class Mode(StrEnum):
    """How the generator runs: a warm run begins with a ping of each target, so that an instance is there."""

    WARM = "warm"
    COLD = "cold-start"
    EVENT = "event"


class Condition(StrEnum):
    """What is waited for before a run, in this order, whatever the file's."""

    READY = "ready"
    DRAINED = "drained"
    ZERO = "zero"


def _mode(value: object) -> Mode:
    return Mode(_one_of(value, tuple(Mode)))


def _condition(value: object) -> Condition:
    return Condition(_one_of(value, tuple(Condition)))


def _one_of(value: object, options: Sequence[str]) -> str:
    text = any_text(value)
    if text not in options:
        near = closest(text, options)
        hint = f": did you mean {near}?" if near else ""
        raise ValueError(f"{short(text)} is none of {', '.join(options)}{hint}")
    return text


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


_Word = Annotated[str, PlainValidator(_word)]
_Setting = Annotated[str, PlainValidator(_setting)]
_AsWord = PlainSerializer(str, return_type=str, when_used="json")
_Mode = Annotated[Mode, PlainValidator(_mode), _AsWord]
_Condition = Annotated[Condition, PlainValidator(_condition), _AsWord]
_Concurrency = Annotated[int, PlainValidator(positive_whole)]


class Patch(Section):
    """What is changed for the scenario and put back after it, under Knative's names."""

    autoscaler: dict[str, _Setting] = Field(default_factory=dict)
    """Keys of the ConfigMap `config-autoscaler`."""
    container_concurrency: _Concurrency | None = None
    """Of every service of the scenario."""
    annotations: dict[str, _Setting] = Field(default_factory=dict)
    """Of every service's revisions, without `autoscaling.knative.dev/`: `max-scale`."""


class Scenario(Section):
    """The file. Durations are nanoseconds; an axis without values is not part of the grid."""

    scenario: _Word
    experiment: _Setting
    mode: _Mode = Mode.WARM
    services: _Setting | None = None
    languages: tuple[_Word, ...] = ()
    together: Annotated[bool, PlainValidator(lambda value: _one_of(value, ("true", "false")) == "true")] = False
    rates: tuple[Rps, ...] = ()
    triggers: tuple[PositiveWhole, ...] = ()
    parallelism: tuple[PositiveWhole, ...] = ()
    duration_ns: PositiveDuration | None = None
    repeats: PositiveWhole = 4
    pods: PositiveWhole = 1
    processes: PositiveWhole = 1
    patch: Patch = Patch()
    wait_at_most_ns: PositiveDuration = 600 * NS_PER_S
    wait: tuple[_Condition, ...] = (Condition.READY, Condition.DRAINED)

    @model_validator(mode="after")
    def _fits(self) -> Scenario:
        """What no key alone can know."""
        problems = []
        event = self.mode is Mode.EVENT
        if event:
            problems += [
                f"{key} means nothing with mode: event" for key in ("languages", "services") if getattr(self, key)
            ]
        elif self.triggers or self.parallelism:
            problems.append("triggers and parallelism need mode: event")
        if not event and not self.services:
            problems.append("services is missing: which services the requests are for, such as empty-{language}-http-0")
        for key in ("experiment", "services"):
            if _LANGUAGE in (getattr(self, key) or "") and not self.languages:
                problems.append(f"{key} has {_LANGUAGE}, but there are no languages")
        if self.together and _LANGUAGE in self.experiment:
            problems.append(f"together runs all languages in one experiment, so experiment cannot have {_LANGUAGE}")
        if self.mode is Mode.COLD and (self.pods > 1 or self.processes > 1):
            problems.append("cold-start rounds cannot be shared: pods and processes have to be 1")
        for key in ("languages", "rates", "triggers", "parallelism"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                problems.append(f"{key} has a value twice; repeats says how often")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def cells(self) -> list[Cell]:
        """The grid, in the file's order."""
        one: tuple[None] = (None,)
        groups: Sequence[tuple[str, ...]] = [self.languages] if self.together else [(each,) for each in self.languages]
        return [
            Cell(languages, rate, triggers, parallelism)
            for languages, rate, triggers, parallelism in itertools.product(
                groups or [()], self.rates or one, self.triggers or one, self.parallelism or one
            )
        ]

    def services_of(self, cell: Cell) -> tuple[str, ...]:
        """The services that get the cell's requests."""
        if self.services is None:
            return ()
        return tuple(dict.fromkeys(self.services.replace(_LANGUAGE, each) for each in cell.languages or ("",)))

    def experiment_of(self, cell: Cell) -> str:
        """The name or path of the cell's experiment."""
        return self.experiment.replace(_LANGUAGE, cell.languages[0] if cell.languages else "")

    def prefix_of(self, cell: Cell) -> str:
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
class Cell:
    """One place of the grid; None is an axis that the scenario does not have."""

    languages: tuple[str, ...]
    rate: Fraction | None
    triggers: int | None
    parallelism: int | None


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a cell; `number` counts from 1 over the whole scenario, `repeat` from 1."""

    number: int
    repeat: int
    cell: Cell


def order(scenario: Scenario, seed: int) -> list[Step]:
    """Every cell once in each repeat, shuffled anew by the seed."""
    draw = random.Random(seed)
    steps: list[Step] = []
    for repeat in range(1, scenario.repeats + 1):
        cells = scenario.cells()
        draw.shuffle(cells)
        steps += [Step(len(steps) + index, repeat, cell) for index, cell in enumerate(cells, 1)]
    return steps


def fingerprint(scenario: Scenario, platform: str, experiments: Mapping[str, bytes]) -> str:
    """A sha256 of all that decides what is run: the scenario with its flags, the platform, the experiments' files."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in experiments.items()}
    whole = {"scenario": scenario.model_dump(mode="json"), "platform": platform, "experiments": files}
    return hashlib.sha256(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS)).hexdigest()


# From a file to a scenario


def load_scenario(path: Path, flags: Mapping[str, Any]) -> Scenario:
    """The scenario in `path`; `flags` are the command line's, by the file's keys, as a file would have them (text, or
    a list of texts). Raises ExperimentError with every problem of the file, and then of the flags."""
    document = read_document(path)
    given = {key: _scalars(value) for key, value in flags.items()}
    data = document.data
    problems = list(document.problems)
    if data is None:
        problems.append(Problem(document.file, 0, "", "is empty: a scenario has a name, an experiment and a grid"))
        raise ExperimentError(problems)
    if isinstance(data, dict):
        document = replace(document, data={**data, **given})
    scenario = None
    try:
        scenario = Scenario.model_validate(document.data)
    except ValidationError as error:
        problems += [_problem(document, detail) for detail in error.errors()]
    if problems or scenario is None:
        of_flags = [each for each in problems if each.key.partition("[")[0] in given]
        of_file = [each for each in problems if each not in of_flags]
        named = [Problem(f"--{each.key.partition('[')[0]}", 0, "", each.message) for each in of_flags]
        raise ExperimentError([*sorted(of_file, key=lambda each: each.line), *named])
    return scenario


def _scalars(value: Any) -> Any:
    return [Scalar(each) for each in value] if isinstance(value, list) else Scalar(value)


_SECTIONS: Mapping[Location, type[Section]] = {(): Scenario, ("patch",): Patch}


def _problem(document: Document, error: ErrorDetails) -> Problem:
    path = error["loc"]
    location = tuple(path[:-1] if path and path[-1] == "[key]" else path)
    section = _SECTIONS.get(location[:-1])
    if section is not None and location and location[-1] in section.model_fields:
        location = (*location[:-1], section.model_fields[str(location[-1])].alias or location[-1])
    match error["type"]:
        case "extra_forbidden":
            keys = _SECTIONS[location[:-1]].keys()
            near = closest(str(location[-1]), keys)
            message = f"unknown key; did you mean {near}?" if near else f"unknown key; known here: {', '.join(keys)}"
        case "missing":
            message = "has no value" if location in document.lines else "is missing"
        case "value_error":
            message = str(error["ctx"]["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            message = "must be a mapping, with lines of `key: value`"
        case "tuple_type":
            message = "must be a list, such as [1000, 2000]"
        case _:
            message = error["msg"]
    return document.problem(location, message)
