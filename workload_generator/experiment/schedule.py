"""The schedule: which request is due when, made before any of them is sent.

Rules:
- pure and seeded: experiment, seed and shard determine every arrival. Targets and times draw from streams of their own
- lazy: an arrival is made when it is asked for
- shard i of n holds the arrivals with seq % n == i; all shards together are the schedule without shards
- cold-start rounds and the closed loop have no such schedule: when the next request starts depends on the one before
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count, islice, repeat
from random import Random

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import UsageError
from workload_generator.experiment.arrival_processes import ConstantArrivals
from workload_generator.experiment.curves import Replay, Times, line
from workload_generator.experiment.model import INTERVAL, RANDOM, Experiment
from workload_generator.log.records import Arrival, Phase

Shard = tuple[int, int]
"""Part i of n: (i, n)."""

WHOLE: Shard = (0, 1)

_DRAWN_WITH_ONE_SEED = 4096
_FIRST_SHOWN = 5

_SETTLE_NS = NS_PER_S
_MAX_WAIT_NS = 300 * NS_PER_S  # Knative's stable window, its grace period, and a pod's own, more than once


class TargetPicker:
    """Which target each arrival goes to: in each block of Σweights, every target has exactly its share.

    The order inside of a block is shuffled. A stream of random numbers serves some thousand arrivals and is then
    replaced by one that follows from the seed and the position, so that any position can be reached without the ones
    before it.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._weights = [target.weight for target in experiment.targets]
        self._block = [index for index, weight in enumerate(self._weights) for _ in range(weight)]
        self._blocks_in_group = max(1, _DRAWN_WITH_ONE_SEED // len(self._block))
        self._seed = seed

    def __iter__(self) -> Iterator[int]:
        """Indexes of targets, without end."""
        return self.indexes()

    def indexes(self, first: int = 0, step: int = 1) -> Iterator[int]:
        """The targets of the arrivals `first`, `first + step`, …, without end."""
        chosen = set(self._block)
        if len(chosen) == 1:
            return repeat(self._block[0])
        return islice(self._from_group(0), first, None, step)

    def counts(self, arrivals: int) -> list[int]:
        """How many of the first `arrivals` go to each target."""
        in_group = self._blocks_in_group * len(self._block)
        group, rest = divmod(arrivals, in_group)
        counts = [group * self._blocks_in_group * weight for weight in self._weights]
        for index in islice(self._from_group(group), rest):
            counts[index] += 1
        return counts

    def _from_group(self, first: int) -> Iterator[int]:
        # The Fisher-Yates shuffle, a step for each arrival: a large block must not hold up the schedule. Only
        # random() is sure to draw the same in every version of Python:
        # https://docs.python.org/3/library/random.html#notes-on-reproducibility
        block, size = self._block, len(self._block)
        for group in count(first):
            random = Random(f"{self._seed} targets {group}").random
            for _ in range(self._blocks_in_group):
                left = block.copy()
                for position in range(size):
                    chosen = position + int(random() * (size - position))
                    target = left[chosen]
                    left[chosen] = left[position]
                    yield target


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every arrival of an open-loop run, or of one shard of it. Times count from the run's start."""

    experiment: Experiment
    shard: Shard
    picker: TargetPicker
    ramp: Times
    measure: Times

    @property
    def measure_start_ns(self) -> int:
        """Where the ramp ends and the measured time begins."""
        return self.experiment.rate.ramp_up_ns

    @property
    def end_ns(self) -> int:
        """Where the measured time ends; every arrival is due before."""
        return self.measure_start_ns + self.experiment.rate.duration_ns

    @property
    def planned(self) -> int:
        """How many arrivals this shard has."""
        return len(self._ramp_seqs) + len(self._measure_seqs)

    @property
    def planned_measured(self) -> int:
        """How many of them are measured."""
        return len(self._measure_seqs)

    def arrivals(self, later_ns: int = 0) -> Iterator[Arrival]:
        """The arrivals in the order of their times, each `later_ns` later than planned. Every call starts anew."""
        index, shards = self.shard
        targets = self.picker.indexes(index, shards)
        ramp, measure = self._ramp_seqs, self._measure_seqs
        ramp_due = self.ramp.due(ramp.start, shards, later_ns)
        measure_due = self.measure.due(measure.start - self.ramp.count, shards, later_ns + self.measure_start_ns)
        # The sequence numbers come first: when they end, map() has not yet taken a target that the next phase needs.
        return chain(
            map(Arrival, ramp, repeat(Phase.RAMP), targets, ramp_due),
            map(Arrival, measure, repeat(Phase.MEASURE), targets, measure_due),
        )

    def describe(self) -> list[str]:
        """The schedule for people, a line each."""
        rate = self.experiment.rate
        lines = [f"arrivals: {rate.arrivals_text}"]
        if rate.ramp_up_ns:
            lines.append(
                f"ramp: from 1 to {float(rate.start_rps):.10g} requests/s in {format_duration(rate.ramp_up_ns)}, "
                f"{_arrivals_text(self.ramp.count)}, not measured"
            )
        lines.append(f"measure: {format_duration(rate.duration_ns)}, {_arrivals_text(self.measure.count)}")
        before = self.picker.counts(self.ramp.count)
        until = self.picker.counts(self.ramp.count + self.measure.count)
        for index, target in enumerate(self.experiment.targets):
            share = _arrivals_text(until[index] - before[index])
            lines.append(f"  target {index}, weight {target.weight}: {share} {target.url}".rstrip())
        if self.shard != WHOLE:
            lines.append(f"shard {self.shard[0]} of {self.shard[1]}: {_arrivals_text(self.planned)}")
        for arrival in islice(self.arrivals(), _FIRST_SHOWN):
            due = format_duration(arrival.due_ns)
            lines.append(f"  seq {arrival.seq} at {due}: {arrival.phase.label}, target {arrival.target}")
        return lines

    @property
    def _ramp_seqs(self) -> range:
        return range(self.shard[0], self.ramp.count, self.shard[1])

    @property
    def _measure_seqs(self) -> range:
        index, shards = self.shard
        first = self.ramp.count + (index - self.ramp.count) % shards
        return range(first, self.ramp.count + self.measure.count, shards)


def make_schedule(experiment: Experiment, seed: int, shard: Shard = WHOLE) -> Schedule:
    """The open-loop schedule of `experiment`. Raises UsageError for the closed loop, which has none."""
    rate = experiment.rate
    if rate.closed_loop:
        raise UsageError("requestsPerSecond 0 is the closed loop: it has no schedule")
    _check(shard)
    ramp = line(Fraction(1), max(rate.start_rps, Fraction(1)), rate.ramp_up_ns) if rate.ramp_up_ns else _NOTHING
    return Schedule(experiment, shard, TargetPicker(experiment, seed), ramp, rate.measured_times(seed))


_NOTHING = Replay((), 0)


def _arrivals_text(number: int) -> str:
    return f"{number:,} arrival{'' if number == 1 else 's'}"


def _check(shard: Shard) -> None:
    index, shards = shard
    if not 0 <= index < shards:
        raise UsageError(f"shard {index}/{shards}: the first is 0, the last {shards - 1}")


# The two without a schedule


@dataclass(frozen=True, slots=True)
class ColdStartRounds:
    """Rounds on a grid of 1/rps seconds; each visits `targets`, one after the other."""

    rps: Fraction
    duration_ns: int
    targets: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many rounds are planned: grid points before the end."""
        return math.ceil(self.rps * self.duration_ns / NS_PER_S)

    @property
    def period_ns(self) -> float:
        """Time between two grid points, for people."""
        return float(NS_PER_S / self.rps)

    def start_ns(self, round_index: int) -> int:
        """When round `round_index` (from 0) is due."""
        return int(round_index * NS_PER_S / self.rps)

    def next_start(self, start_ns: int, end_ns: int, gap_ns: int) -> tuple[int | None, int]:
        """When the round after one that ran from `start_ns` to `end_ns` starts, and how many are missed before it.

        It starts at the next grid point, when a gap fits in before that. Otherwise it starts after the gap, in the
        place of the latest grid point that has then passed; those between are missed. None when none is left.
        """
        following = self._latest(start_ns) + 1
        ready_ns = end_ns + gap_ns
        index = max(following, self._latest(ready_ns))
        begin_ns = max(ready_ns, self.start_ns(index))
        if following >= self.count or begin_ns >= self.duration_ns:
            return None, max(0, self.count - following)
        return begin_ns, index - following

    def _latest(self, at_ns: int) -> int:
        """The last round that is due at `at_ns` or before: the largest k with ⌊k × period⌋ ≤ at_ns."""
        return math.ceil((at_ns + 1) * self.rps / NS_PER_S) - 1


def cold_start_rounds(experiment: Experiment, shard: Shard = WHOLE) -> ColdStartRounds:
    """The rounds of a cold-start run: targets in the file's order, without those of weight 0. Raises UsageError."""
    rate = experiment.rate
    if shard[1] != 1:
        raise UsageError("cold-start rounds cannot be shared: run one process, without shards")
    if not isinstance(rate.arrival, ConstantArrivals):
        raise UsageError(
            f"cold-start rounds need a constant rate; this experiment's arrivals are {rate.arrival.process}"
        )
    if not rate.requests_per_second:
        raise UsageError("cold-start rounds come every 1/rps seconds: requestsPerSecond must be above 0")
    targets = tuple(index for index, target in enumerate(experiment.targets) if target.weight)
    return ColdStartRounds(rate.requests_per_second, rate.duration_ns, targets)


def describe_cold_start(experiment: Experiment, rounds: ColdStartRounds, seed: int) -> list[str]:
    """The rounds for people, a line each."""
    period, own = format_duration(round(rounds.period_ns)), experiment.cold_start
    number = f"{rounds.count:,} round{'' if rounds.count == 1 else 's'}"
    settle_ns, max_wait_ns = cold_start_waits(experiment)
    order = "random" if own.order == RANDOM and own.wait != INTERVAL else "the file's"
    lines = [
        f"cold starts: a round every {period} for {format_duration(rounds.duration_ns)}, {number}",
        f"in a round: {len(rounds.targets)} of {len(experiment.targets)} targets in {order} order, "
        f"{format_duration(own.gap_ns)} apart",
        f"in all: at most {rounds.count * len(rounds.targets):,} requests; rounds that others outlast are missed",
    ]
    if own.wait != INTERVAL:
        lines.append(
            f"where instances can be seen: each request once its target has been at zero for "
            f"{format_duration(settle_ns)}, or not at all after {format_duration(max_wait_ns)}; {number} one after "
            f"the other, none begun after {format_duration(rounds.duration_ns)}"
        )
        if own.burst is not None and own.burst > 1:
            lines.append(
                f"at zero: a burst of {own.burst:,} requests in the place of one; without a sight of zero, one"
            )
        for index, targets in enumerate(islice(cold_start_orders(experiment, rounds, seed), _FIRST_SHOWN)):
            lines.append(f"  round {index}: targets {', '.join(map(str, targets))}")
    return lines


def cold_start_orders(experiment: Experiment, rounds: ColdStartRounds, seed: int) -> Iterator[list[int]]:
    """The targets of each round, as `coldStart.order` says; the seed makes the same ones again."""
    for number in range(rounds.count):
        order = list(rounds.targets)
        if experiment.cold_start.order == RANDOM:
            draw = Random(f"{seed} round {number}").random
            order = [target for _, target in sorted((draw(), target) for target in order)]
        yield order


def cold_start_waits(experiment: Experiment) -> tuple[int, int]:
    """How long zero has to last, and how long to wait for it, in ns."""
    own = experiment.cold_start
    settle_ns = _SETTLE_NS if own.settle_ns is None else own.settle_ns
    return settle_ns, _MAX_WAIT_NS if own.max_wait_ns is None else own.max_wait_ns


def closed_loop_connections(experiment: Experiment, shard: Shard = WHOLE) -> int:
    """How many connections a shard of the closed loop keeps busy. Raises UsageError when there is none for it."""
    _check(shard)
    index, shards = shard
    connections = experiment.rate.connections
    if connections < shards:
        raise UsageError(f"{connections} connections cannot be shared among {shards} shards: raise rate.connections")
    return connections // shards + (index < connections % shards)
