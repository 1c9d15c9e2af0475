"""Arrival processes, as experiments name them in `rate.arrival`.

A new process is one class here: its keys in the YAML file, its times, its rates and its description. `arrivals_by_name`
finds it, and every command works with it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError
from workload_generator.experiment.curves import PoissonTimes, Replay, Times, line, sine, stairs
from workload_generator.experiment.field_kinds import (
    FACTOR,
    POSITIVE_DURATION,
    RPS,
    SHARE,
    TEXT,
    checked,
    one_of,
    plain,
    positive_duration,
)
from workload_generator.experiment.fields import (
    NO_MAPPING,
    Cursor,
    Kind,
    PartialSection,
    YamlSection,
    key,
    many,
    scalar,
    section,
)
from workload_generator.experiment.trace import Trace, read_trace
from workload_generator.experiment.yaml_lines import Scalar

_PERIOD = checked(positive_duration, lambda ns: ns >= NS_PER_S, "is shorter than 1s")  # a period has 256 pieces
_MINUTE_NS = 60 * NS_PER_S


@dataclass(frozen=True, kw_only=True)
class ArrivalProcess(YamlSection):
    """How arrivals are spread over the measured time. `rps` is `rate.requestsPerSecond`, 0 where it is left out.

    Subclasses give `process`, their name in the file, as a key with that default.
    """

    process: str = key(TEXT, "")
    needs_rate: ClassVar[bool] = True
    """Whether `requestsPerSecond` is required. Without it the process has rates of its own, and the key is refused."""
    closed_loop: ClassVar[bool] = False
    """Whether a `requestsPerSecond` of 0 is allowed and means the closed loop."""
    ramps_up: ClassVar[bool] = False
    """Whether a ramp comes first when `rampUp` is left out."""
    varies: ClassVar[bool] = False
    """Whether arrivals come at random, so that a second may have more of them than `peak_rps`."""
    fixed_duration: ClassVar[bool] = False
    """Whether `duration` cannot shorten `own_duration_ns`."""

    @property
    def own_duration_ns(self) -> int | None:
        """The duration when `rate.duration` is left out; None when that is required."""
        return None

    def start_rps(self, rps: Fraction) -> Fraction:
        """The rate at the beginning, where a ramp before the measured time leads to."""
        return rps

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The highest rate, from which limits follow."""
        return rps

    def times(self, rps: Fraction, duration_ns: int, seed: int) -> Times:
        """When the arrivals of the measured time are due, from its start."""
        raise NotImplementedError

    def display_rps(self, rps: Fraction) -> str:
        """The rate for people: `1000`, `0.016`, `10 to 1000`, `up to 500`."""
        return str(plain(rps)) if self.needs_rate else f"up to {float(self.peak_rps(rps)):.10g}"

    def describe(self, rps: Fraction) -> str:
        """The process for people, in a line."""
        return f"{self.process}, {self.display_rps(rps)} requests/s"


@dataclass(frozen=True, kw_only=True)
class ConstantArrivals(ArrivalProcess):
    """Evenly spaced arrivals."""

    process: str = key(TEXT, "constant")
    closed_loop: ClassVar[bool] = True
    ramps_up: ClassVar[bool] = True

    def times(self, rps: Fraction, duration_ns: int, _seed: int) -> Times:
        """One every 1/rps seconds."""
        return line(rps, rps, duration_ns)


@dataclass(frozen=True, kw_only=True)
class PoissonArrivals(ArrivalProcess):
    """Independent arrivals with a constant mean rate."""

    process: str = key(TEXT, "poisson")
    varies: ClassVar[bool] = True

    def times(self, rps: Fraction, duration_ns: int, seed: int) -> Times:
        """Random ones, the same for the same seed."""
        return PoissonTimes(rps, duration_ns, f"{seed} times")


@dataclass(frozen=True, kw_only=True)
class RampArrivals(ArrivalProcess):
    """A rate that changes in a straight line over the measured time."""

    process: str = key(TEXT, "ramp")
    from_rps: Fraction = key(RPS, name="from")
    to_rps: Fraction = key(RPS, name="to")
    needs_rate: ClassVar[bool] = False

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """A ramp leads from somewhere, or to somewhere."""
        if partial.get("from_rps") == partial.get("to_rps") == 0:
            partial.reject("to_rps", "a ramp from 0 to 0 has no arrivals")

    def start_rps(self, _rps: Fraction) -> Fraction:
        """The rate that it comes from."""
        return self.from_rps

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The higher end."""
        return max(self.from_rps, self.to_rps)

    def times(self, _rps: Fraction, duration_ns: int, _seed: int) -> Times:
        """Ever closer ones, or ever further apart."""
        return line(self.from_rps, self.to_rps, duration_ns)

    def display_rps(self, _rps: Fraction) -> str:
        """Both ends."""
        return f"{plain(self.from_rps)} to {plain(self.to_rps)}"


@dataclass(frozen=True, kw_only=True)
class RateStep(YamlSection):
    """A constant rate for some time."""

    requests_per_second: Fraction = key(RPS)
    duration_ns: int = key(POSITIVE_DURATION)


@dataclass(frozen=True, kw_only=True)
class StepArrivals(ArrivalProcess):
    """One constant rate after the other."""

    process: str = key(TEXT, "steps")
    steps: tuple[RateStep, ...] = key(many(section(RateStep), at_least=1))
    needs_rate: ClassVar[bool] = False
    fixed_duration: ClassVar[bool] = True

    @classmethod
    def complete(cls, partial: PartialSection) -> None:
        """Some step has arrivals."""
        steps = partial.get("steps")
        if steps and not any(step.requests_per_second for step in steps):
            partial.reject("steps", "every step has a rate of 0")

    @property
    def own_duration_ns(self) -> int:
        """The sum of the steps'."""
        return sum(step.duration_ns for step in self.steps)

    def start_rps(self, _rps: Fraction) -> Fraction:
        """The rate of the first step."""
        return self.steps[0].requests_per_second

    def peak_rps(self, _rps: Fraction) -> Fraction:
        """The rate of the highest step."""
        return max(step.requests_per_second for step in self.steps)

    def times(self, _rps: Fraction, duration_ns: int, _seed: int) -> Times:
        """Evenly spaced within each step."""
        return stairs([(step.requests_per_second, step.duration_ns) for step in self.steps], duration_ns)

    def describe(self, rps: Fraction) -> str:
        """With each step."""
        steps = (f"{float(s.requests_per_second):.10g} for {format_duration(s.duration_ns)}" for s in self.steps)
        return f"{super().describe(rps)} ({', '.join(steps)})"


@dataclass(frozen=True, kw_only=True)
class SineArrivals(ArrivalProcess):
    """A rate that swings around `requestsPerSecond` by `amplitude`, a share of it."""

    process: str = key(TEXT, "sine")
    amplitude: Fraction = key(SHARE)
    period_ns: int = key(scalar(_PERIOD, format_duration))

    def peak_rps(self, rps: Fraction) -> Fraction:
        """The top of the swing."""
        return rps * (1 + self.amplitude)

    def times(self, rps: Fraction, duration_ns: int, _seed: int) -> Times:
        """The swing begins upwards."""
        return sine(rps, self.amplitude, self.period_ns, duration_ns)

    def describe(self, rps: Fraction) -> str:
        """With the swing."""
        swing = f"± {float(self.amplitude):.4g} of it every {format_duration(self.period_ns)}"
        return f"{super().describe(rps)} {swing}"


@dataclass(frozen=True, kw_only=True)
class TraceArrivals(ArrivalProcess):
    """Arrivals as a file has them. `minute_ns` is how long a minute of the trace lasts here."""

    process: str = key(TEXT, "trace")
    file: str = key(TEXT)
    sha256: str | None = key(TEXT, None)
    row: str | None = key(TEXT, None)
    scale: Fraction = key(FACTOR, Fraction(1))
    minute_ns: int = key(POSITIVE_DURATION, _MINUTE_NS)
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
        """That of the whole trace; one of offsets lasts to the whole second after its last."""
        if self.trace.minute_counts is not None:
            return len(self.trace.minute_counts) * self.minute_ns
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
            return max(rps for rps, _ in self._minutes())
        offsets_ns = self.offsets_ns
        most = first = 0
        for last, offset_ns in enumerate(offsets_ns):
            while offset_ns - offsets_ns[first] >= NS_PER_S:
                first += 1
            most = max(most, last - first + 1)
        return Fraction(most)

    def times(self, _rps: Fraction, duration_ns: int, _seed: int) -> Times:
        """The offsets as they are; minute counts evenly spaced within their minutes."""
        if self.trace.minute_counts is None:
            return Replay(self.offsets_ns, duration_ns)
        return stairs(list(self._minutes()), duration_ns)

    def describe(self, rps: Fraction) -> str:
        """With the file."""
        minute = format_duration(self.minute_ns)
        return f"{super().describe(rps)} from {self.file}, a minute of it in {minute}"

    def _minutes(self) -> Iterator[tuple[Fraction, int]]:
        for count in self.trace.minute_counts or ():
            yield count * self.scale * NS_PER_S / self.minute_ns, self.minute_ns


def arrivals_by_name() -> dict[str, type[ArrivalProcess]]:
    """Every arrival process by its name in the file."""
    return {kind.process: kind for kind in ArrivalProcess.__subclasses__()}


def _read_process(value: Any, cursor: Cursor) -> ArrivalProcess:
    """`arrival: poisson` is short for `arrival: {process: poisson}`."""
    data = {"process": value} if isinstance(value, Scalar) else value
    if not isinstance(data, dict):
        raise ValueError(NO_MAPPING)
    name = cursor.under("process").read(_NAME, data.get("process"))
    return cursor.read(section(arrivals_by_name()[name]), data)


def _name(value: object) -> str:
    known = arrivals_by_name()
    if value is None:
        raise ValueError(f"is missing: one of {', '.join(known)}")
    return one_of(value, known)


_NAME = scalar(_name)
ARRIVAL_PROCESS: Kind[ArrivalProcess] = Kind(
    _read_process, YamlSection.to_json, lambda: (((), kind) for kind in arrivals_by_name().values())
)
