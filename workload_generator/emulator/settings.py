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
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from workload_generator.base.backoff import Backoff
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError, Problem
from workload_generator.experiment.field_kinds import (
    DURATION,
    POSITIVE_DURATION,
    POSITIVE_WHOLE,
    TEXT,
    WHOLE,
    any_text,
    exact_number,
    plain,
    positive_duration,
    short,
    url,
    whole,
)
from workload_generator.experiment.fields import Cursor, PartialSection, YamlSection, key, named, read, scalar, section
from workload_generator.experiment.yaml_lines import Location, YamlDocument, closest, parse_yaml, read_yaml

_HIGHEST_STATUS = 599
_HIGHEST_PERCENTAGE = 1000
_MOST_PARALLEL = 1000
_MOST_RETRIES = 100
_LONGEST_RETRY_DELAY_S = 30.0
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


def _environment_name(name: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise ValueError("is not the name of an environment variable")


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


_URL = scalar(url)
_PERCENTAGE = scalar(_percentage, plain)
_POSITIVE = scalar(_positive, plain)
_SHARE = scalar(_share, plain)
_INTERVAL = scalar(_interval, format_duration)
_ENVIRONMENT = named(scalar(_environment_value), _environment_name)


class _Settings(YamlSection):
    @staticmethod
    def spelling(name: str) -> str:
        """Knative writes `stable-window`."""
        return name.removesuffix("_ns").replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Faults(_Settings):
    """What goes wrong on request. Rates are shares of the requests, drawn from the platform's seed."""

    stands = "under faults"

    latency_ns: int = key(DURATION, 0)
    error_rate: Fraction = key(_SHARE, Fraction(0))
    error_status: int = key(scalar(_status), 500)
    reset_rate: Fraction = key(_SHARE, Fraction(0))
    slow_start_ns: int = key(DURATION, 0)
    kill_every_ns: int | None = key(_INTERVAL, None)


@dataclass(frozen=True, kw_only=True)
class FaultRequest(Faults):
    """What `POST /_platform/faults` takes: a service, its faults from now on, and how many instances die at once."""

    service: str = key(TEXT)
    kill: int = key(WHOLE, 0)
    sets_faults: bool

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Without any fault, those that stand are left as they are."""
        partial.values["sets_faults"] = bool(partial.given & {each.field for each in Faults.described()})

    @property
    def faults(self) -> Faults:
        """The standing part."""
        return Faults(**{each.field: getattr(self, each.field) for each in Faults.described()})


@dataclass(frozen=True, kw_only=True)
class Settings(_Settings):
    """One service. Windows and deadlines are nanoseconds; 0 is without limit for scales and concurrency.

    `given` are the fields that the file has, which stand above those of its defaults.
    """

    stands = "under defaults or a service"

    function: str | None = key(TEXT, None)
    env: dict[str, str] = key(_ENVIRONMENT, {})
    container_concurrency: int = key(WHOLE, 0, name="containerConcurrency")
    timeout_seconds: int = key(POSITIVE_WHOLE, 300, name="timeoutSeconds")
    target: Fraction | None = key(_POSITIVE, None)
    container_concurrency_target_default: Fraction = key(_POSITIVE, Fraction(100))
    container_concurrency_target_percentage: Fraction = key(_PERCENTAGE, Fraction(70))
    stable_window_ns: int = key(scalar(whole_seconds, format_duration), 10 * NS_PER_S)
    scale_to_zero_grace_period_ns: int = key(DURATION, 0)
    panic_window_percentage: Fraction = key(_PERCENTAGE, Fraction(10))
    panic_threshold_percentage: Fraction = key(_PERCENTAGE, Fraction(200))
    max_scale_up_rate: Fraction = key(scalar(_change_rate, plain), Fraction(1000))
    max_scale_down_rate: Fraction = key(scalar(_change_rate, plain), Fraction(2))
    tick_interval_ns: int = key(_INTERVAL, 2 * NS_PER_S)
    target_burst_capacity: Fraction = key(scalar(_burst, plain), Fraction(200))
    min_scale: int = key(WHOLE, 0)
    max_scale: int = key(WHOLE, 0)
    initial_scale: int = key(WHOLE, 1)
    queue_limit: int = key(POSITIVE_WHOLE, 10_000)
    progress_deadline_ns: int = key(POSITIVE_DURATION, 30 * NS_PER_S)
    faults: Faults = key(section(Faults), Faults())
    given: frozenset[str] = field(default=frozenset(), compare=False)

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Remember what the file has."""
        partial.values["given"] = partial.given

    def over(self, other: Settings) -> Settings:
        """These settings where they were given, `other` for the rest."""
        return replace(other, **{name: getattr(self, name) for name in self.given})

    def resolved(self) -> dict[str, Any]:
        """As JSON values under the file's keys, without the faults, which change."""
        return {name: value for name, value in self.to_json().items() if name != "faults"}


@dataclass(frozen=True, kw_only=True)
class EventFaults(_Settings):
    """What goes wrong with a trigger's events on purpose: shares of them, drawn from the platform's seed."""

    loss: Fraction = key(_SHARE, Fraction(0))
    duplicates: Fraction = key(_SHARE, Fraction(0))
    delay_ns: int = key(DURATION, 0)


@dataclass(frozen=True, kw_only=True)
class TriggerSettings(_Settings):
    """One trigger, under the names of Knative's delivery spec."""

    subscriber: str = key(_URL)
    filter: dict[str, str] = key(_ENVIRONMENT, {})
    parallelism: int = key(scalar(_parallelism), 1)
    retry: int = key(scalar(_retries), 5)
    backoff_delay_ns: int = key(POSITIVE_DURATION, 200 * NS_PER_MS)
    backoff_policy: str = key(scalar(_policy), "exponential")
    dead_letter_sink: str | None = key(_URL, None)
    faults: EventFaults = key(section(EventFaults), EventFaults())

    def retry_delay_s(self, retry: int) -> float:
        """How long to wait before retry number `retry`, from 0."""
        first_s = self.backoff_delay_ns / NS_PER_S
        if self.backoff_policy == "linear":
            return min(first_s * (retry + 1), _LONGEST_RETRY_DELAY_S)
        return Backoff(first_s, _LONGEST_RETRY_DELAY_S).delay_s(retry)


@dataclass(frozen=True, kw_only=True)
class BrokerSettings(_Settings):
    """One broker."""

    queue_limit: int = key(POSITIVE_WHOLE, 100_000)
    triggers: dict[str, TriggerSettings] = key(named(section(TriggerSettings)), {})


def _bare_service(value: Any, cursor: Cursor) -> Settings:
    """A service without a setting of its own is worth a line: it is one that is known from the start."""
    return _SETTINGS.read({} if value is None else value, cursor)


_SETTINGS = section(Settings)
_SERVICE = replace(_SETTINGS, read=_bare_service)


@dataclass(frozen=True, kw_only=True)
class _File(_Settings):
    seed: int | None = key(WHOLE, None)
    brokers: dict[str, BrokerSettings] = key(named(section(BrokerSettings)), {})
    defaults: Settings = key(_SETTINGS, Settings())
    services: dict[str, Settings] = key(named(_SERVICE), {})


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


def load_config(path: Path | None, functions: Collection[str], flags: Mapping[str, Any]) -> PlatformConfig:
    """The platform's file, or the defaults without one; `flags` (by field) replace what it says of any service.

    Raises ExperimentError with every problem of the file.
    """
    file, problems = _File(), list[Problem]()
    if path is not None:
        document = read_yaml(path)
        found, problems = read(_File, replace(document, data={} if document.data is None else document.data))
        file = found or file
        problems += _contradictions(document, functions)
    if problems:
        raise ExperimentError(sorted(problems, key=lambda problem: problem.line))
    defaults = replace(file.defaults, **flags)
    services = {name: replace(own.over(file.defaults), **flags) for name, own in file.services.items()}
    return PlatformConfig(defaults, services, file.seed, file.brokers)


def read_fault_request(text: str) -> FaultRequest:
    """What a `POST /_platform/faults` says, in JSON or YAML. Raises ExperimentError with every problem."""
    document = parse_yaml("request", text)
    if document.data is None:
        empty = document.problem((), "is empty: name a service, and what is to go wrong")
        raise ExperimentError([*document.problems, empty])
    request, problems = read(FaultRequest, document)
    if problems or request is None:
        raise ExperimentError(problems)
    return request


def function_of(service: str, functions: Collection[str]) -> str | None:
    """The function that a service is of: its own name, or that without its number (`empty-go-http-0`)."""
    name, _, number = service.rpartition("-")
    if name in functions and number.isdecimal():
        return name
    return service if service in functions else None


def _contradictions(document: YamlDocument, functions: Collection[str]) -> list[Problem]:
    """What each key alone cannot know, asked also when something else is wrong elsewhere."""
    data = document.data if isinstance(document.data, dict) else {}
    services = data.get("services")
    defaults = _settings_in(document, data.get("defaults")) or Settings()
    sections: list[tuple[Location, Any]] = [(("defaults",), data.get("defaults"))]
    if isinstance(services, dict):
        sections += [(("services", name), raw) for name, raw in services.items()]
    problems = []
    for at, raw in sections:
        own = _settings_in(document, raw)
        merged = defaults if own is None else own.over(defaults)
        if own is not None and own.function is not None and own.function not in functions:
            near = closest(own.function, functions)
            message = f"there is no function {short(own.function)}" + (f": did you mean {near}?" if near else "")
            problems.append(document.problem((*at, "function"), f"{message}; the catalog has {', '.join(functions)}"))
        elif len(at) > 1 and merged.function is None and function_of(str(at[1]), functions) is None:
            message = "is neither a function's name nor one with a number: its key `function` has to say which it is of"
            problems.append(document.problem(at, message))
        if own is not None and merged.max_scale and merged.min_scale > merged.max_scale:
            key = "min-scale" if "min_scale" in own.given else "max-scale"
            message = f"min-scale is {merged.min_scale}, which is above the max-scale of {merged.max_scale}"
            problems.append(document.problem((*at, key), message))
    return problems


def _settings_in(document: YamlDocument, raw: Any) -> Settings | None:
    """The section's settings, or None when it has problems of its own."""
    settings, _problems = read(Settings, replace(document, data={} if raw is None else raw, problems=()))
    return settings
