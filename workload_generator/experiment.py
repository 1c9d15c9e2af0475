"""Experiments: what to send where, how often and for how long. `docs/experiments.md` is the users' reference.

Rules:
- a file is checked whole: every problem is reported at once, each with its file, line and key
- a key that is not known is a problem, one that belongs to a later version too; nothing is silently ignored
- numbers are exact: a rate is the fraction that its text says, a duration whole nanoseconds
- what depends on another key (the ramp, the method) is derived here, so that `resolved()` shows all of it
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from workload_generator.clock import NS_PER_S, format_duration
from workload_generator.document import Document, Location, Scalar, closest, key_text, read_document
from workload_generator.errors import ExperimentError, Problem, UsageError
from workload_generator.processes import PROCESSES, AnyProcess, Constant, Process, Step, Steps, TraceArrivals, display
from workload_generator.sections import Section, Surroundings, around, missing
from workload_generator.values import (
    Duration,
    Headers,
    Method,
    PositiveDuration,
    PositiveWhole,
    Rps,
    Statuses,
    Text,
    Whole,
    any_text,
    plain,
    server_url,
    short,
    url,
)

EXPERIMENTS_DIR = "EXPERIMENTS_DIR"
"""The environment variable that names a folder of experiments, searched before the installed ones."""

DEFAULT_RAMP_UP_NS = 15 * NS_PER_S

_MOST_WEIGHT = 100_000  # a block of arrivals is held in memory

_ANY: Any = None  # the default of a field whose validator derives it


class Tls(Section):
    """How the target's certificate is verified, beside the system's CAs."""

    ca_file_as_written: Text = Field(alias="caFile")
    _directory: Path = PrivateAttr(default=Path())

    @field_validator("ca_file_as_written")
    @classmethod
    def _holds_certificates(cls, value: str, info: ValidationInfo) -> str:
        path = around(info).directory / value
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
        except ssl.SSLError:
            raise ValueError(f"{path} holds no certificates (PEM)") from None
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
        return value

    @model_validator(mode="after")
    def _beside_the_experiment(self, info: ValidationInfo) -> Tls:
        self._directory = around(info).directory
        return self

    @property
    def ca_file(self) -> str:
        """Where the CAs are (PEM); a relative path counts from the experiment's file."""
        return str(self._directory / self.ca_file_as_written)


class Target(Section):
    """Where requests go, and what they are. `weight` is the target's share of the arrivals."""

    url: Text = Field(default="", validate_default=True)
    weight: Whole = 1
    headers: Headers = Field(default_factory=dict)
    body: Text | None = None
    method: Method = Field(default_factory=lambda data: "POST" if data["body"] else "GET")
    expect_status: Statuses = ("2xx",)
    tls: Tls | None = None

    @field_validator("url", mode="wrap")
    @classmethod
    def _url_unless_event(cls, value: object, _handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        if around(info).event:
            return str(value) if value == "" else any_text(value)
        if value == "":
            raise missing()
        return url(value)

    @field_validator("tls")
    @classmethod
    def _only_with_https(cls, value: Tls | None, info: ValidationInfo) -> Tls | None:
        if value is not None and info.data.get("url", "").startswith("http://") and not around(info).event:
            raise ValueError("only an https:// target has certificates to verify: leave tls out")
        return value

    def expects(self, status: int) -> bool:
        """Whether a response with `status` counts as served."""
        return status in self._expected

    @functools.cached_property
    def _expected(self) -> frozenset[int]:
        hundreds = [range(int(text[0]) * 100, int(text[0]) * 100 + 100) for text in self.expect_status if "x" in text]
        single = [int(text) for text in self.expect_status if "x" not in text]
        return frozenset(single).union(*hundreds)


class Rate(Section):
    """How many requests, when, and over how many connections. Times are nanoseconds, rates exact requests a second.

    `requests_per_second` is None when the arrival process has its own rates, and 0 for the closed loop.
    `max_idle_conns` and `idle_conn_timeout_ns` are without limit when 0, as in Go.
    """

    arrival: AnyProcess = Constant()
    requests_per_second: Rps | None = Field(default=None, validate_default=True)
    duration_ns: PositiveDuration = Field(default=_ANY, validate_default=True)
    ramp_up_ns: Duration = Field(default=_ANY, validate_default=True)
    max_idle_conns: Whole = 100
    max_idle_conns_per_host: Whole = 100
    idle_conn_timeout_ns: Duration = 90 * NS_PER_S
    timeout_ns: PositiveDuration = 30 * NS_PER_S
    max_in_flight: PositiveWhole | None = None
    connections: PositiveWhole = Field(default_factory=lambda data: data["max_idle_conns_per_host"])

    @field_validator("requests_per_second")
    @classmethod
    def _rate_of_process(cls, value: Fraction | None, info: ValidationInfo) -> Fraction | None:
        arrival: Process | None = info.data.get("arrival")
        if arrival is None:
            return value
        if not arrival.needs_rate and value is not None:
            raise ValueError(f"the arrival process {arrival.process} has its own rates: leave requestsPerSecond out")
        if arrival.needs_rate and value is None:
            raise missing()
        if arrival.process in ("poisson", "sine") and not value:
            raise ValueError(f"the arrival process {arrival.process} needs a rate above 0")
        return value

    @field_validator("duration_ns", mode="wrap")
    @classmethod
    def _duration_of_process(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> int:
        arrival: Process | None = info.data.get("arrival")
        if value is None:
            if isinstance(arrival, Steps | TraceArrivals):
                return arrival.duration_ns
            if arrival is None:
                return 1  # the problem is elsewhere: nobody knows whether a duration is needed
            raise missing()
        duration_ns: int = handler(value)
        if isinstance(arrival, Steps) and duration_ns != arrival.duration_ns:
            raise ValueError(f"the steps last {format_duration(arrival.duration_ns)}: leave duration out")
        return duration_ns

    @field_validator("ramp_up_ns", mode="wrap")
    @classmethod
    def _ramp_of_process(cls, value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> int:
        arrival: Process | None = info.data.get("arrival")
        rps: Fraction | None = info.data.get("requests_per_second")
        ramps_up = arrival is not None and arrival.start_rps(rps or Fraction(0)) > 1
        if value is None:
            return DEFAULT_RAMP_UP_NS if ramps_up and isinstance(arrival, Constant) else 0
        ramp_up_ns: int = handler(value)
        if ramp_up_ns and not ramps_up and "requests_per_second" in info.data:
            raise ValueError("a ramp leads from 1 request a second to a rate above that: leave rampUp out")
        return ramp_up_ns

    @field_validator("max_idle_conns_per_host")
    @classmethod
    def _as_in_go(cls, value: int) -> int:
        return value or 2  # http.DefaultMaxIdleConnsPerHost

    @property
    def closed_loop(self) -> bool:
        """Whether requests wait for responses instead of following a schedule."""
        return self.requests_per_second == 0

    @property
    def start_rps(self) -> Fraction:
        """The rate at the beginning of the measured time: where the ramp leads to."""
        return self.arrival.start_rps(self.requests_per_second or Fraction(0))

    @property
    def peak_rps(self) -> Fraction:
        """The highest rate planned; 0 for the closed loop."""
        return self.arrival.peak_rps(self.requests_per_second or Fraction(0))

    @property
    def display_rps(self) -> str:
        """The rate as people write it: `1000`, `0.016`, `10 to 1000`, `up to 500`."""
        return display(self.arrival, self.requests_per_second)


class Store(Section):
    """Where the log goes."""

    log_dir_path: Text = "/logs"


class ColdStart(Section):
    """Cold-start rounds: `gap_ns` lies between the end of one request and the start of the next."""

    gap_ns: Duration = 7 * NS_PER_S


class Limits(Section):
    """What a valid run must keep. `lag_ns` None is the verdict's own limit."""

    lag_ns: PositiveDuration | None = None


class Experiment(Section):
    """One experiment, checked and complete; `load_experiment` makes it."""

    targets: tuple[Target, ...] = Field(min_length=1)
    rate: Rate
    base_url: Text = ""
    store: Store = Store()
    cold_start: ColdStart = ColdStart()
    limits: Limits = Limits()
    seed: Whole | None = None
    _surroundings: Surroundings = PrivateAttr()

    @model_validator(mode="after")
    def _remember(self, info: ValidationInfo) -> Experiment:
        self._surroundings = around(info)
        return self

    @field_validator("targets")
    @classmethod
    def _some_weight(cls, value: tuple[Target, ...]) -> tuple[Target, ...]:
        total = sum(target.weight for target in value)
        if total > _MOST_WEIGHT:
            raise ValueError(f"the weights add up to {total:,}, more than {_MOST_WEIGHT:,}: use smaller ones")
        return value

    @field_validator("base_url")
    @classmethod
    def _base(cls, value: str) -> str:
        return value and server_url(Scalar(value))

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self._surroundings.name

    @property
    def peak_rps(self) -> Fraction:
        """The highest rate planned; 0 for the closed loop."""
        return self.rate.peak_rps

    def resolved(self) -> dict[str, Any]:
        """The experiment as JSON values under the file's keys, defaults filled in.

        It loads as the same experiment, but for the headers that `values.hides` keeps out of logs.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @functools.cached_property
    def sha256(self) -> str:
        """Identifies what `resolved()` says, whatever the file looks like."""
        canonical = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


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
    flags: dict[Location, tuple[str, Scalar]] = {}
    if rps is not None:
        flags["rate", "requestsPerSecond"] = ("--rps", Scalar(str(plain(rps))))
    if duration_ns is not None:
        flags["rate", "duration"] = ("--duration", Scalar(format_duration(duration_ns)))
    if seed is not None:
        flags["seed",] = ("--seed", Scalar(str(seed)))
    try:
        return _validate(_replaced(document, flags), path.stem, event)
    except ExperimentError as error:
        names = {key_text(location): flag for location, (flag, _) in flags.items()}
        problems = [
            Problem(names[problem.key], 0, "", problem.message)
            if problem.file == document.file and problem.key in names
            else problem
            for problem in error.problems
        ]
        raise ExperimentError(sorted(problems, key=lambda problem: problem.file in names.values())) from None


def _replaced(document: Document, flags: Mapping[Location, tuple[str, Scalar]]) -> Document:
    """The document with the flags' values. Where it is no mapping, it stays as it is: that has its own problem."""
    if not isinstance(document.data, dict):
        return document
    data = dict(document.data)
    if isinstance(data.get("rate"), dict):
        data["rate"] = dict(data["rate"])
    for location, (flag, value) in flags.items():
        *sections, key = location
        section = data[sections[0]] if sections and sections[0] in data else data
        if not isinstance(section, dict) or (sections and section is data):
            continue
        section[key] = value
        if flag == "--rps" and Fraction(value) <= 1:
            section.pop("rampUp", None)  # the file's leads to the file's rate; to this one there is none
    return replace(document, data=data)


def find_experiment(name: str) -> Path:
    """The file that `--config` means: a path, else a bundled experiment, with or without `.yaml`.

    Raises UsageError, which lists the experiments that exist.
    """
    path = Path(name)
    try:
        if name and path.exists() and not path.is_dir():  # a pipe is as good as a file
            return path
    except OSError as error:
        raise UsageError(f"{short(name)}: cannot be read: {error.strerror}") from None
    bundled = bundled_experiments()
    found = bundled.get(name.removesuffix(".yaml"))
    if found is not None:
        return found
    near = closest(name.removesuffix(".yaml"), bundled)
    hint = f"; did you mean {near}?" if near else "."
    known = "\n".join(f"  {known}" for known in bundled) or "  none"
    raise UsageError(
        f"{name}: no such file, and no experiment of that name{hint} The bundled experiments are:\n{known}"
    )


def bundled_experiments() -> dict[str, Path]:
    """Experiments by name: those in `$EXPERIMENTS_DIR`, then the installed ones."""
    package = Path(__file__).parent
    installed = package / "_experiments"
    folders = [installed if installed.is_dir() else package.parent / "experiments"]
    if os.environ.get(EXPERIMENTS_DIR):
        folders.insert(0, Path(os.environ[EXPERIMENTS_DIR]))
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("*.yaml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 200 before 1000."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"([0-9]+)", name)]


# From pydantic's errors to problems

SECTIONS: Mapping[tuple[str, ...], type[Section]] = {
    (): Experiment,
    ("targets",): Target,
    ("targets", "tls"): Tls,
    ("rate",): Rate,
    ("store",): Store,
    ("coldStart",): ColdStart,
    ("limits",): Limits,
    **{("rate", "arrival", name): kind for name, kind in PROCESSES.items()},
    ("rate", "arrival", "steps", "steps"): Step,
}
"""The sections of a file: keys on the way to each, with the process in the place of what it chooses."""

_LATER: frozenset[tuple[str, ...]] = frozenset(
    {
        ("event",),
        ("thresholds",),
        ("rate", "preconnect"),
        ("coldStart", "wait"),
        ("coldStart", "settle"),
        ("coldStart", "maxWait"),
    }
)


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
    if names in _LATER:
        return "is not supported yet; a later version will read it"
    near = closest(key, SECTIONS[section].keys())
    if near:
        return f"unknown key; did you mean {near}?"
    for other, kind in SECTIONS.items():
        if key in kind.keys() and len(other) < 3:
            return f"unknown key here; it belongs {'under ' + '.'.join(other) if other else 'at the top of the file'}"
    return f"unknown key; known here: {', '.join(SECTIONS[section].keys())}"
