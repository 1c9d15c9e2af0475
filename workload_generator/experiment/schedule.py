"""The schedule: the due time and the target of every arrival, independent of responses.

Rules:
- experiment, seed and shard determine every arrival; targets and times use separate streams of random numbers
- arrivals are created lazily
- shard i of n has the arrivals with seq % n == i; all shards together have the arrivals of the schedule without shards
- cold-start rounds and the closed loop have no schedule: the start of a request depends on the previous one
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
"""Shard i of n: (i, n), with 0 ≤ i < n."""

WHOLE: Shard = (0, 1)

_DRAWN_WITH_ONE_SEED = 4096
_FIRST_SHOWN = 5

_SETTLE_NS = NS_PER_S
_MAX_WAIT_NS = 300 * NS_PER_S  # several times Knative's stable window and grace period, and a pod's


class TargetPicker:
    """The target of each arrival. In each block of Σweights arrivals, every target has exactly its share.

    The order within a block is shuffled. Every few thousand arrivals a new stream of random numbers starts, seeded by
    the seed and the position, so that any position can be reached without the ones before it.
    """

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._weights = [target.weight for target in experiment.targets]
        self._block = [index for index, weight in enumerate(self._weights) for _ in range(weight)]
        self._blocks_in_group = max(1, _DRAWN_WITH_ONE_SEED // len(self._block))
        self._seed = seed

    def indexes(self, first: int = 0, step: int = 1) -> Iterator[int]:
        """The targets of the arrivals `first`, `first + step`, …, endless."""
        chosen = set(self._block)
        if len(chosen) == 1:
            return repeat(self._block[0])
        return islice(self._from_group(0), first, None, step)

    def counts(self, arrivals: int) -> list[int]:
        """The number of each target's arrivals among the first `arrivals`."""
        in_group = self._blocks_in_group * len(self._block)
        group, rest = divmod(arrivals, in_group)
        counts = [group * self._blocks_in_group * weight for weight in self._weights]
        for index in islice(self._from_group(group), rest):
            counts[index] += 1
        return counts

    def _from_group(self, first: int) -> Iterator[int]:
        # A Fisher-Yates shuffle, one step per arrival, so that a large block does not delay the schedule. Only random()
        # is guaranteed to give the same numbers in every version of Python:
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
    """The arrivals of an open-loop run, or of one of its shards. Times count from the start of the run."""

    experiment: Experiment
    shard: Shard
    picker: TargetPicker
    ramp: Times
    measure: Times

    @property
    def measure_start_ns(self) -> int:
        """The end of the ramp and start of the measured time."""
        return self.experiment.rate.ramp_up_ns

    @property
    def end_ns(self) -> int:
        """The end of the measured time; every arrival is due before it."""
        return self.measure_start_ns + self.experiment.rate.duration_ns

    @property
    def planned(self) -> int:
        """The number of arrivals of this shard."""
        return len(self._ramp_seqs) + len(self._measure_seqs)

    @property
    def planned_measured(self) -> int:
        """The number of measured arrivals of this shard."""
        return len(self._measure_seqs)

    def arrivals(self, later_ns: int = 0) -> Iterator[Arrival]:
        """The arrivals in the order of their times, each plus `later_ns`. Every call starts at the first one."""
        index, shards = self.shard
        targets = self.picker.indexes(index, shards)
        ramp, measure = self._ramp_seqs, self._measure_seqs
        ramp_due = self.ramp.due(ramp.start, shards, later_ns)
        measure_due = self.measure.due(measure.start - self.ramp.count, shards, later_ns + self.measure_start_ns)
        # seq is the first argument of map(): when it ends, map() has not yet consumed a target of the next phase.
        return chain(
            map(Arrival, ramp, repeat(Phase.RAMP), targets, ramp_due),
            map(Arrival, measure, repeat(Phase.MEASURE), targets, measure_due),
        )

    def describe(self) -> list[str]:
        """The schedule for people, in lines."""
        rate = self.experiment.rate
        lines = [f"arrivals: {rate.arrival.describe()}"]
        if rate.ramp_up_ns:
            top, time = float(rate.arrival.start_rps()), format_duration(rate.ramp_up_ns)
            share = _arrivals_text(self.ramp.count)
            lines.append(f"ramp: from 1 to {top:.10g} requests/s in {time}, {share}, not measured")
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
    """The schedule of an open-loop experiment. Raises UsageError for the closed loop."""
    rate = experiment.rate
    if rate.closed_loop:
        raise UsageError("the closed loop (requestsPerSecond 0) has no schedule")
    start_rps = max(rate.arrival.start_rps(), Fraction(1))
    ramp = line(Fraction(1), start_rps, rate.ramp_up_ns) if rate.ramp_up_ns else Replay((), 0)
    measure = rate.arrival.times(rate.duration_ns, seed)
    return Schedule(experiment, shard, TargetPicker(experiment, seed), ramp, measure)


def _arrivals_text(number: int) -> str:
    return f"{number:,} arrival{'' if number == 1 else 's'}"


# Modes without a schedule


@dataclass(frozen=True, slots=True)
class ColdStartRounds:
    """Rounds on a grid of 1/rps seconds. Each sends one request to each of `targets`, one after the other."""

    rps: Fraction
    duration_ns: int
    targets: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of planned rounds: the grid points before the end."""
        return math.ceil(self.rps * self.duration_ns / NS_PER_S)

    @property
    def period_ns(self) -> float:
        """The time between two grid points, for people."""
        return float(NS_PER_S / self.rps)

    def start_ns(self, round_index: int) -> int:
        """The due time of round `round_index`, from 0."""
        return int(round_index * NS_PER_S / self.rps)

    def next_start(self, start_ns: int, end_ns: int, gap_ns: int) -> tuple[int | None, int]:
        """The start of the round after one from `start_ns` to `end_ns`, and the number of rounds missed before it.

        It starts at the next grid point if that leaves time for the gap. Otherwise it starts after the gap, instead of
        the latest grid point before that; the rounds between are missed. The start is None if no round is left.
        """
        following = self._latest(start_ns) + 1
        ready_ns = end_ns + gap_ns
        index = max(following, self._latest(ready_ns))
        begin_ns = max(ready_ns, self.start_ns(index))
        if following >= self.count or begin_ns >= self.duration_ns:
            return None, max(0, self.count - following)
        return begin_ns, index - following

    def _latest(self, at_ns: int) -> int:
        """The last round due until `at_ns`: the largest k with ⌊k × period⌋ ≤ at_ns."""
        return math.ceil((at_ns + 1) * self.rps / NS_PER_S) - 1


def cold_start_rounds(experiment: Experiment, shard: Shard = WHOLE) -> ColdStartRounds:
    """The rounds of a cold-start run, with the targets of the file except those of weight 0. Raises UsageError."""
    rate = experiment.rate
    if shard[1] != 1:
        raise UsageError("cold-start rounds cannot be split into shards: use one process")
    if not isinstance(rate.arrival, ConstantArrivals):
        raise UsageError(
            f"cold-start rounds need constant arrivals; this experiment has arrival: {rate.arrival.process}"
        )
    if not rate.requests_per_second:
        raise UsageError("cold-start rounds start every 1/rps seconds: requestsPerSecond must be above 0")
    targets = tuple(index for index, target in enumerate(experiment.targets) if target.weight)
    return ColdStartRounds(rate.requests_per_second, rate.duration_ns, targets)


def describe_cold_start(experiment: Experiment, rounds: ColdStartRounds, seed: int) -> list[str]:
    """The rounds for people, in lines."""
    period, own = format_duration(round(rounds.period_ns)), experiment.cold_start
    number = f"{rounds.count:,} round{'' if rounds.count == 1 else 's'}"
    settle_ns, max_wait_ns = cold_start_waits(experiment)
    order = "random" if own.order == RANDOM and own.wait != INTERVAL else "the file's"
    lines = [
        f"cold starts: a round every {period} for {format_duration(rounds.duration_ns)}, {number}",
        f"in a round: {len(rounds.targets)} of {len(experiment.targets)} targets in {order} order, "
        f"{format_duration(own.gap_ns)} apart",
        f"in all: at most {rounds.count * len(rounds.targets):,} requests; a round is missed if others take too long",
    ]
    if own.wait != INTERVAL:
        lines.append(
            f"if instances can be observed: a request starts when its target has been at zero for "
            f"{format_duration(settle_ns)}, and is skipped after {format_duration(max_wait_ns)}; {number} in sequence, "
            f"none starts after {format_duration(rounds.duration_ns)}"
        )
        if own.burst is not None and own.burst > 1:
            lines.append(
                f"at zero: a burst of {own.burst:,} requests instead of one; one if instances cannot be observed"
            )
        for index, targets in enumerate(islice(cold_start_orders(experiment, rounds, seed), _FIRST_SHOWN)):
            lines.append(f"  round {index}: targets {', '.join(map(str, targets))}")
    return lines


def cold_start_orders(experiment: Experiment, rounds: ColdStartRounds, seed: int) -> Iterator[list[int]]:
    """The targets of each round in the order of `coldStart.order`; the same for the same seed."""
    for number in range(rounds.count):
        order = list(rounds.targets)
        if experiment.cold_start.order == RANDOM:
            draw = Random(f"{seed} round {number}").random
            order = [target for _, target in sorted((draw(), target) for target in order)]
        yield order


def cold_start_waits(experiment: Experiment) -> tuple[int, int]:
    """How long a target has to be at zero, and how long to wait for it, in nanoseconds."""
    own = experiment.cold_start
    settle_ns = _SETTLE_NS if own.settle_ns is None else own.settle_ns
    return settle_ns, _MAX_WAIT_NS if own.max_wait_ns is None else own.max_wait_ns


def closed_loop_connections(experiment: Experiment, shard: Shard = WHOLE) -> int:
    """The number of connections of a shard in the closed loop. Raises UsageError if there is none."""
    index, shards = shard
    connections = experiment.rate.connections
    if connections < shards:
        raise UsageError(f"{connections} connections are too few for {shards} shards: raise rate.connections")
    return connections // shards + (index < connections % shards)
