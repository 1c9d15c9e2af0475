"""The platform's configuration, under Knative's names and with its defaults: `docs/local.md`.

Rules:
- a file has `defaults` for every service, and settings of their own for some; flags override both
- every problem is reported at once, with file, line and key; an unknown key is a problem
- defaults differ from Knative's where that suits a laptop: `stable-window` (60 s there), `scale-to-zero-grace-period`
  (30 s) and `progress-deadline` (600 s)

Sources: https://knative.dev/docs/serving/autoscaling/ and the `_example` of the ConfigMap `config-autoscaler`,
https://github.com/knative/serving/blob/main/config/core/configmaps/autoscaler.yaml
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

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
from workload_generator.experiment.yaml_lines import YamlDocument, did_you_mean, parse_yaml, read_yaml

T = TypeVar("T")

_LONGEST_RETRY_DELAY_S = 30.0
_SCALES = ("min_scale", "max_scale")


def _checked(parse: Callable[[object], T], accepts: Callable[[T], bool], expected: str) -> Callable[[object], T]:
    """`parse`, which then raises ValueError ("<value> is not <expected>") unless `accepts` is true of the value."""

    def checked(value: object) -> T:
        parsed = parse(value)
        if not accepts(parsed):
            raise ValueError(f"{value} is not {expected}")
        return parsed

    return checked


def _percentage(value: object) -> Fraction:
    number = exact_number(value)
    if not 0 < number <= 1000:
        raise ValueError(f"{value} is not a percentage above 0, such as 70")
    return number * 100 if number <= 1 else number  # Knative takes 0.7 for 70 as well


def _environment_name(name: str) -> None:
    if not name or "=" in name or "\0" in name:
        raise ValueError("is not the name of an environment variable")


def _environment_value(value: object) -> str:
    text = any_text(value)
    if "\0" in text:
        raise ValueError("an environment variable cannot hold a NUL")
    return text


whole_seconds = _checked(positive_duration, lambda ns: ns % NS_PER_S == 0, "a whole number of seconds")
"""Reads a duration, in nanoseconds. Raises ValueError."""

parallelism = _checked(whole, lambda number: 1 <= number <= 1000, "a number of deliveries from 1 to 1,000")
"""Reads a trigger's number of deliveries at a time. Raises ValueError."""

_interval = _checked(positive_duration, lambda ns: ns >= 10 * NS_PER_MS, "an interval of at least 10ms")
_error_status = _checked(whole, lambda status: 400 <= status <= 599, "an error status: from 400 to 599")
_retries = _checked(whole, lambda number: number <= 100, "a number of retries from 0 to 100")
_policy = _checked(any_text, ("exponential", "linear").__contains__, "exponential or linear")
_change_rate = _checked(exact_number, lambda rate: rate > 1, "a factor above 1")
_burst = _checked(exact_number, lambda number: number >= 0 or number == -1, "a number of requests, or -1 for no limit")

_URL = scalar(url)
_PERCENTAGE = scalar(_percentage, plain)
_POSITIVE = scalar(_checked(exact_number, lambda number: number > 0, "above 0"), plain)
_SHARE = scalar(_checked(exact_number, lambda share: 0 <= share <= 1, "a share from 0 to 1"), plain)
_INTERVAL = scalar(_interval, format_duration)
_ENVIRONMENT = named(scalar(_environment_value), _environment_name)


class _Settings(YamlSection):
    @staticmethod
    def spelling(name: str) -> str:
        """Knative's, as in `stable-window`."""
        return name.removesuffix("_ns").replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Faults(_Settings):
    """Injected faults. Rates are shares of the requests, drawn from the platform's seed."""

    location_hint = "under faults"

    latency_ns: int = key(DURATION, 0)
    error_rate: Fraction = key(_SHARE, Fraction(0))
    error_status: int = key(scalar(_error_status), 500)
    reset_rate: Fraction = key(_SHARE, Fraction(0))
    slow_start_ns: int = key(DURATION, 0)
    kill_every_ns: int | None = key(_INTERVAL, None)


@dataclass(frozen=True, kw_only=True)
class FaultRequest(Faults):
    """The body of `POST /_platform/faults`: a service, its faults from now on, and how many instances to kill now."""

    service: str = key(TEXT)
    kill: int = key(WHOLE, 0)
    sets_faults: bool

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """A request without faults leaves the service's faults as they are."""
        partial.values["sets_faults"] = bool(partial.given & {each.field for each in Faults.schema()})

    @property
    def faults(self) -> Faults:
        """Without `service` and `kill`."""
        return Faults(**{each.field: getattr(self, each.field) for each in Faults.schema()})


@dataclass(frozen=True, kw_only=True)
class Settings(_Settings):
    """One service. Durations are in nanoseconds; a scale or concurrency of 0 is unlimited.

    `given` are the fields that the file has, which override its defaults.
    """

    location_hint = "under defaults or a service"

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
        """Keep which fields the file has, and check them together with its defaults (see `load_config`)."""
        partial.values["given"] = partial.given
        if partial.cursor.context is None:
            return
        functions, defaults = partial.cursor.context
        own, location = partial.get("function"), partial.cursor.location
        if own is not None and own not in functions:
            hint = did_you_mean(own, functions, ".")
            partial.reject("function", f"no function {short(own)}{hint} The catalog has {', '.join(functions)}")
        elif not own and not defaults.function and len(location) > 1 and not function_of(str(location[1]), functions):
            partial.reject("function", "is missing: the service's name is not that of a function and a number")
        low, high = (partial.get(name) if name in partial.given else getattr(defaults, name) for name in _SCALES)
        if low and high and low > high and partial.given.intersection(_SCALES):
            name = "min_scale" if "min_scale" in partial.given else "max_scale"
            partial.reject(name, f"min-scale is {low}, which is above the max-scale of {high}")

    def over(self, other: Settings) -> Settings:
        """These settings where the file has them, else `other`'s."""
        return replace(other, **{name: getattr(self, name) for name in self.given})

    def resolved(self) -> dict[str, Any]:
        """As JSON values under the file's keys, without the faults, which can change."""
        return {name: value for name, value in self.to_json().items() if name != "faults"}


@dataclass(frozen=True, kw_only=True)
class EventFaults(_Settings):
    """Injected faults of a trigger's deliveries: shares of the events, drawn from the platform's seed."""

    loss: Fraction = key(_SHARE, Fraction(0))
    duplicates: Fraction = key(_SHARE, Fraction(0))
    delay_ns: int = key(DURATION, 0)


@dataclass(frozen=True, kw_only=True)
class TriggerSettings(_Settings):
    """One trigger, under the names of Knative's DeliverySpec."""

    subscriber: str = key(_URL)
    filter: dict[str, str] = key(_ENVIRONMENT, {})
    parallelism: int = key(scalar(parallelism), 1)
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
    """A service may stand without settings, as a name that is known from the start."""
    return _SETTINGS.read({} if value is None else value, cursor)


_SETTINGS = section(Settings)
_SERVICE = replace(_SETTINGS, read=_bare_service)


@dataclass(frozen=True, kw_only=True)
class PlatformConfig(_Settings):
    """The configuration: settings for every service, and for some by name."""

    seed: int | None = key(WHOLE, None)
    brokers: dict[str, BrokerSettings] = key(named(section(BrokerSettings)), {})
    defaults: Settings = key(_SETTINGS, Settings())
    services: dict[str, Settings] = key(named(_SERVICE), {})

    def settings_of(self, service: str) -> Settings:
        """The settings of a service."""
        return self.services.get(service, self.defaults)


def load_config(path: Path | None, functions: Collection[str], flags: Mapping[str, Any]) -> PlatformConfig:
    """The configuration of a file, or the defaults without one. `flags` (by field) override it for all services.

    Raises ExperimentError with every problem of the file.
    """
    config, problems = PlatformConfig(), list[Problem]()
    if path is not None:
        document = read_yaml(path)
        document = replace(document, data={} if document.data is None else document.data)
        loaded, problems = read(PlatformConfig, document, (functions, _defaults_in(document)))
        config = loaded or config
    if problems:
        raise ExperimentError(sorted(problems, key=lambda problem: problem.line))
    services = {name: replace(own.over(config.defaults), **flags) for name, own in config.services.items()}
    return replace(config, defaults=replace(config.defaults, **flags), services=services)


def _defaults_in(document: YamlDocument) -> Settings:
    """The defaults of the file, if they are valid: its services are checked together with them."""
    data = document.data.get("defaults") if isinstance(document.data, dict) else None
    defaults, _problems = read(Settings, replace(document, data={} if data is None else data, problems=()))
    return defaults or Settings()


def read_fault_request(text: str) -> FaultRequest:
    """The body of a `POST /_platform/faults`, in JSON or YAML. Raises ExperimentError with every problem."""
    document = parse_yaml("request", text)
    if document.data is None:
        empty = document.problem((), "is empty: expected a service and its faults")
        raise ExperimentError([*document.problems, empty])
    request, problems = read(FaultRequest, document)
    if problems or request is None:
        raise ExperimentError(problems)
    return request


def function_of(service: str, functions: Collection[str]) -> str | None:
    """The function of a service: the service's name, with or without a number (`empty-go-http-0`)."""
    name, _, number = service.rpartition("-")
    if name in functions and number.isdecimal():
        return name
    return service if service in functions else None
