"""The verdict: whether a run measured the system or the generator.

A run is `valid` unless it is beyond one of the `LIMITS` that bind its mode; each reason has its figure. A run that sent
nothing strained nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from workload_generator.base.clock import NS_PER_MS, NS_PER_US, format_duration
from workload_generator.base.histogram import BEYOND, Histogram

_ACHIEVED_SHARE = 0.99
STALL_NS = 20 * NS_PER_MS
"""An event loop that takes longer than this for one turn has stalled."""

_SHORT_OVERRUN_NS = 100 * NS_PER_MS  # a shorter one is a stall at the end, which counts as lag
_CPU_SHARE = 0.9
_WAITED_SHARE = 0.05
_STEAL_SHARE = 0.05
_SHORTEST_NS = 100 * NS_PER_MS  # a share of a shorter time is chance
_LEAST_LAG_LIMIT_US = 1000.0
_LAG_SHARE_OF_TTFB = 0.05


class Limit(NamedTuple):
    """What must hold, the modes of runs for which it must, and why not for the others, or why for all."""

    text: str
    modes: tuple[str, ...]
    why: str


_OPEN, _CLOSED, _COLD = "open", "closed", "cold-start"
LIMITS = {
    "whole": Limit(
        "the run was not stopped, sent something, and did not miss the common start of its shards",
        (_OPEN, _CLOSED, _COLD),
        "its figures would be those of another run than the planned one",
    ),
    "room": Limit(
        "there were file descriptors and ports for all connections",
        (_OPEN, _CLOSED, _COLD),
        "a connection that this machine refuses says nothing about the target",
    ),
    "rate": Limit(
        "at least 99 % of the planned rate was achieved, and no arrival was dropped",
        (_OPEN,),
        "the closed loop has no plan; a cold-start round waits for zero instances as long as that takes, and drops "
        "a target that does not reach it",
    ),
    "lag": Limit(
        "the p99 of the lag was at most `limits.lag` (default: 1 ms or 5 % of the median TTFB, whichever is larger)",
        (_OPEN,),
        "without a schedule nothing is late: the TTFB of a cold start counts from its send",
    ),
    "stalls": Limit(
        "the event loop did not stall for more than 20 ms",
        (_OPEN, _CLOSED),
        "in a cold-start round one request at a time is due: a stall moves its send, from which TTFB counts, or the "
        "reading of its first byte, which the kernel has stamped",
    ),
    "CPU": Limit(
        "the event loop used at most 90 % of a core, spinning excluded, and waited for a CPU at most 5 % of the time",
        (_OPEN, _COLD),
        "the closed loop uses all the CPU time that it can get",
    ),
    "machine": Limit(
        "the cgroup throttled no CPU time, the hypervisor took at most 5 % of it, and the wall clock was not set",
        (_OPEN, _CLOSED, _COLD),
        "functions on the same machine slow down too, and the kernel's stamps are of the wall clock",
    ),
}
"""README.md has this table."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`valid`, or `invalid` with the reasons."""

    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether there is no reason against the run."""
        return not self.reasons

    @property
    def word(self) -> str:
        """`valid` or `invalid`, as in log and database."""
        return "valid" if self.valid else "invalid"


@dataclass(frozen=True, slots=True)
class Strain:
    """The strain on the event loop and its machine while arrivals were sent. None is unknown.

    `cpu_ns` is the CPU time of the loop, `spun_ns` the part spent waiting for deadlines; `stalls` counts turns of the
    loop longer than `STALL_NS`; `waited_ns` is the time without a CPU while ready to run; `steal_share` is the
    hypervisor's share of the CPU time; `clock_stepped_ns` is the sum of the steps of the wall clock.
    """

    elapsed_ns: int
    cpu_ns: int
    spun_ns: int = 0
    stalls: int = 0
    longest_stall_ns: int = 0
    throttled_periods: int | None = None
    throttled_ns: int | None = None
    waited_ns: int | None = None
    steal_share: float | None = None
    clock_steps: int = 0
    clock_stepped_ns: int = 0

    @property
    def cpu_share(self) -> float:
        """The share of one core that the loop used, without spinning."""
        return self._share(self.cpu_ns - self.spun_ns)

    @property
    def waited_share(self) -> float:
        """The share of the time for which the loop waited for a CPU."""
        return self._share(self.waited_ns or 0)

    def _share(self, part_ns: int) -> float:
        return part_ns / self.elapsed_ns if self.elapsed_ns >= _SHORTEST_NS else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for a verdict: counts and distributions of the measure phase, and how the run ended.

    `mode` is `open`, `closed` or `cold-start`; `lag_limit_ns` is the limit of the experiment, None for the default;
    `stopped` is why the run ended early, or None; `length_ns` is the planned length of the measure phase, `overrun_ns`
    the time from its end to the last start; `exhausted` counts connections that failed for lack of a descriptor, port
    or memory of this machine; `late_ns` is the delay of a shard behind the common start.
    """

    mode: str
    counts: Mapping[str, Any]
    lag: Histogram
    ttfb: Histogram
    lag_limit_ns: int | None
    user_set_max_in_flight: bool
    max_in_flight: int
    stopped: str | None
    length_ns: int
    strain: Strain
    overrun_ns: int = 0
    exhausted: int = 0
    late_ns: int = 0


def judge(evidence: Evidence) -> Verdict:
    """The verdict on one run, with all reasons."""
    return Verdict(tuple(reason for limit, reason in _found(evidence) if evidence.mode in LIMITS[limit].modes))


def _found(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """Each limit that the run is beyond, and the reason with its figure."""
    sent, dropped, planned = (evidence.counts[word] for word in ("sent", "dropped", "planned"))
    if evidence.stopped is not None:
        yield "whole", evidence.stopped
    elif not sent:
        yield "whole", "nothing was sent in the measure phase"
    if evidence.late_ns:
        yield "whole", f"started {_rounded(evidence.late_ns)} after the start that all shards share"
    if evidence.exhausted:
        yield "room", f"this machine had no descriptor, port or memory for {evidence.exhausted:,} connections"
    lag_limit_us = _lag_limit_us(evidence)
    late_ns = evidence.overrun_ns if evidence.overrun_ns > max(_SHORT_OVERRUN_NS, lag_limit_us * NS_PER_US) else 0
    share = sent / planned * evidence.length_ns / (evidence.length_ns + late_ns) if planned else 1.0
    if share < _ACHIEVED_SHARE:
        after = f", the last {_rounded(late_ns)} after the planned end" if late_ns else ""
        yield "rate", f"achieved {share:.2%} of the planned rate (sent {sent:,} of {planned:,}{after})"
    if dropped:
        who, whose = ("target", "the experiment's") if evidence.user_set_max_in_flight else ("generator", "its own")
        cap = evidence.max_in_flight
        yield "rate", f"{who}: {dropped:,} arrivals were dropped at {whose} limit of {cap:,} requests in flight"
    lag_p99 = evidence.lag.quantile_us(0.99)
    if lag_p99 is not None and lag_p99 > lag_limit_us:
        yield "lag", f"lag p99 {lag_p99 / 1000:.3f} ms is above the limit of {lag_limit_us / 1000:.3f} ms"
    if sent:
        yield from _strains(evidence.strain)


def _strains(strain: Strain) -> Iterator[tuple[str, str]]:
    if strain.cpu_share > _CPU_SHARE:
        yield "CPU", f"the event loop used {strain.cpu_share:.1%} of a core, more than {_CPU_SHARE:.0%}"
    if strain.throttled_ns:
        periods = f" in {strain.throttled_periods:,} periods" if strain.throttled_periods else ""
        yield "machine", f"throttled by its cgroup's CPU limit for {_rounded(strain.throttled_ns)}{periods}"
    if strain.stalls:
        most = f"more than {_rounded(STALL_NS)}, at most {_rounded(strain.longest_stall_ns)}"
        yield "stalls", f"the event loop stalled {strain.stalls:,} times for {most}"
    if strain.waited_share > _WAITED_SHARE:
        share = f"{strain.waited_share:.1%} of the time, more than {_WAITED_SHARE:.0%}"
        yield "CPU", f"the event loop waited for a CPU {share}"
    if strain.steal_share is not None and strain.steal_share > _STEAL_SHARE:
        share = f"{strain.steal_share:.1%} of the CPU time, more than {_STEAL_SHARE:.0%}"
        yield "machine", f"the hypervisor took {share}"
    if strain.clock_steps:
        by = format_duration(round(strain.clock_stepped_ns / NS_PER_US) * NS_PER_US)
        yield "machine", f"the wall clock was set {strain.clock_steps:,} times, by {by} in all"


def _lag_limit_us(evidence: Evidence) -> float:
    if evidence.lag_limit_ns is not None:
        return evidence.lag_limit_ns / 1000
    median = evidence.ttfb.quantile_us(0.5)
    if median is None or median == BEYOND:
        return _LEAST_LAG_LIMIT_US
    return max(_LEAST_LAG_LIMIT_US, _LAG_SHARE_OF_TTFB * median)


def stopped_early(signal_name: str, elapsed_ns: int, planned_ns: int) -> str:
    """The reason of a run that a signal stopped."""
    return f"stopped by {signal_name} after {_rounded(elapsed_ns)} of {_rounded(planned_ns)}"


def _rounded(ns: int) -> str:
    unit = NS_PER_MS if ns >= NS_PER_MS else NS_PER_US
    return format_duration(round(ns / unit) * unit)
