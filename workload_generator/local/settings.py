"""What a service of the platform can be told, under Knative's names and with its defaults: `docs/local.md`.

Rules:
- a file has `defaults` for every service and settings of its own for some; flags stand above both
- every problem is reported at once, with file, line and key; an unknown key is one
- what differs from Knative's defaults here, does so to suit a laptop: `stable-window` (60 s there),
  `scale-to-zero-grace-period` (30 s) and `progress-deadline` (600 s)

Sources: https://knative.dev/docs/serving/autoscaling/ and the `_example` of the ConfigMap `config-autoscaler`,
https://github.com/knative/serving/blob/main/config/core/configmaps/autoscaler.yaml
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError, field_validator
from pydantic_core import ErrorDetails

from workload_generator.clock import NS_PER_MS, NS_PER_S, format_duration
from workload_generator.document import Document, Location, closest, parse_document, read_document
from workload_generator.errors import ExperimentError, Problem
from workload_generator.sections import Section
from workload_generator.values import (
    Duration,
    PositiveDuration,
    PositiveWhole,
    Text,
    Whole,
    any_text,
    exact_number,
    plain,
    positive_duration,
    short,
    url,
    whole,
)

_HIGHEST_STATUS = 599
_HIGHEST_PERCENTAGE = 1000
_MOST_PARALLEL = 1000
_MOST_RETRIES = 100
_SHORTEST_INTERVAL_NS = 10 * NS_PER_MS


def _percentage(value: object) -> Fraction:
    number = exact_number(value)
    if not 0 < number <= _HIGHEST_PERCENTAGE:
        raise ValueError(f"{value} is not a percentage above 0, such as 70")
    return number * 100 if number <= 1 else number  # Knative takes 0.7 for 70 as well


def _positive(value: object) -> Fraction:
    number = exact_number(value)
    if number <= 0:
        raise ValueError(f"{value} is not above 0")
    return number


def _change_rate(value: object) -> Fraction:
    number = exact_number(value)
    if number <= 1:
        raise ValueError(f"{value} is not above 1: it is the largest factor of one change of scale")
    return number


def _burst(value: object) -> Fraction:
    number = exact_number(value)
    if number < 0 and number != -1:
        raise ValueError(f"{value} is neither -1 (without limit) nor a number of requests from 0 on")
    return number


def _share(value: object) -> Fraction:
    number = exact_number(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{value} is not a share of the requests: from 0 to 1")
    return number


def _status(value: object) -> int:
    number = whole(value)
    if not 400 <= number <= _HIGHEST_STATUS:
        raise ValueError(f"{value} is not the status of an error: from 400 to {_HIGHEST_STATUS}")
    return number


def whole_seconds(value: object) -> int:
    """A duration of whole seconds above 0, in nanoseconds."""
    duration_ns = positive_duration(value)
    if duration_ns % NS_PER_S:
        raise ValueError(f"{value} is not a whole number of seconds: concurrency is averaged over whole ones")
    return duration_ns


def _interval(value: object) -> int:
    duration_ns = positive_duration(value)
    if duration_ns < _SHORTEST_INTERVAL_NS:
        raise ValueError(f"{value} is shorter than {format_duration(_SHORTEST_INTERVAL_NS)}")
    return duration_ns


def _environment_name(value: object) -> str:
    name = str(value)
    if not name or "=" in name or "\0" in name:
        raise ValueError("is not the name of an environment variable")
    return name


def _environment_value(value: object) -> str:
    text = any_text(value)
    if "\0" in text:
        raise ValueError("an environment variable cannot hold a NUL")
    return text


def _parallelism(value: object) -> int:
    number = whole(value)
    if not 1 <= number <= _MOST_PARALLEL:
        raise ValueError(f"{value} is not a number of deliveries at a time from 1 to {_MOST_PARALLEL:,}")
    return number


def _retries(value: object) -> int:
    number = whole(value)
    if number > _MOST_RETRIES:
        raise ValueError(f"{value} is more than {_MOST_RETRIES}")
    return number


def _policy(value: object) -> str:
    if value not in ("exponential", "linear"):
        raise ValueError(f"{short(str(value))} is neither exponential nor linear")
    return str(value)


_Url = Annotated[str, PlainValidator(url)]
_AsNumber = PlainSerializer(plain, when_used="json")
_Percentage = Annotated[Fraction, PlainValidator(_percentage), _AsNumber]
_Positive = Annotated[Fraction, PlainValidator(_positive), _AsNumber]
_ChangeRate = Annotated[Fraction, PlainValidator(_change_rate), _AsNumber]
_Burst = Annotated[Fraction, PlainValidator(_burst), _AsNumber]
_Share = Annotated[Fraction, PlainValidator(_share), _AsNumber]
_WholeSeconds = Annotated[
    int, PlainValidator(whole_seconds), PlainSerializer(format_duration, return_type=str, when_used="json")
]
_Interval = Annotated[
    int, PlainValidator(_interval), PlainSerializer(format_duration, return_type=str, when_used="json")
]
_Environment = dict[
    Annotated[str, PlainValidator(_environment_name)], Annotated[str, PlainValidator(_environment_value)]
]


def _kebab(name: str) -> str:
    return name.removesuffix("_ns").replace("_", "-")


class _Settings(Section):
    model_config = ConfigDict(alias_generator=_kebab)


class Faults(_Settings):
    """What goes wrong on request. Rates are shares of the requests, drawn from the platform's seed."""

    latency_ns: Duration = 0
    error_rate: _Share = Fraction(0)
    error_status: Annotated[int, PlainValidator(_status)] = 500
    reset_rate: _Share = Fraction(0)
    slow_start_ns: Duration = 0
    kill_every_ns: _Interval | None = None


class FaultRequest(Faults):
    """What `POST /_platform/faults` takes: a service, its faults from now on, and how many instances die at once."""

    service: Text
    kill: Whole = 0

    @property
    def faults(self) -> Faults:
        """The standing part."""
        return Faults.model_construct(**{name: getattr(self, name) for name in Faults.model_fields})


class Settings(_Settings):
    """One service. Windows and deadlines are nanoseconds; 0 is without limit for scales and concurrency."""

    function: Text | None = None
    env: _Environment = Field(default_factory=dict)
    container_concurrency: Whole = Field(default=0, alias="containerConcurrency")
    timeout_seconds: PositiveWhole = Field(default=300, alias="timeoutSeconds")
    target: _Positive | None = None
    container_concurrency_target_default: _Positive = Fraction(100)
    container_concurrency_target_percentage: _Percentage = Fraction(70)
    stable_window_ns: _WholeSeconds = 10 * NS_PER_S
    scale_to_zero_grace_period_ns: Duration = 0
    panic_window_percentage: _Percentage = Fraction(10)
    panic_threshold_percentage: _Percentage = Fraction(200)
    max_scale_up_rate: _ChangeRate = Fraction(1000)
    max_scale_down_rate: _ChangeRate = Fraction(2)
    tick_interval_ns: _Interval = 2 * NS_PER_S
    target_burst_capacity: _Burst = Fraction(200)
    min_scale: Whole = 0
    max_scale: Whole = 0
    initial_scale: Whole = 1
    queue_limit: PositiveWhole = 10_000
    progress_deadline_ns: PositiveDuration = 30 * NS_PER_S
    faults: Faults = Faults()

    def over(self, other: Settings) -> Settings:
        """These settings where they were given, `other` for the rest."""
        return other.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})

    def resolved(self) -> dict[str, Any]:
        """As JSON values under the file's keys, without the faults, which change."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"faults"})


class EventFaults(_Settings):
    """What goes wrong with a trigger's events on purpose: shares of them, drawn from the platform's seed."""

    loss: _Share = Fraction(0)
    duplicates: _Share = Fraction(0)
    delay_ns: Duration = 0


class TriggerSettings(_Settings):
    """One trigger, under the names of Knative's delivery spec."""

    subscriber: _Url
    filter: _Environment = Field(default_factory=dict)
    parallelism: Annotated[int, PlainValidator(_parallelism)] = 1
    retry: Annotated[int, PlainValidator(_retries)] = 5
    backoff_delay_ns: PositiveDuration = 200 * NS_PER_MS
    backoff_policy: Annotated[str, PlainValidator(_policy)] = "exponential"
    dead_letter_sink: _Url | None = None
    faults: EventFaults = EventFaults()


class BrokerSettings(_Settings):
    """One broker."""

    queue_limit: PositiveWhole = 100_000
    triggers: dict[str, TriggerSettings] = Field(default_factory=dict)


class _File(_Settings):
    seed: Whole | None = None
    brokers: dict[str, BrokerSettings] = Field(default_factory=dict)
    defaults: Settings = Settings()
    services: dict[str, Settings] = Field(default_factory=dict)

    @field_validator("services", mode="before")
    @classmethod
    def _bare_services(cls, value: Any) -> Any:
        """A service without a setting of its own is worth a line: it is one that is known from the start."""
        return {name: {} if own is None else own for name, own in value.items()} if isinstance(value, dict) else value


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """What a file (and flags) say: settings for every service, and for some by name."""

    defaults: Settings
    services: Mapping[str, Settings]
    seed: int | None = None
    brokers: Mapping[str, BrokerSettings] = field(default_factory=dict)

    def settings_of(self, service: str) -> Settings:
        """The service's own over the defaults."""
        return self.services.get(service, self.defaults)


def load_config(path: Path | None, functions: Collection[str], flags: Mapping[str, object]) -> PlatformConfig:
    """The platform's file, or the defaults without one; `flags` (by field) replace what it says of any service.

    Raises ExperimentError with every problem of the file.
    """
    file, problems = _File(), list[Problem]()
    if path is not None:
        document = read_document(path)
        problems += document.problems
        if document.data is not None:
            read, found = _validated(_File, document)
            file, problems = read or file, problems + found
        problems += _contradictions(document, functions)
    if problems:
        raise ExperimentError(sorted(problems, key=lambda problem: problem.line))
    defaults = file.defaults.model_copy(update=dict(flags))
    services = {name: own.over(file.defaults).model_copy(update=dict(flags)) for name, own in file.services.items()}
    return PlatformConfig(defaults, services, file.seed, file.brokers)


def read_fault_request(text: str) -> FaultRequest:
    """What a `POST /_platform/faults` says, in JSON or YAML. Raises ExperimentError with every problem."""
    document = parse_document("request", text)
    problems = list(document.problems)
    request = None
    if document.data is None:
        problems.append(document.problem((), "is empty: name a service, and what is to go wrong"))
    else:
        request, found = _validated(FaultRequest, document)
        problems += found
    if problems or request is None:
        raise ExperimentError(problems)
    return request


def function_of(service: str, functions: Collection[str]) -> str | None:
    """The function that a service is of: its own name, or that without its number (`empty-go-http-0`)."""
    name, _, number = service.rpartition("-")
    if name in functions and number.isdecimal():
        return name
    return service if service in functions else None


def _contradictions(document: Document, functions: Collection[str]) -> list[Problem]:
    """What each key alone cannot know, asked also when something else is wrong elsewhere."""
    data = document.data if isinstance(document.data, dict) else {}
    services = data.get("services")
    defaults = _settings_in(data.get("defaults")) or Settings()
    sections: list[tuple[Location, Any]] = [(("defaults",), data.get("defaults"))]
    if isinstance(services, dict):
        sections += [(("services", name), raw) for name, raw in services.items()]
    problems = []
    for at, raw in sections:
        own = _settings_in(raw)
        merged = defaults if own is None else own.over(defaults)
        if own is not None and own.function is not None and own.function not in functions:
            near = closest(own.function, functions)
            message = f"there is no function {short(own.function)}" + (f": did you mean {near}?" if near else "")
            problems.append(document.problem((*at, "function"), f"{message}; the catalog has {', '.join(functions)}"))
        elif len(at) > 1 and merged.function is None and function_of(str(at[1]), functions) is None:
            message = "is neither a function's name nor one with a number: its key `function` has to say which it is of"
            problems.append(document.problem(at, message))
        if own is not None and merged.max_scale and merged.min_scale > merged.max_scale:
            key = "min-scale" if "min_scale" in own.model_fields_set else "max-scale"
            message = f"min-scale is {merged.min_scale}, which is above the max-scale of {merged.max_scale}"
            problems.append(document.problem((*at, key), message))
    return problems


def _settings_in(raw: Any) -> Settings | None:
    """The section's settings, or None when it has problems of its own."""
    try:
        return Settings() if raw is None else Settings.model_validate(raw)
    except ValidationError:
        return None


# From pydantic's errors to problems

_Model = TypeVar("_Model", bound=_Settings)


def _validated(kind: type[_Model], document: Document) -> tuple[_Model | None, list[Problem]]:
    try:
        return kind.model_validate(document.data), []
    except ValidationError as error:
        return None, [_problem(kind, document, detail) for detail in error.errors()]


def _problem(kind: type[_Settings], document: Document, error: ErrorDetails) -> Problem:
    path = error["loc"]
    location = tuple(path[:-1] if path and path[-1] == "[key]" else path)
    match error["type"]:
        case "extra_forbidden":
            message = _unknown_key(kind, location)
        case "missing":
            message = "has no value" if location in document.lines else "is missing"
        case "value_error":
            message = str(error["ctx"]["error"])
        case "model_type" | "dict_type" | "model_attributes_type":
            message = "must be a mapping, with lines of `key: value`"
        case _:
            message = error["msg"]
    return document.problem(location, message)


def _broker_section(names: list[str]) -> type[Section]:
    """What a key under `brokers` stands in: `brokers.<name>.triggers.<name>.faults`."""
    sections: dict[int, type[Section]] = {5: TriggerSettings, 6: EventFaults}
    return sections.get(len(names), BrokerSettings)


def _unknown_key(kind: type[_Settings], location: Location) -> str:
    names = [part for part in location if isinstance(part, str)]
    section: type[Section] = kind
    if names[0] == "brokers":
        section = _broker_section(names)
    elif "faults" in names[:-1]:
        section = Faults
    elif len(names) > 1:
        section = Settings
    near = closest(names[-1], section.keys())
    if near:
        return f"unknown key; did you mean {near}?"
    for other, where in ((Settings, "under defaults or a service"), (Faults, "under faults")):
        if kind is _File and section is not other and names[-1] in other.keys():
            return f"unknown key here; it belongs {where}"
    return f"unknown key; known here: {', '.join(section.keys())}"
