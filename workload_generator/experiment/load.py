"""Loads an experiment from a file and flags, or reports all of their problems.

Rules:
- flags replace values of the file before anything is checked
- all problems are reported at once, with file, line and key, in the order of the file; those of flags come last
- an unknown key is a problem, also one of a later version; nothing is silently ignored
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from workload_generator.base.clock import format_duration
from workload_generator.base.errors import ExperimentError, Problem
from workload_generator.experiment.field_kinds import plain
from workload_generator.experiment.fields import read
from workload_generator.experiment.model import Experiment, ReadOptions
from workload_generator.experiment.yaml_lines import Scalar, YamlDocument, read_yaml

_FLAGS = {"rate.requestsPerSecond": "--rps", "rate.duration": "--duration", "seed": "--seed"}


def load_experiment(
    path: Path,
    *,
    event: bool = False,
    rps: Fraction | None = None,
    duration_ns: int | None = None,
    seed: int | None = None,
) -> Experiment:
    """The experiment in the YAML file at `path`; `rps`, `duration_ns` and `seed` replace values of the file.

    In `event` mode targets need no URL, since requests go to the sink. Raises ExperimentError with every problem of the
    file and its trace, in their order, and then those of the flags.
    """
    document = read_yaml(path)
    given = {
        "rate.requestsPerSecond": None if rps is None else str(plain(rps)),
        "rate.duration": None if duration_ns is None else format_duration(duration_ns),
        "seed": None if seed is None else str(seed),
    }
    values = {key: Scalar(text) for key, text in given.items() if text is not None}
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        inside = document.data.get(section) if section and isinstance(document.data, dict) else document.data
        if isinstance(inside, dict):  # else it is a problem anyway
            inside[key] = value
    try:
        return _validate(document, ReadOptions(event, rate_replaced=rps is not None))
    except ExperimentError as error:
        of_file = [problem for problem in error.problems if problem.file != document.file or problem.key not in values]
        of_flags = [problem for problem in error.problems if problem not in of_file]
        flags = [Problem(_FLAGS[problem.key], 0, "", problem.message) for problem in of_flags]
        raise ExperimentError([*of_file, *flags]) from None


def _validate(document: YamlDocument, options: ReadOptions) -> Experiment:
    experiment, problems = None, list(document.problems)
    if document.data is None:
        problems.append(Problem(document.file, 0, "", "is empty: an experiment needs targets and a rate"))
    elif not isinstance(document.data, dict):
        problems.append(document.problem((), "is not an experiment: the top of the file must be a mapping"))
    else:
        experiment, problems = read(Experiment, document, options)
        problems += _weightless(document)
    if problems or experiment is None:
        order = {file: index for index, file in enumerate(dict.fromkeys([document.file, *(p.file for p in problems)]))}
        raise ExperimentError(sorted(problems, key=lambda problem: (order[problem.file], problem.line)))
    return experiment


def _weightless(document: YamlDocument) -> list[Problem]:
    """The problem that all weights are 0, also if targets have other problems."""
    targets = document.data.get("targets")
    weights = [each.get("weight") if isinstance(each, dict) else None for each in targets or ()]
    if not weights or not all(isinstance(weight, Scalar) and not weight.strip("0") for weight in weights):
        return []
    return [document.problem(("targets",), "every target has weight 0: give at least one a weight above 0")]
