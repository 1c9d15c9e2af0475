"""The sections of an experiment file. `docs/experiments.md` is the reference for users.

Rules:
- a section checks its own values; `load` checks the file as a whole
- numbers are exact: a rate is the fraction of its text, a duration whole nanoseconds
- values that depend on another key (the ramp, the method) are derived here, so that `resolved()` has all of them;
  values that depend on the machine (the default of `maxInFlight`) are derived in `run.resources`
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.cloudevents.encode import BINARY, MODES, PLACEHOLDER, PLACEHOLDERS
from workload_generator.experiment import field_kinds as kinds
from workload_generator.experiment.arrival_processes import ARRIVAL_PROCESS, ArrivalProcess, ConstantArrivals
from workload_generator.experiment.fields import DERIVED, Cursor, Kind, PartialSection, YamlSection, key, many, section
from workload_generator.experiment.thresholds import THRESHOLD, Threshold

DEFAULT_RAMP_UP_NS = 15 * NS_PER_S

ZERO, INTERVAL = WAITS = ("zero", "interval")
"""The condition that a cold-start request waits for."""

LISTED, RANDOM = ORDERS = ("listed", "random")
"""The order of the targets in a round."""

_MOST_EVENT_BYTES = 16 * 1024 * 1024
_GOS_IDLE_CONNS = 2  # http.DefaultMaxIdleConnsPerHost
_MOST_WEIGHT = 100_000  # a block of arrivals is kept in memory


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How an experiment is read. In `event` mode a target needs no URL. `rate_replaced`: `--rps` replaces the rate."""

    event: bool
    rate_replaced: bool = False


@dataclass(frozen=True, kw_only=True)
class Tls(YamlSection):
    """The verification of the target's certificate: CAs in addition to those of the system."""

    ca_file_as_written: str = key(kinds.TEXT, name="caFile")
    directory: Path

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """The file has certificates."""
        directory = partial.values["directory"] = partial.cursor.file.parent
        written = partial.get("ca_file_as_written")
        if written is not None and (problem := _no_certificates(directory / written)):
            partial.reject("ca_file_as_written", problem)

    @property
    def ca_file(self) -> str:
        """The path of the CAs (PEM); a relative path starts at the folder of the experiment."""
        return str(self.directory / self.ca_file_as_written)


def _no_certificates(path: Path) -> str:
    """The reason why the file has no usable certificates; empty if it has some."""
    import ssl  # 10 ms, and seldom needed

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return f"{path} has no certificates (PEM)"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    return ""


def _read_url(value: object, cursor: Cursor) -> str:
    if cursor.context.event:
        return kinds.any_text(value)
    if value == "":
        raise ValueError("has no value")
    return kinds.url(value)


_URL: Kind[str] = Kind(_read_url, str)


@dataclass(frozen=True, kw_only=True)
class Target(YamlSection):
    """The URL and the content of requests. `weight` is the target's share of the arrivals."""

    url: str = key(_URL, DERIVED)
    weight: int = key(kinds.WHOLE, 1)
    headers: dict[str, str] = key(kinds.HEADERS, {})
    body: str | None = key(kinds.TEXT, None)
    method: str = key(kinds.METHOD, DERIVED)
    expect_status: tuple[str, ...] = key(kinds.STATUSES, ("2xx",))
    tls: Tls | None = key(section(Tls), None)

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Events need no URL, the method depends on the body, and only https:// has certificates."""
        event = partial.cursor.context.event
        if event:
            partial.derive("url", "")
        elif partial.left_out("url"):
            partial.missing("url")
        partial.derive("method", "POST" if partial.get("body") else "GET")
        if not event and partial.get("tls") is not None and (partial.get("url") or "").lower().startswith("http://"):
            partial.reject("tls", "only an https:// target has a certificate: remove tls")

    def expects(self, status: int) -> bool:
        """Whether `status` is an expected one."""
        return status in self._expected

    @functools.cached_property
    def _expected(self) -> frozenset[int]:
        expected = set(self.expect_status)
        return frozenset(status for status in range(100, 600) if {str(status), f"{status // 100}xx"} & expected)


@dataclass(frozen=True, kw_only=True)
class Rate(YamlSection):
    """The rate of requests and their connections. Times are nanoseconds, rates exact requests per second.

    `requests_per_second` is None if the arrival process has its own rates, and 0 for the closed loop. As in Go, 0 means
    no limit for `max_idle_conns` and `idle_conn_timeout_ns`.
    """

    arrival: ArrivalProcess = key(ARRIVAL_PROCESS, ConstantArrivals())
    requests_per_second: Fraction | None = key(kinds.RPS, None)
    duration_ns: int = key(kinds.POSITIVE_DURATION, DERIVED)
    ramp_up_ns: int = key(kinds.DURATION, DERIVED)
    max_idle_conns: int = key(kinds.WHOLE, 100)
    max_idle_conns_per_host: int = key(kinds.WHOLE, 100)
    idle_conn_timeout_ns: int = key(kinds.DURATION, 90 * NS_PER_S)
    timeout_ns: int = key(kinds.POSITIVE_DURATION, 30 * NS_PER_S)
    max_in_flight: int | None = key(kinds.POSITIVE_WHOLE, None)
    connections: int = key(kinds.POSITIVE_WHOLE, DERIVED)
    preconnect: int = key(kinds.WHOLE, 0)

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Check and derive values that depend on the arrival process, and the number of connections."""
        arrival: ArrivalProcess | None = partial.get("arrival")
        if arrival is not None:
            arrival = replace(arrival, rps=partial.get("requests_per_second") or Fraction(0))
            partial.values["arrival"] = arrival
            _complete_rate(partial, arrival)
            _complete_duration(partial, arrival)
            _complete_ramp(partial, arrival)
        if partial.get("max_idle_conns_per_host") == 0:
            partial.values["max_idle_conns_per_host"] = _GOS_IDLE_CONNS
        partial.derive("connections", partial.get("max_idle_conns_per_host"))
        most = min(partial.get(name) or 2**63 for name in ("max_idle_conns", "max_idle_conns_per_host"))
        if (partial.get("preconnect") or 0) > most:
            message = f"the limit of idle connections is {most}: raise maxIdleConns and maxIdleConnsPerHost"
            partial.reject("preconnect", message)

    @property
    def closed_loop(self) -> bool:
        """Whether a request waits for the previous response instead of following a schedule."""
        return self.requests_per_second == 0


def _complete_rate(partial: PartialSection, arrival: ArrivalProcess) -> None:
    name, rps = "requests_per_second", partial.get("requests_per_second")
    if name in partial.wrong:
        return
    if not arrival.needs_rate and rps is not None:
        partial.reject(name, f"the arrival process {arrival.process} has its own rates: remove requestsPerSecond")
    elif arrival.needs_rate and rps is None:
        partial.missing(name)
    elif arrival.needs_rate and not (rps or arrival.closed_loop):
        partial.reject(name, f"the arrival process {arrival.process} needs a rate above 0")


def _complete_duration(partial: PartialSection, arrival: ArrivalProcess) -> None:
    own_ns = arrival.own_duration_ns
    if partial.left_out("duration_ns"):
        if own_ns is None:
            partial.missing("duration_ns")
        partial.derive("duration_ns", own_ns)
    elif own_ns is not None and arrival.fixed_duration and partial.get("duration_ns") not in (None, own_ns):
        message = f"the {arrival.process} last {format_duration(own_ns)}: remove duration"
        partial.reject("duration_ns", message)


def _complete_ramp(partial: PartialSection, arrival: ArrivalProcess) -> None:
    ramps_up = arrival.start_rps() > 1
    if partial.cursor.context.rate_replaced and not ramps_up:
        partial.values.pop("ramp_up_ns", None)  # it is for the rate of the file
    if partial.get("ramp_up_ns") and not ramps_up and "requests_per_second" not in partial.wrong:
        partial.reject("ramp_up_ns", "a ramp goes from 1 request per second to a higher rate: remove rampUp")
    partial.derive("ramp_up_ns", DEFAULT_RAMP_UP_NS if ramps_up and arrival.ramps_up else 0)


@dataclass(frozen=True, kw_only=True)
class StoreSettings(YamlSection):
    """The folder of the log."""

    log_dir_path: str = key(kinds.TEXT, "/logs")


MOST_IN_A_BURST = 10_000
_BURST = kinds.checked(
    kinds.whole, lambda burst: 1 <= burst <= MOST_IN_A_BURST, f"is not from 1 to {MOST_IN_A_BURST:,} requests"
)


@dataclass(frozen=True, kw_only=True)
class ColdStart(YamlSection):
    """Cold-start rounds. `gap_ns` is the time from the end of a request to the start of the next one.

    Before a request, `wait: zero` waits until the target has had no instance for `settle_ns`, `wait: interval` only for
    the gap. The default is zero if instances can be observed. At zero a target gets `burst` requests at once, or one.
    """

    gap_ns: int = key(kinds.DURATION, 7 * NS_PER_S)
    wait: str | None = key(kinds.word(*WAITS), None)
    settle_ns: int | None = key(kinds.DURATION, None)
    max_wait_ns: int | None = key(kinds.POSITIVE_DURATION, None)
    order: str | None = key(kinds.word(*ORDERS), None)
    burst: int | None = key(_BURST, None)


@dataclass(frozen=True, kw_only=True)
class Limits(YamlSection):
    """Limits of a valid run. `lag_ns` None stands for the default of `base.verdict`."""

    lag_ns: int | None = key(kinds.POSITIVE_DURATION, None)


_DATA = kinds.checked(
    kinds.any_text,
    lambda text: set(PLACEHOLDER.findall(text)) <= set(PLACEHOLDERS),
    f"has a name in ${{…}} that is not a placeholder: use {', '.join(f'${{{name}}}' for name in PLACEHOLDERS)}",
)
_NOT_EMPTY = kinds.checked(kinds.any_text, str.strip, "must not be empty")
_EVENT_SIZE = kinds.checked(
    kinds.whole, lambda size: size <= _MOST_EVENT_BYTES, f"is more than {_MOST_EVENT_BYTES:,} bytes"
)


@dataclass(frozen=True, kw_only=True)
class EventSettings(YamlSection):
    """The events of event mode. Missing values come from the `ce-*` headers and the body of the first target."""

    type: str | None = key(_NOT_EMPTY, None)
    source: str | None = key(_NOT_EMPTY, None)
    mode: str = key(kinds.word(*MODES), BINARY)
    data: str | None = key(_DATA, None)
    size: int | None = key(_EVENT_SIZE, None)

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """`data` and `size` exclude each other."""
        if partial.get("size") is not None and partial.get("data") is not None:
            partial.reject("size", "data has its own size: remove one of them")


@dataclass(frozen=True, kw_only=True)
class Experiment(YamlSection):
    """An experiment, checked and complete, from `load_experiment`. `name` is that of the file, without its suffix."""

    targets: tuple[Target, ...] = key(many(section(Target), at_least=1))
    rate: Rate = key(section(Rate))
    base_url: str = key(kinds.BASE_URL, "")
    store: StoreSettings = key(section(StoreSettings), StoreSettings())
    cold_start: ColdStart = key(section(ColdStart), ColdStart())
    limits: Limits = key(section(Limits), Limits())
    event: EventSettings | None = key(section(EventSettings), None)
    thresholds: tuple[Threshold, ...] | None = key(many(THRESHOLD), None)
    seed: int | None = key(kinds.WHOLE, None)
    name: str

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """The weights fit into one block of arrivals."""
        partial.values["name"] = partial.cursor.file.stem.encode(errors="backslashreplace").decode()
        total = sum(target.weight for target in partial.get("targets") or ())
        if total > _MOST_WEIGHT:
            message = f"the sum of the weights is {total:,}, more than {_MOST_WEIGHT:,}: use smaller weights"
            partial.reject("targets", message)

    def resolved(self) -> dict[str, Any]:
        """The experiment as JSON, with defaults.

        It loads as an equal experiment, except for headers with secrets, which are hidden.
        """
        return self.to_json()

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of `resolved()`, which does not depend on the formatting of the file."""
        canonical = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()
