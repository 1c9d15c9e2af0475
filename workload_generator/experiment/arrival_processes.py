"""Arrival processes: the values of `rate.arrival`.

A new process is one subclass of `ArrivalProcess`, with its keys in the YAML file, its times, its rates and its
description. Nothing else has to be changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError
from workload_generator.experiment import field_kinds as kinds
from workload_generator.experiment.curves import PoissonTimes, Replay, Times, line, sine, stairs
from workload_generator.experiment.fields import Cursor, Kind, PartialSection, YamlSection, key, many, mapping, section
from workload_generator.experiment.trace import Trace, read_trace
from workload_generator.experiment.yaml_lines import Scalar

_PERIOD = kinds.checked(  # a period has 256 pieces
    kinds.positive_duration, lambda ns: ns >= NS_PER_S, "is shorter than 1s", format_duration
)
_MINUTE_NS = 60 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class ArrivalProcess(YamlSection):
    """The distribution of arrivals over the measured time. `rps` is `rate.requestsPerSecond`, or 0 without it.

    The default of the key `process` is the name of a subclass in the file.
    """

    process: str = key(kinds.TEXT, "")
    rps: Fraction = Fraction(0)
    needs_rate: ClassVar[bool] = True
    """Whether `requestsPerSecond` is required. Otherwise the process has its own rates, and the key is rejected."""
    closed_loop: ClassVar[bool] = False
    """Whether `requestsPerSecond: 0` is valid and means the closed loop."""
    ramps_up: ClassVar[bool] = False
    """Whether `rampUp` has a default above 0."""
    varies: ClassVar[bool] = False
    """Whether arrivals are random, so that one second may have more of them than `peak_rps`."""
    fixed_duration: ClassVar[bool] = False
    """Whether `duration` must not differ from `own_duration_ns`."""

    @property
    def own_duration_ns(self) -> int | None:
        """The default of `rate.duration`; None if that is required."""
        return None

    def start_rps(self) -> Fraction:
        """The rate at the start of the measured time, and so at the end of `rampUp`."""
        return self.rps

    def peak_rps(self) -> Fraction:
        """The highest rate; the limit of requests in flight depends on it."""
        return self.rps

    def times(self, duration_ns: int, seed: int) -> Times:
        """The due times of the measured time, from its start."""
        raise NotImplementedError

    def display_rps(self) -> str:
        """The rate for people: `1000`, `0.016`, `10 to 1000`, `up to 500`."""
        return str(kinds.plain(self.rps)) if self.needs_rate else f"up to {float(self.peak_rps()):.10g}"

    def describe(self) -> str:
        """The process for people, in one line."""
        return f"{self.process}, {self.display_rps()} requests/s"


@dataclass(frozen=True, kw_only=True)
class ConstantArrivals(ArrivalProcess):
    """Evenly spaced arrivals."""

    process: str = key(kinds.TEXT, "constant")
    closed_loop: ClassVar[bool] = True
    ramps_up: ClassVar[bool] = True

    def times(self, duration_ns: int, _seed: int) -> Times:
        """One arrival every 1/rps seconds."""
        return line(self.rps, self.rps, duration_ns)


@dataclass(frozen=True, kw_only=True)
class PoissonArrivals(ArrivalProcess):
    """Independent arrivals with a constant mean rate."""

    process: str = key(kinds.TEXT, "poisson")
    varies: ClassVar[bool] = True

    def times(self, duration_ns: int, seed: int) -> Times:
        """Random times, the same for the same seed."""
        return PoissonTimes(self.rps, duration_ns, f"{seed} times")


@dataclass(frozen=True, kw_only=True)
class RampArrivals(ArrivalProcess):
    """A rate that changes linearly over the measured time."""

    process: str = key(kinds.TEXT, "ramp")
    from_rps: Fraction = key(kinds.RPS, name="from")
    to_rps: Fraction = key(kinds.RPS, name="to")
    needs_rate: ClassVar[bool] = False

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """One of both rates is above 0."""
        if partial.get("from_rps") == partial.get("to_rps") == 0:
            partial.reject("to_rps", "a ramp from 0 to 0 has no arrivals")

    def start_rps(self) -> Fraction:
        """The rate `from`."""
        return self.from_rps

    def peak_rps(self) -> Fraction:
        """The higher of both rates."""
        return max(self.from_rps, self.to_rps)

    def times(self, duration_ns: int, _seed: int) -> Times:
        """Arrivals at ever shorter or ever longer intervals."""
        return line(self.from_rps, self.to_rps, duration_ns)

    def display_rps(self) -> str:
        """Both rates."""
        return f"{kinds.plain(self.from_rps)} to {kinds.plain(self.to_rps)}"


@dataclass(frozen=True, kw_only=True)
class RateStep(YamlSection):
    """A constant rate for a duration."""

    requests_per_second: Fraction = key(kinds.RPS)
    duration_ns: int = key(kinds.POSITIVE_DURATION)


@dataclass(frozen=True, kw_only=True)
class StepArrivals(ArrivalProcess):
    """A sequence of constant rates."""

    process: str = key(kinds.TEXT, "steps")
    steps: tuple[RateStep, ...] = key(many(section(RateStep), at_least=1))
    needs_rate: ClassVar[bool] = False
    fixed_duration: ClassVar[bool] = True

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """At least one step has arrivals."""
        steps = partial.get("steps")
        if steps and not any(step.requests_per_second for step in steps):
            partial.reject("steps", "every step has a rate of 0")

    @property
    def own_duration_ns(self) -> int:
        """The sum of the durations of the steps."""
        return sum(step.duration_ns for step in self.steps)

    def start_rps(self) -> Fraction:
        """The rate of the first step."""
        return self.steps[0].requests_per_second

    def peak_rps(self) -> Fraction:
        """The rate of the highest step."""
        return max(step.requests_per_second for step in self.steps)

    def times(self, duration_ns: int, _seed: int) -> Times:
        """Evenly spaced arrivals within each step."""
        return stairs([(step.requests_per_second, step.duration_ns) for step in self.steps], duration_ns)

    def describe(self) -> str:
        """The process with its steps."""
        steps = (f"{float(s.requests_per_second):.10g} for {format_duration(s.duration_ns)}" for s in self.steps)
        return f"{super().describe()} ({', '.join(steps)})"


@dataclass(frozen=True, kw_only=True)
class SineArrivals(ArrivalProcess):
    """A sine around `requestsPerSecond`; `amplitude` is a share of that rate."""

    process: str = key(kinds.TEXT, "sine")
    amplitude: Fraction = key(kinds.SHARE)
    period_ns: int = key(_PERIOD)

    def peak_rps(self) -> Fraction:
        """The top of the sine."""
        return self.rps * (1 + self.amplitude)

    def times(self, duration_ns: int, _seed: int) -> Times:
        """Arrivals of a rate that first rises."""
        return sine(self.rps, self.amplitude, self.period_ns, duration_ns)

    def describe(self) -> str:
        """The process with its amplitude and its period."""
        swing = f"± {float(self.amplitude):.4g} of it every {format_duration(self.period_ns)}"
        return f"{super().describe()} {swing}"


@dataclass(frozen=True, kw_only=True)
class TraceArrivals(ArrivalProcess):
    """Arrivals from a file. `minute_ns` is the duration of a minute of the trace in this run."""

    process: str = key(kinds.TEXT, "trace")
    file: str = key(kinds.TEXT)
    sha256: str | None = key(kinds.TEXT, None)
    row: str | None = key(kinds.TEXT, None)
    scale: Fraction = key(kinds.FACTOR, Fraction(1))
    minute_ns: int = key(kinds.POSITIVE_DURATION, _MINUTE_NS)
    needs_rate: ClassVar[bool] = False
    trace: Trace = field(repr=False)

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Read the file."""
        if partial.wrong:
            return
        try:
            trace = read_trace(partial.cursor.file.parent / partial.get("file"), partial.get("row"))
        except ExperimentError as error:
            partial.cursor.problems.extend(error.problems)
            partial.wrong.add("file")
            return
        if partial.get("sha256") not in (None, trace.sha256):
            partial.reject("sha256", f"the file's is {trace.sha256}")
        if trace.offsets_ns is not None and partial.get("scale") != 1:
            partial.reject("scale", "only minute counts can be scaled; a trace of offsets is replayed as it is")
        partial.values["sha256"] = trace.sha256  # so that `resolved()` identifies the arrivals
        partial.values["trace"] = trace

    @property
    def own_duration_ns(self) -> int:
        """The duration of the trace; a trace of offsets ends at the full second after the last one."""
        if self.trace.minute_counts is not None:
            return len(self.trace.minute_counts) * self.minute_ns
        return (self.offsets_ns[-1] // NS_PER_S + 1) * NS_PER_S

    @functools.cached_property
    def offsets_ns(self) -> list[int]:
        """The due times of a trace of offsets in this run."""
        return [offset_ns * self.minute_ns // _MINUTE_NS for offset_ns in self.trace.offsets_ns or ()]

    def start_rps(self) -> Fraction:
        """0: a trace has no ramp."""
        return Fraction(0)

    def peak_rps(self) -> Fraction:
        """The rate of the busiest minute, or the most offsets within one second."""
        if self.trace.minute_counts is not None:
            return max(rps for rps, _ in self._minutes())
        offsets_ns = self.offsets_ns
        most = first = 0
        for last, offset_ns in enumerate(offsets_ns):
            while offset_ns - offsets_ns[first] >= NS_PER_S:
                first += 1
            most = max(most, last - first + 1)
        return Fraction(most)

    def times(self, duration_ns: int, _seed: int) -> Times:
        """The offsets, or evenly spaced arrivals within each minute."""
        if self.trace.minute_counts is None:
            return Replay(self.offsets_ns, duration_ns)
        return stairs(list(self._minutes()), duration_ns)

    def describe(self) -> str:
        """The process with its file."""
        minute = format_duration(self.minute_ns)
        return f"{super().describe()} from {self.file}, a minute of it in {minute}"

    def _minutes(self) -> Iterator[tuple[Fraction, int]]:
        for count in self.trace.minute_counts or ():
            yield count * self.scale * NS_PER_S / self.minute_ns, self.minute_ns


def arrivals_by_name() -> dict[str, type[ArrivalProcess]]:
    """Every arrival process by its name in the file."""
    return {kind.process: kind for kind in ArrivalProcess.__subclasses__()}


def _read_process(value: Any, cursor: Cursor) -> ArrivalProcess:
    """`arrival: poisson` is short for `arrival: {process: poisson}`."""
    data = mapping({"process": value} if isinstance(value, Scalar) else value)
    known = arrivals_by_name()
    name = cursor.under("process").read(kinds.word(*known), data.get("process"))
    return cursor.read(section(known[name]), data)


ARRIVAL_PROCESS: Kind[ArrivalProcess] = Kind(
    _read_process, YamlSection.to_json, lambda: (((), kind) for kind in arrivals_by_name().values())
)
