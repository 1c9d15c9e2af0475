"""From a file and the command line to an experiment, or to every problem that they have.

Rules:
- what the command line says takes the file's place before anything is checked
- every problem is reported at once, with file, line and key, in the order of the file; those of flags come last
- a key that is not known is a problem, one that belongs to a later version too; nothing is silently ignored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from workload_generator.clock import format_duration
from workload_generator.document import Document, Location, Scalar, closest, read_document
from workload_generator.errors import ExperimentError, Problem
from workload_generator.experiment import ColdStart, Event, Experiment, Limits, Rate, Store, Target, Tls
from workload_generator.processes import PROCESSES, Step
from workload_generator.sections import Section, Surroundings
from workload_generator.values import plain, short

_FLAGS = {"rate.requestsPerSecond": "--rps", "rate.duration": "--duration", "seed": "--seed"}


def load_experiment(
    path: Path,
    *,
    event: bool = False,
    rps: Fraction | None = None,
    duration_ns: int | None = None,
    seed: int | None = None,
) -> Experiment:
    """The experiment in the YAML file at `path`, with what the command line says in place of the file's.

    In `event` mode targets need no URL: the sink takes its place. Raises ExperimentError with every problem of the file
    (and of the trace that it names), in its order, and then of the flags.
    """
    document = read_document(path)
    given = {
        "rate.requestsPerSecond": None if rps is None else str(plain(rps)),
        "rate.duration": None if duration_ns is None else format_duration(duration_ns),
        "seed": None if seed is None else str(seed),
    }
    values = {key: Scalar(text) for key, text in given.items() if text is not None}
    try:
        return _validate(_replaced(document, values), path.stem, event)
    except ExperimentError as error:
        of_file = [problem for problem in error.problems if problem.file != document.file or problem.key not in values]
        of_flags = [problem for problem in error.problems if problem not in of_file]
        flags = [Problem(_FLAGS[problem.key], 0, "", problem.message) for problem in of_flags]
        raise ExperimentError([*of_file, *flags]) from None


def _replaced(document: Document, values: Mapping[str, Scalar]) -> Document:
    """The document with `values` at their keys. What is no mapping stays as it is: that is a problem of its own."""
    if not isinstance(document.data, dict):
        return document
    data = dict(document.data)
    rate = data.get("rate")
    sections = {"": data}
    if isinstance(rate, dict):
        sections["rate"] = data["rate"] = dict(rate)
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        if section in sections:
            sections[section][key] = value
    rps = values.get("rate.requestsPerSecond")
    if rps is not None and Fraction(rps) <= 1:
        sections.get("rate", {}).pop("rampUp", None)  # the file's leads to the file's rate; to this one there is none
    return replace(document, data=data)


# From pydantic's errors to problems

SECTIONS: Mapping[tuple[str, ...], type[Section]] = {
    (): Experiment,
    ("targets",): Target,
    ("targets", "tls"): Tls,
    ("rate",): Rate,
    ("store",): Store,
    ("coldStart",): ColdStart,
    ("limits",): Limits,
    ("event",): Event,
    **{("rate", "arrival", name): kind for name, kind in PROCESSES.items()},
    ("rate", "arrival", "steps", "steps"): Step,
}
"""The sections of a file: keys on the way to each, with the process in the place of what it chooses."""


def _validate(document: Document, name: str, event: bool) -> Experiment:
    surroundings = Surroundings(name, document, event)
    experiment: Experiment | None = None
    problems = list(document.problems)
    if document.data is None:
        problems.append(Problem(document.file, 0, "", "is empty: an experiment has targets and a rate"))
    else:
        try:
            experiment = Experiment.model_validate(document.data, context=surroundings)
        except ValidationError as error:
            # A factory of a default is not called when other fields are wrong; those have their own problems.
            details = [detail for detail in error.errors() if detail["type"] != "default_factory_not_called"]
            problems += [problem for detail in details if (problem := _problem(document, detail)) is not None]
        problems += surroundings.problems
        problems += _weightless(document)
    if problems or experiment is None:
        order = {file: index for index, file in enumerate(dict.fromkeys([document.file, *(p.file for p in problems)]))}
        raise ExperimentError(sorted(problems, key=lambda problem: (order[problem.file], problem.line)))
    return experiment


def _weightless(document: Document) -> list[Problem]:
    """All weights 0: a question to all targets, asked also when something else is wrong with one of them."""
    targets = document.data.get("targets") if isinstance(document.data, dict) else None
    if not isinstance(targets, list) or not targets:
        return []
    for target in targets:
        weight = target.get("weight") if isinstance(target, dict) else None
        if not isinstance(weight, Scalar) or weight.strip("0"):
            return []
    return [document.problem(("targets",), "every target has weight 0, so none would get a request")]


def _problem(document: Document, error: ErrorDetails) -> Problem | None:
    path = error["loc"]
    names = tuple(part for part in path if isinstance(part, str))
    location = _location(path)
    if error["type"] != "extra_forbidden":
        location = _with_alias(names, location)
    match error["type"]:
        case "extra_forbidden":
            message = _unknown_key(names)
        case "missing":
            message = "has no value" if location in document.lines else "is missing"
        case "value_error":
            message = str(error["ctx"]["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            message = "must be a mapping, with lines of `key: value`" if location else "is not an experiment"
        case "tuple_type":
            message = "must be a list"
        case "too_short" if error["input"]:
            return None  # pydantic counts only the valid entries; the others have their own problems
        case "too_short":
            message = "must have at least one entry"
        case "union_tag_not_found":
            location = (*location, "process")
            message = f"is missing: one of {', '.join(PROCESSES)}"
        case "union_tag_invalid":
            location = (*location, "process")
            tag = error["ctx"]["tag"]
            near = closest(tag, PROCESSES)
            message = f"{short(tag)} is none of {', '.join(PROCESSES)}" + (f": did you mean {near}?" if near else "")
        case _:
            message = error["msg"]
    return document.problem(location, message)


def _location(path: Sequence[str | int]) -> Location:
    """Where an error stands in the file: pydantic's path without the parts that are its own."""
    if path[:2] == ("rate", "arrival"):
        path = (*path[:2], *path[3:])  # the process, which chose the section
    return tuple(path[:-1] if path and path[-1] == "[key]" else path)


def _with_alias(names: tuple[str, ...], location: Location) -> Location:
    """When a validator refuses a default, pydantic names the field; the file's word for it is its alias."""
    section = SECTIONS.get(names[:-1])
    if section is None or not names or names[-1] != location[-1] or names[-1] not in section.model_fields:
        return location
    return (*location[:-1], section.model_fields[names[-1]].alias or names[-1])


def _unknown_key(names: tuple[str, ...]) -> str:
    key, section = names[-1], names[:-1]
    near = closest(key, SECTIONS[section].keys())
    if near:
        return f"unknown key; did you mean {near}?"
    for other, kind in SECTIONS.items():
        if key in kind.keys() and len(other) < 3:
            return f"unknown key here; it belongs {'under ' + '.'.join(other) if other else 'at the top of the file'}"
    return f"unknown key; known here: {', '.join(SECTIONS[section].keys())}"
