"""Arrival processes as experiments name them: `rate.arrival`.

A process that has rates of its own takes no `requestsPerSecond`; the others need it. Each knows the rate that it starts
with, where a ramp before the measured time leads to, and the highest one, from which limits follow.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from workload_generator.clock import NS_PER_S, format_duration
from workload_generator.document import Location, Scalar
from workload_generator.errors import ExperimentError
from workload_generator.sections import Section, around
from workload_generator.traces import Trace, read_trace
from workload_generator.values import Factor, PositiveDuration, Rps, Share, Text, plain

_SHORTEST_PERIOD_NS = NS_PER_S  # each period is laid out piece by piece
_MINUTE_NS = 60 * NS_PER_S


class Constant(Section):
    """Evenly spaced arrivals."""

    process: Literal["constant"] = "constant"
    needs_rate: ClassVar[bool] = True

    def start_rps(self, rps: Fraction) -> Fraction:
        """The rate at the beginning, when `requestsPerSecond` is `rps`."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The highest rate."""
        return rps


class Poisson(Section):
    """Independent arrivals with a constant mean rate."""

    process: Literal["poisson"] = "poisson"
    needs_rate: ClassVar[bool] = True

    def start_rps(self, rps: Fraction) -> Fraction:
        """The mean rate."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The mean rate: there is no highest one."""
        return rps


class Ramp(Section):
    """A rate that changes in a straight line over the measured time."""

    process: Literal["ramp"] = "ramp"
    from_rps: Rps = Field(alias="from")
    to_rps: Rps = Field(alias="to")
    needs_rate: ClassVar[bool] = False

    @field_validator("to_rps")
    @classmethod
    def _somewhere(cls, value: Fraction, info: ValidationInfo) -> Fraction:
        if not value and not info.data.get("from_rps", 1):
            raise ValueError("a ramp from 0 to 0 has no arrivals")
        return value

    def start_rps(self, _rps: Fraction) -> Fraction:
        """The rate that it comes from."""
        return self.from_rps

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The higher end."""
        return max(self.from_rps, self.to_rps)


class Step(Section):
    """A constant rate for some time."""

    requests_per_second: Rps
    duration_ns: PositiveDuration


class Steps(Section):
    """One constant rate after the other."""

    process: Literal["steps"] = "steps"
    steps: tuple[Step, ...] = Field(min_length=1)
    needs_rate: ClassVar[bool] = False

    @field_validator("steps")
    @classmethod
    def _somewhere(cls, value: tuple[Step, ...]) -> tuple[Step, ...]:
        if not any(step.requests_per_second for step in value):
            raise ValueError("every step has a rate of 0")
        return value

    @property
    def duration_ns(self) -> int:
        """How long all of them last."""
        return sum(step.duration_ns for step in self.steps)

    def start_rps(self, _rps: Fraction) -> Fraction:
        """The rate of the first step."""
        return self.steps[0].requests_per_second

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The rate of the highest step."""
        return max(step.requests_per_second for step in self.steps)


class Sine(Section):
    """A rate that swings around `requestsPerSecond` by `amplitude`, a share of it."""

    process: Literal["sine"] = "sine"
    amplitude: Share
    period_ns: PositiveDuration
    needs_rate: ClassVar[bool] = True

    @field_validator("period_ns")
    @classmethod
    def _long_enough(cls, value: int) -> int:
        if value < _SHORTEST_PERIOD_NS:
            raise ValueError(f"must be at least {format_duration(_SHORTEST_PERIOD_NS)}")
        return value

    def start_rps(self, rps: Fraction) -> Fraction:
        """The mean rate: the swing begins upwards."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The top of the swing."""
        return rps * (1 + self.amplitude)


class TraceArrivals(Section):
    """Arrivals as a file has them. `minute_ns` is how long a minute of the trace lasts here."""

    process: Literal["trace"] = "trace"
    file: Text
    sha256: Text | None = None
    row: Text | None = None
    scale: Factor = Fraction(1)
    minute_ns: PositiveDuration = _MINUTE_NS
    needs_rate: ClassVar[bool] = False
    _trace: Trace | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> TraceArrivals:
        here = around(info)
        at: Location = ("rate", "arrival")
        try:
            trace = self._trace = read_trace(here.directory / self.file, self.row)
        except ExperimentError as error:
            here.problems += error.problems
            return self
        if self.sha256 not in (None, trace.sha256):
            here.problems.append(here.document.problem((*at, "sha256"), f"the file's is {trace.sha256}"))
        if trace.offsets_ns is not None and self.scale != 1:
            message = "only minute counts can be scaled; a trace of offsets is replayed as it is"
            here.problems.append(here.document.problem((*at, "scale"), message))
        self.__dict__["sha256"] = trace.sha256  # so that what is resolved says which arrivals these are
        return self

    @property
    def trace(self) -> Trace:
        """What the file holds. Every experiment that was loaded has it."""
        assert self._trace is not None
        return self._trace

    @property
    def duration_ns(self) -> int:
        """How long the whole trace takes here; one of offsets lasts to the whole second after its last."""
        if self._trace is None:
            return 1  # it could not be read: the experiment does not load
        if self._trace.minute_counts is not None:
            return len(self._trace.minute_counts) * self.minute_ns
        return (self.offsets_ns[-1] // NS_PER_S + 1) * NS_PER_S

    @functools.cached_property
    def offsets_ns(self) -> list[int]:
        """When each arrival of a trace of offsets is due here."""
        return [offset_ns * self.minute_ns // _MINUTE_NS for offset_ns in self.trace.offsets_ns or ()]

    def start_rps(self, _rps: Fraction) -> Fraction:
        """0: no ramp leads to a trace."""
        return Fraction(0)

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The rate of the fullest minute, or the most offsets in any one second."""
        if self.trace.minute_counts is not None:
            return max(self.trace.minute_counts) * self.scale * NS_PER_S / self.minute_ns
        offsets_ns = self.offsets_ns
        most = first = 0
        for last, offset_ns in enumerate(offsets_ns):
            while offset_ns - offsets_ns[first] >= NS_PER_S:
                first += 1
            most = max(most, last - first + 1)
        return Fraction(most)


Process = Constant | Poisson | Ramp | Steps | Sine | TraceArrivals

PROCESSES: dict[str, type[Section]] = {
    "constant": Constant,
    "poisson": Poisson,
    "ramp": Ramp,
    "steps": Steps,
    "sine": Sine,
    "trace": TraceArrivals,
}


def _spelled_out(value: object) -> object:
    """`arrival: poisson` is short for `arrival: {process: poisson}`."""
    if isinstance(value, Scalar):
        return {"process": str(value)}
    if isinstance(value, dict) and isinstance(value.get("process"), Scalar):
        return {**value, "process": str(value["process"])}
    return value


AnyProcess = Annotated[Process, Field(discriminator="process"), BeforeValidator(_spelled_out)]


def display(process: Process, rps: Fraction | None) -> str:
    """The rate as people write it: `1000`, `0.016`, `10 to 1000`, `up to 500`."""
    if isinstance(process, Ramp):
        return f"{plain(process.from_rps)} to {plain(process.to_rps)}"
    if rps is None:
        return f"up to {float(process.peak_rps(Fraction(0))):.10g}"
    return str(plain(rps))
