"""Experiments: what to send where, how often and for how long. `docs/experiments.md` is the users' reference.

Rules:
- a section checks its own values; what a file as a whole has to be is `loading`'s
- numbers are exact: a rate is the fraction that its text says, a duration whole nanoseconds
- what depends on another key (the ramp, the method) is derived here, so that `resolved()` shows all of it
"""

from __future__ import annotations

import functools
import hashlib
import json
import ssl
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    PrivateAttr,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from workload_generator.clock import NS_PER_S, format_duration
from workload_generator.document import Scalar
from workload_generator.events import BINARY, MODES, PLACEHOLDER, PLACEHOLDERS
from workload_generator.processes import AnyProcess, Constant, Process, Steps, TraceArrivals, display
from workload_generator.sections import Section, around, missing
from workload_generator.thresholds import AnyThreshold
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
    server_url,
    short,
    url,
)

DEFAULT_RAMP_UP_NS = 15 * NS_PER_S

ZERO, INTERVAL = WAITS = ("zero", "interval")
"""What a cold-start request waits for."""

LISTED, RANDOM = ORDERS = ("listed", "random")
"""In which order the targets of a round are visited."""

_MOST_EVENT_BYTES = 16 * 1024 * 1024
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
        if value is not None and info.data.get("url", "").lower().startswith("http://") and not around(info).event:
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
    preconnect: Whole = 0

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

    @field_validator("preconnect")
    @classmethod
    def _kept(cls, value: int, info: ValidationInfo) -> int:
        most = min(info.data.get("max_idle_conns") or 2**63, info.data.get("max_idle_conns_per_host") or 2**63)
        if value > most:
            raise ValueError(f"no more than {most} idle connections are kept: raise maxIdleConns and its like first")
        return value

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


MOST_IN_A_BURST = 10_000


class ColdStart(Section):
    """Cold-start rounds: `gap_ns` lies between the end of one request and the start of the next.

    `wait` is what a visit waits for: `zero`, seen for `settle`, or an `interval`. None: zero where it can be seen. At
    zero a target gets `burst` requests at once; None is one.
    """

    gap_ns: Duration = 7 * NS_PER_S
    wait: Text | None = None
    settle_ns: Duration | None = None
    max_wait_ns: PositiveDuration | None = None
    order: Text | None = None
    burst: Whole | None = None

    @field_validator("burst")
    @classmethod
    def _some(cls, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= MOST_IN_A_BURST:
            raise ValueError(f"{value} is not from 1 to {MOST_IN_A_BURST:,} requests")
        return value

    @field_validator("wait", "order")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        words = WAITS if info.field_name == "wait" else ORDERS
        if value is not None and value not in words:
            raise ValueError(f"{short(value)} is none of {', '.join(words)}")
        return value


class Limits(Section):
    """What a valid run must keep. `lag_ns` None is the verdict's own limit."""

    lag_ns: PositiveDuration | None = None


class Event(Section):
    """What events are in event mode; what is left out stands in the first target's `ce-*` headers and body."""

    type: Text | None = None
    source: Text | None = None
    mode: Text = BINARY
    data: Text | None = None
    size: Whole | None = None

    @field_validator("mode")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in MODES:
            raise ValueError(f"{short(value)} is none of {', '.join(MODES)}")
        return value

    @field_validator("type", "source")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must not be empty")
        return value

    @field_validator("data")
    @classmethod
    def _known_placeholders(cls, value: str | None) -> str | None:
        unknown = [name for name in PLACEHOLDER.findall(value or "") if name not in PLACEHOLDERS]
        if unknown:
            known = ", ".join(f"${{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"${{{unknown[0]}}} stands for nothing: there are {known}")
        return value

    @field_validator("size")
    @classmethod
    def _either(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("data") is not None:
            raise ValueError("data has its own size: leave one of both out")
        if value is not None and value > _MOST_EVENT_BYTES:
            raise ValueError(f"{value:,} is more than {_MOST_EVENT_BYTES:,} bytes")
        return value


class Experiment(Section):
    """One experiment, checked and complete; `load_experiment` makes it."""

    targets: tuple[Target, ...] = Field(min_length=1)
    rate: Rate
    base_url: Text = ""
    store: Store = Store()
    cold_start: ColdStart = ColdStart()
    limits: Limits = Limits()
    event: Event | None = None
    thresholds: tuple[AnyThreshold, ...] | None = None
    seed: Whole | None = None
    _name: str = PrivateAttr()

    @model_validator(mode="after")
    def _remember(self, info: ValidationInfo) -> Experiment:
        self._name = around(info).name
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
        return self._name

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
