"""Arrival processes as experiments name them: `rate.arrival`.

A process that has rates of its own takes no `requestsPerSecond`; the others need it. Each knows the rate that it starts
with, where a ramp before the measured time leads to, and the highest one, from which limits follow.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, get_args

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError
from workload_generator.experiment.fields import NO_MAPPING, Found, Kind, Place, Section, key, many, scalar, section
from workload_generator.experiment.trace import Trace, read_trace
from workload_generator.experiment.values import (
    FACTOR,
    POSITIVE_DURATION,
    RPS,
    SHARE,
    TEXT,
    one_of,
    plain,
    positive_duration,
)
from workload_generator.experiment.yaml_lines import Scalar

_SHORTEST_PERIOD_NS = NS_PER_S  # each period is laid out piece by piece
_MINUTE_NS = 60 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class Constant(Section):
    """Evenly spaced arrivals."""

    process: str = key(TEXT, "constant")
    needs_rate: ClassVar[bool] = True

    def start_rps(self, rps: Fraction) -> Fraction:
        """The rate at the beginning, when `requestsPerSecond` is `rps`."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The highest rate."""
        return rps


@dataclass(frozen=True, kw_only=True)
class Poisson(Section):
    """Independent arrivals with a constant mean rate."""

    process: str = key(TEXT, "poisson")
    needs_rate: ClassVar[bool] = True

    def start_rps(self, rps: Fraction) -> Fraction:
        """The mean rate."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The mean rate: there is no highest one."""
        return rps


@dataclass(frozen=True, kw_only=True)
class Ramp(Section):
    """A rate that changes in a straight line over the measured time."""

    process: str = key(TEXT, "ramp")
    from_rps: Fraction = key(RPS, name="from")
    to_rps: Fraction = key(RPS, name="to")
    needs_rate: ClassVar[bool] = False

    @classmethod
    def complete(cls, found: Found) -> None:
        """A ramp leads from somewhere, or to somewhere."""
        if found.get("from_rps") == found.get("to_rps") == 0:
            found.reject("to_rps", "a ramp from 0 to 0 has no arrivals")

    def start_rps(self, _rps: Fraction) -> Fraction:
        """The rate that it comes from."""
        return self.from_rps

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The higher end."""
        return max(self.from_rps, self.to_rps)


@dataclass(frozen=True, kw_only=True)
class Step(Section):
    """A constant rate for some time."""

    requests_per_second: Fraction = key(RPS)
    duration_ns: int = key(POSITIVE_DURATION)


@dataclass(frozen=True, kw_only=True)
class Steps(Section):
    """One constant rate after the other."""

    process: str = key(TEXT, "steps")
    steps: tuple[Step, ...] = key(many(section(Step), at_least=1))
    needs_rate: ClassVar[bool] = False

    @classmethod
    def complete(cls, found: Found) -> None:
        """Some step has arrivals."""
        steps = found.get("steps")
        if steps and not any(step.requests_per_second for step in steps):
            found.reject("steps", "every step has a rate of 0")

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


def _period(value: object) -> int:
    period_ns = positive_duration(value)
    if period_ns < _SHORTEST_PERIOD_NS:
        raise ValueError(f"must be at least {format_duration(_SHORTEST_PERIOD_NS)}")
    return period_ns


@dataclass(frozen=True, kw_only=True)
class Sine(Section):
    """A rate that swings around `requestsPerSecond` by `amplitude`, a share of it."""

    process: str = key(TEXT, "sine")
    amplitude: Fraction = key(SHARE)
    period_ns: int = key(scalar(_period, format_duration))
    needs_rate: ClassVar[bool] = True

    def start_rps(self, rps: Fraction) -> Fraction:
        """The mean rate: the swing begins upwards."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The top of the swing."""
        return rps * (1 + self.amplitude)


@dataclass(frozen=True, kw_only=True)
class TraceArrivals(Section):
    """Arrivals as a file has them. `minute_ns` is how long a minute of the trace lasts here."""

    process: str = key(TEXT, "trace")
    file: str = key(TEXT)
    sha256: str | None = key(TEXT, None)
    row: str | None = key(TEXT, None)
    scale: Fraction = key(FACTOR, Fraction(1))
    minute_ns: int = key(POSITIVE_DURATION, _MINUTE_NS)
    needs_rate: ClassVar[bool] = False
    read: Trace | None = field(default=None, repr=False)

    @classmethod
    def complete(cls, found: Found) -> None:
        """Read the file. Its problems do not keep the process from being read."""
        if found.wrong:
            return
        try:
            trace = read_trace(found.place.file.parent / found.get("file"), found.get("row"))
        except ExperimentError as error:
            found.place.problems.extend(error.problems)
            return
        if found.get("sha256") not in (None, trace.sha256):
            found.places["sha256"].report(f"the file's is {trace.sha256}")
        if trace.offsets_ns is not None and found.get("scale") != 1:
            found.places["scale"].report("only minute counts can be scaled; a trace of offsets is replayed as it is")
        found.values["sha256"] = trace.sha256  # so that what is resolved says which arrivals these are
        found.values["read"] = trace

    @property
    def trace(self) -> Trace:
        """What the file holds. Every experiment that was loaded has it."""
        assert self.read is not None
        return self.read

    @property
    def duration_ns(self) -> int:
        """How long the whole trace takes here; one of offsets lasts to the whole second after its last."""
        if self.read is None:
            return 1  # it could not be read: the experiment does not load
        if self.read.minute_counts is not None:
            return len(self.read.minute_counts) * self.minute_ns
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

PROCESSES: dict[str, type[Process]] = {kind.process: kind for kind in get_args(Process)}


def _read_process(value: Any, place: Place) -> Process:
    """`arrival: poisson` is short for `arrival: {process: poisson}`."""
    data = {"process": value} if isinstance(value, Scalar) else value
    if not isinstance(data, dict):
        raise ValueError(NO_MAPPING)
    name = place.under("process").read(_NAME, data.get("process"))
    return place.read(section(PROCESSES[name]), data)


def _name(value: object) -> str:
    if value is None:
        raise ValueError(f"is missing: one of {', '.join(PROCESSES)}")
    return one_of(value, PROCESSES)


_NAME = scalar(_name)
PROCESS: Kind[Process] = Kind(_read_process, Section.to_json, tuple(((), kind) for kind in PROCESSES.values()))


def display(process: Process, rps: Fraction | None) -> str:
    """The rate as people write it: `1000`, `0.016`, `10 to 1000`, `up to 500`."""
    if isinstance(process, Ramp):
        return f"{plain(process.from_rps)} to {plain(process.to_rps)}"
    if rps is None:
        return f"up to {float(process.peak_rps(Fraction(0))):.10g}"
    return str(plain(rps))
