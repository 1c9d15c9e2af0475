"""Schedules: exact, seeded, the same in shards as in one piece; and the two modes that have none."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import islice, pairwise, takewhile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.errors import ExperimentError, UsageError
from workload_generator.experiment.curves import PoissonTimes, Replay, line, poisson, sine, stairs
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.model import Experiment
from workload_generator.experiment.schedule import (
    ColdStartRounds,
    Schedule,
    TargetPicker,
    closed_loop_connections,
    cold_start_rounds,
    describe_cold_start,
    make_schedule,
)
from workload_generator.experiment.trace import read_trace
from workload_generator.log.records import Arrival, Phase

Make = Callable[..., Experiment]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """An experiment from the lines under `rate` and the targets' weights."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "offsets.csv").write_text("offset\n0\n0.25\n0.25\n3.000000001\n59\n61.5\n")
    (folder / "minutes.csv").write_text("app,function,1,2,3,4\nx,f,3,0,7,2\nx,g,1,1,0,1\ny,h,100,0,0,0\n")

    def make_one(rate: str, weights: tuple[int, ...] = (1,), extra: str = "") -> Experiment:
        path = folder / "it.yaml"
        targets = "".join(f"  - {{url: 'http://t{i}', weight: {weight}}}\n" for i, weight in enumerate(weights))
        path.write_text(f"targets:\n{targets}rate: {{{rate}}}\n{extra}")
        return load_experiment(path)

    return make_one


def dues(schedule: Schedule) -> list[int]:
    return [arrival.due_ns for arrival in schedule.arrivals()]


# Every process

seconds = st.integers(1, 90)
rates = st.decimals(min_value="0.01", max_value=60, places=2)


@st.composite
def rate_texts(draw: st.DrawFn) -> str:
    """Every arrival process, with and without a ramp before it."""
    duration = f"duration: {format_duration(draw(st.integers(10**8, 90 * NS_PER_S)))}"
    rps = draw(rates)
    ramp = draw(st.sampled_from(["", ", rampUp: 3s", ", rampUp: 1.234567891s"])) if rps > 1 else ""
    plain = f"requestsPerSecond: {rps}, {duration}{ramp}"
    steps = [
        f"{{requestsPerSecond: {draw(rates)}, duration: {draw(seconds)}s}}" for _ in range(draw(st.integers(1, 4)))
    ]
    minute = format_duration(draw(st.integers(10**9, 60 * NS_PER_S)))
    return draw(
        st.sampled_from(
            [
                plain,
                f"arrival: poisson, {plain}",
                f"arrival: {{process: ramp, from: {draw(rates)}, to: {draw(rates)}}}, {duration}",
                f"arrival: {{process: ramp, from: 0, to: {draw(rates)}}}, {duration}",
                f"arrival: {{process: ramp, from: {draw(rates)}, to: 0}}, {duration}",
                f"arrival: {{process: steps, steps: [{', '.join(steps)}]}}",
                f"arrival: {{process: sine, amplitude: 0.3, period: {draw(seconds)}s}}, {plain}",
                f"arrival: {{process: sine, amplitude: 1, period: {draw(seconds)}.5s}}, {plain}",
                f"arrival: {{process: trace, file: offsets.csv, minute: {minute}}}",
                f"arrival: {{process: trace, file: offsets.csv}}, {duration}",
                f"arrival: {{process: trace, file: minutes.csv, minute: {minute}, scale: 0.7}}",
                f"arrival: {{process: trace, file: minutes.csv, minute: {minute}, row: x}}, {duration}",
            ]
        )
    )


weights_of_targets = st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any).map(tuple)


@given(rate=rate_texts(), weights=weights_of_targets, seed=st.integers(0, 2**63 - 1), shards=st.integers(1, 7))
def test_all_shards_together_are_the_schedule(
    make: Make, rate: str, weights: tuple[int, ...], seed: int, shards: int
) -> None:
    experiment = make(rate, weights)
    whole = make_schedule(experiment, seed)
    arrivals = list(whole.arrivals())
    parts = [make_schedule(experiment, seed, (index, shards)) for index in range(shards)]
    for index, part in enumerate(parts):
        own = list(part.arrivals())
        assert [arrival.seq % shards for arrival in own] == [index] * len(own)
        assert part.planned == len(own)
        assert part.planned_measured == sum(arrival.phase is Phase.MEASURE for arrival in own)
    assert sorted(arrival for part in parts for arrival in part.arrivals()) == arrivals


@given(rate=rate_texts(), weights=weights_of_targets, seed=st.integers(0, 2**63 - 1))
def test_a_schedule_has_its_properties(make: Make, rate: str, weights: tuple[int, ...], seed: int) -> None:
    experiment = make(rate, weights)
    schedule = make_schedule(experiment, seed)
    arrivals = list(schedule.arrivals())
    ramp = [arrival for arrival in arrivals if arrival.phase is Phase.RAMP]
    measured = arrivals[len(ramp) :]
    assert [arrival.seq for arrival in arrivals] == list(range(len(arrivals)))
    assert all(earlier.due_ns <= later.due_ns for earlier, later in pairwise(arrivals))
    assert all(0 <= arrival.due_ns < schedule.measure_start_ns for arrival in ramp)
    assert all(schedule.measure_start_ns <= arrival.due_ns < schedule.end_ns for arrival in measured)
    assert all(arrival.phase is Phase.MEASURE for arrival in measured)
    assert (schedule.planned, schedule.planned_measured) == (len(arrivals), len(measured))
    assert schedule.end_ns == schedule.measure_start_ns + experiment.rate.duration_ns
    later = list(schedule.arrivals(later_ns=5))
    assert later == [arrival._replace(due_ns=arrival.due_ns + 5) for arrival in arrivals]
    picked = TargetPicker(experiment, seed)
    everything = Counter(arrival.target for arrival in arrivals)
    assert picked.counts(len(arrivals)) == [everything[index] for index in range(len(weights))]
    assert len(schedule.describe()) >= 2 + len(weights)


@given(rate=rate_texts(), seed=st.integers(0, 2**63 - 1))
def test_random_values_depend_only_on_the_seed(make: Make, rate: str, seed: int) -> None:
    experiment = make(rate, (1, 2))
    one, same, other = (list(make_schedule(experiment, this).arrivals()) for this in (seed, seed, seed + 1))
    assert one == same
    times, others = ([a.due_ns for a in arrivals if a.phase is Phase.MEASURE] for arrivals in (one, other))
    if "poisson" in rate:
        assume(len(times) > 3)
    assert (times != others) == ("poisson" in rate)


# The constant rate and its ramp


@pytest.mark.parametrize(
    ("rps", "duration", "count", "some"),
    [
        ("1000", "10m", 600_000, {0: 0, 1: 1_000_000, 599_999: 599_999_000_000}),
        ("3", "1s", 3, {1: 333_333_333, 2: 666_666_666}),
        ("0.016", "20m", 20, {1: 62_500_000_000, 19: 1_187_500_000_000}),
        ("0.05", "3m", 9, {8: 160_000_000_000}),
        ("2.5", "1s", 3, {2: 800_000_000}),
        ("7", "1h", 25_200, {25_199: 25_199 * NS_PER_S // 7}),
        ("1000000000", "1µs", 1000, {999: 999}),
        ("0.001", "1ns", 1, {0: 0}),
    ],
)
def test_a_constant_rate_is_exact(make: Make, rps: str, duration: str, count: int, some: dict[int, int]) -> None:
    schedule = make_schedule(make(f"requestsPerSecond: {rps}, duration: {duration}, rampUp: 0s"), 1)
    times = dues(schedule)
    assert (len(times), schedule.planned) == (count, count)
    assert {index: times[index] for index in some} == some


def test_the_ramp_leads_from_one_to_the_rate_in_a_straight_line(make: Make) -> None:
    schedule = make_schedule(make("requestsPerSecond: 1000, duration: 1s"), 1)
    ramp = [arrival.due_ns / NS_PER_S for arrival in schedule.arrivals() if arrival.phase is Phase.RAMP]
    assert len(ramp) == math.ceil((1 + 1000) / 2 * 15)
    assert schedule.measure_start_ns == 15 * NS_PER_S
    for index, due_s in enumerate(ramp):
        planned = due_s + 999 * due_s**2 / 30  # the integral of 1 + 999 t / 15
        assert planned == pytest.approx(index, abs=1e-4)
    per_second = Counter(int(due_s) for due_s in ramp)
    assert [per_second[second] for second in (0, 7, 14)] == pytest.approx([34.3, 500.5, 966.7], abs=1.5)


@given(
    from_rps=st.fractions(0, 500, max_denominator=1000),
    to_rps=st.fractions(0, 500, max_denominator=1000),
    length_ns=st.integers(1, 10 * NS_PER_S),
)
@example(from_rps=Fraction(5), to_rps=Fraction(4), length_ns=NS_PER_S)  # here every rounding shows
@example(from_rps=Fraction(4), to_rps=Fraction(5), length_ns=NS_PER_S)
def test_a_line_is_the_exact_inverse_of_its_integral(from_rps: Fraction, to_rps: Fraction, length_ns: int) -> None:
    curve = line(from_rps, to_rps, length_ns)

    def planned(at_ns: int) -> Fraction:
        return (from_rps + (to_rps - from_rps) * Fraction(at_ns, 2 * length_ns)) * at_ns / NS_PER_S

    times = list(curve.due(0, 1, 0))
    assert curve.count == len(times) == math.ceil(planned(length_ns))
    for index, due_ns in enumerate(times):  # due_ns is the floor of the time at which `planned` reaches the index
        assert planned(due_ns) <= index
        assert index < planned(due_ns + 1) or due_ns + 1 > length_ns


def test_each_step_continues_the_previous_one() -> None:
    curve = stairs([(Fraction(5, 2), NS_PER_S), (Fraction(0), NS_PER_S), (Fraction(10), NS_PER_S)], 3 * NS_PER_S)
    # 2.5 arrivals in the first second: the third is due at its 0.8 s, the fourth half an arrival into the third second.
    assert list(curve.due(0, 1, 0))[:5] == [0, 400_000_000, 800_000_000, 2_050_000_000, 2_150_000_000]
    assert curve.count == 13


@given(
    mean_rps=st.fractions(1, 300, max_denominator=100),
    amplitude=st.sampled_from([Fraction(1, 10), Fraction(1, 2), Fraction(1)]),
    period_s=st.integers(1, 20),
)
def test_a_sine_keeps_to_its_formula(mean_rps: Fraction, amplitude: Fraction, period_s: int) -> None:
    length_ns = 3 * period_s * NS_PER_S
    curve = sine(mean_rps, amplitude, period_s * NS_PER_S, length_ns)
    # Three whole periods have the mean's arrivals; rounded sines and edges may cost a hair.
    assert abs(curve.count - mean_rps * 3 * period_s) < 1.001
    omega = 2 * math.pi / period_s
    for index, due_ns in enumerate(curve.due(0, 1, 0)):
        at_s = due_ns / NS_PER_S
        planned = float(mean_rps) * (at_s + float(amplitude) / omega * (1 - math.cos(omega * at_s)))
        assert planned == pytest.approx(index, abs=1e-3 + 2e-4 * float(mean_rps * amplitude) / omega)


@given(mean_rps=st.fractions(1, 5000, max_denominator=10), length_ns=st.integers(1, 5 * NS_PER_S))
@example(mean_rps=Fraction(100_000), length_ns=4_003_906_250)  # cut in the middle of a piece that falls steeply
def test_a_curve_that_is_cut_is_the_beginning_of_the_whole(mean_rps: Fraction, length_ns: int) -> None:
    cut, whole = (sine(mean_rps, Fraction(1), 2 * NS_PER_S, length) for length in (length_ns, 6 * NS_PER_S))
    assert list(cut.due(0, 1, 0)) == list(takewhile(length_ns.__gt__, whole.due(0, 1, 0)))


# Chance


def test_poisson_gaps_are_exponential(make: Make) -> None:
    experiment = make("arrival: poisson, requestsPerSecond: 1000, duration: 30s")
    times = dues(make_schedule(experiment, 42))
    gaps = sorted((later - earlier) / NS_PER_S for earlier, later in pairwise(times))
    assert statistics.fmean(gaps) == pytest.approx(0.001, rel=0.02)
    # Kolmogorov and Smirnov's distance from the exponential distribution; 1.95/√n has a chance of 0.1 %.
    distance = max(abs(index / len(gaps) - (1 - math.exp(-1000 * gap))) for index, gap in enumerate(gaps))
    assert distance < 1.95 / math.sqrt(len(gaps))


def test_poisson_times_are_uniform_also_when_they_are_few() -> None:
    times = sorted(due for seed in range(2000) for due in PoissonTimes(Fraction(2), NS_PER_S, f"{seed}").due(0, 1, 0))
    assert len(times) == pytest.approx(4000, abs=4 * math.sqrt(4000))
    distance = max(abs(index / len(times) - due_ns / NS_PER_S) for index, due_ns in enumerate(times))
    assert distance < 1.95 / math.sqrt(len(times))  # as above


@pytest.mark.parametrize("mean", [0.3, 4.0, 9.99, 10.0, 55.5, 1000.0])
def test_poisson_numbers_have_their_mean_and_variance(mean: float) -> None:
    stream = Random(f"poisson {mean}")
    numbers = [poisson(stream, mean) for _ in range(20_000)]
    assert statistics.fmean(numbers) == pytest.approx(mean, abs=4 * math.sqrt(mean / len(numbers)))
    assert statistics.variance(numbers) == pytest.approx(mean, rel=0.05)
    seen, here = Counter(numbers), round(mean)
    expected = math.exp(here * math.log(mean) - mean - math.lgamma(here + 1)) * len(numbers)
    assert seen[here] == pytest.approx(expected, abs=4 * math.sqrt(expected))


def test_numbers_of_poisson_arrivals_vary_with_the_seed(make: Make) -> None:
    experiment = make("arrival: poisson, requestsPerSecond: 100, duration: 10s")
    planned = [make_schedule(experiment, seed).planned for seed in range(200)]
    assert statistics.fmean(planned) == pytest.approx(1000, abs=10)
    assert statistics.stdev(planned) == pytest.approx(math.sqrt(1000), rel=0.25)


# Targets


@given(weights=weights_of_targets, seed=st.integers(0, 2**63 - 1), blocks=st.integers(1, 30))
def test_each_block_gives_every_target_its_share(make: Make, weights: tuple[int, ...], seed: int, blocks: int) -> None:
    size = sum(weights)
    picks = list(
        islice(TargetPicker(make("requestsPerSecond: 1, duration: 1s", weights), seed).indexes(), blocks * size)
    )
    for block in range(blocks):
        assert [picks[block * size : (block + 1) * size].count(index) for index in range(len(weights))] == list(weights)


def test_no_shard_always_gets_the_same_target(make: Make) -> None:
    experiment = make("requestsPerSecond: 50, duration: 100s", (1, 1))
    for shard in (0, 1):
        targets = Counter(arrival.target for arrival in make_schedule(experiment, 3, (shard, 2)).arrivals())
        assert min(targets.values()) > 1000


@given(arrivals=st.integers(0, 30_000), weights=st.sampled_from([(1,), (0, 3), (1, 2), (5, 1, 1), (3000, 2000)]))
def test_targets_can_be_counted_without_walking_to_them(make: Make, arrivals: int, weights: tuple[int, ...]) -> None:
    picker = TargetPicker(make("requestsPerSecond: 1, duration: 1s", weights), 9)
    walked = Counter(islice(picker.indexes(), arrivals))
    assert picker.counts(arrivals) == [walked[index] for index in range(len(weights))]


# Traces


def test_a_trace_of_offsets_is_replayed(make: Make) -> None:
    experiment = make("arrival: {process: trace, file: offsets.csv}")
    assert dues(make_schedule(experiment, 1)) == [
        0,
        250_000_000,
        250_000_000,
        3_000_000_001,
        59 * NS_PER_S,
        61_500_000_000,
    ]
    assert (experiment.rate.duration_ns, experiment.rate.arrival.peak_rps()) == (62 * NS_PER_S, 3)
    twice_as_fast = make("arrival: {process: trace, file: offsets.csv, minute: 30s}, duration: 29.5s")
    assert dues(make_schedule(twice_as_fast, 1)) == [0, 125_000_000, 125_000_000, 1_500_000_000]


def test_minute_counts_are_spread_evenly_over_their_minute(make: Make) -> None:
    experiment = make("arrival: {process: trace, file: minutes.csv, row: f}")
    times = dues(make_schedule(experiment, 1))
    assert times[:4] == [0, 20 * NS_PER_S, 40 * NS_PER_S, 120 * NS_PER_S]
    assert Counter(due_ns // (60 * NS_PER_S) for due_ns in times) == {0: 3, 2: 7, 3: 2}
    assert experiment.rate.duration_ns == 240 * NS_PER_S


@pytest.mark.parametrize("minute", ["1s", "7s", "1m", "59.999999999s"])
@pytest.mark.parametrize(
    ("row", "scale", "counts"),
    [
        ("", 1, [104, 1, 7, 3]),
        (", row: x", 1, [4, 1, 7, 3]),
        (", row: x", 10, [40, 10, 70, 30]),
        (", row: h", "0.5", [50, 0, 0, 0]),
    ],
)
def test_minutes_have_exactly_their_counts(make: Make, minute: str, row: str, scale: object, counts: list[int]) -> None:
    experiment = make(f"arrival: {{process: trace, file: minutes.csv, minute: {minute}, scale: {scale}{row}}}")
    minute_ns = experiment.rate.duration_ns // 4
    seen = Counter(due_ns // minute_ns for due_ns in dues(make_schedule(experiment, 1)))
    assert [seen[minute] for minute in range(4)] == counts


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("1\nx\n-2\n3,4\n1e3\n", ["2: 'x'", "3: '-2'", "4: '3,4'", "5: '1e3'"]),
        ("offset\n", ["has no arrivals"]),
        ("", ["is empty"]),
        ("\n\n", ["is empty"]),
        (
            "name,1,2\na,x,3\nb,1\nc,1.5,-1\n",
            ["2: minute 1: 'x'", "3: has 2 cells", "4: minute 1: '1.5'", "4: minute 2"],
        ),
        (
            "name,1,2\na,0.5,-1.0\nb,1e3,nan\n",
            ["2: minute 1: '0.5'", "2: minute 2", "3: minute 1: '1e3'", "3: minute 2"],
        ),
        (",name,1,2\n0,a,0.5,1\n", ["2: minute 1: '0.5'"]),
        ("name,1,3\na,1,1\n", ["1: the first line"]),
        ("name,count\na,1\n", ["1: the first line"]),
        ("name,1,2\na,0,0\n", ["has no arrivals"]),
        ("name,1,2\n", ["has no rows"]),
        ('name,1,2\n"a"b,0,0\n', ["2: not CSV"]),
        ("1\n\xff\n", ["2: byte 0xff is not UTF-8"]),
    ],
)
def test_every_bad_cell_of_a_trace_is_reported(tmp_path: Path, text: str, problems: list[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ExperimentError) as caught:
        read_trace(path, None)
    lines = str(caught.value).splitlines()
    assert len(lines) == len(problems)
    for line_text, problem in zip(lines, problems, strict=True):
        assert problem in line_text.removeprefix(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "HashOwner,Trigger,1,2,3\no,http,40,0,12\n",
        "HashOwner,Trigger,1,2,3\r\no,http,40,0,12",
        '"HashOwner","Trigger","1","2","3"\n"o","http","40","0","12"\n',
        "HashOwner,Trigger,1,2,3\no,http,40.0,0.0,12.\n",
        "HashOwner,Trigger,1,2,3\no,http,40.0,,12.0\n",
        ",HashOwner,Trigger,1,2,3\n0,o,http,30,,\n1,p,http,10.0,,12\n",
        "HashOwner,Trigger,1,2,3\n,,,,\no,,40,0,12\n,,,,\n",
    ],
)
def test_minute_counts_may_come_from_pandas_or_a_spreadsheet(tmp_path: Path, text: str) -> None:
    (tmp_path / "counts.csv").write_bytes(text.encode())
    assert read_trace(tmp_path / "counts.csv", None).minute_counts == (40, 0, 12)


@pytest.mark.parametrize(
    "text", ["0.00001\n2.0\n", "offset\n1e-05\n2.0\n", ",0\r\n0,1E-05\r\n1,2.0\r\n", ',"offset"\n"a",2\n"b",1e-5\n']
)
def test_offsets_may_come_from_pandas(tmp_path: Path, text: str) -> None:
    (tmp_path / "offsets.csv").write_bytes(text.encode())
    assert read_trace(tmp_path / "offsets.csv", None).offsets_ns == (10_000, 2_000_000_000)


def test_a_trace_may_have_blank_lines_quotes_and_any_order(tmp_path: Path) -> None:
    path = tmp_path / "good.csv"
    path.write_bytes(b'\xef\xbb\xbf"offset"\r\n2.5\r\n\r\n "1"\r\n.000000001\r\n')
    assert read_trace(path, None).offsets_ns == (1, 1_000_000_000, 2_500_000_000)


def test_a_replay_ends_before_its_length() -> None:
    assert list(Replay([0, 5, 9, 10], 10).due(0, 2, 100)) == [100, 109]


# Cold-start rounds

S = NS_PER_S


@pytest.mark.parametrize(
    ("start_s", "end_s", "gap_s", "next_s", "missed"),
    [
        (0, 10, 7, 100, 0),  # in time: the grid
        (0, 93, 7, 100, 0),  # the gap just fits
        (0, 94, 7, 101, 0),  # it does not: a gap later, in the place of the next round
        (0, 150, 7, 157, 0),
        (0, 195, 7, 202, 1),  # it takes the place of round 2; round 1 is missed
        (0, 193, 7, 200, 1),
        (0, 620, 7, 627, 5),
        (202, 210, 7, 300, 0),  # a late round's successor is back on the grid
        (300, 560, 0, 560, 1),
        (900, 950, 7, None, 0),  # the tenth was the last
        (800, 990, 7, 997, 0),
        (800, 995, 7, None, 1),  # the tenth is missed: it would start after the end
        (800, 993, 7, None, 1),  # at the end is too late as well
        (0, 5000, 7, None, 9),
    ],
)
def test_the_next_round(start_s: int, end_s: int, gap_s: int, next_s: int | None, missed: int) -> None:
    rounds = ColdStartRounds(Fraction(1, 100), 1000 * S, (0,))
    assert rounds.count == 10
    expected = (None if next_s is None else next_s * S, missed)
    assert rounds.next_start(start_s * S, end_s * S, gap_s * S) == expected


@given(
    rps=st.fractions("0.001", 5, max_denominator=1000),
    duration_ns=st.integers(1, 10**12),
    gap_ns=st.integers(0, 10**10),
    lengths=st.lists(st.integers(0, 10**11), min_size=1, max_size=50),
)
def test_every_round_is_made_or_missed(rps: Fraction, duration_ns: int, gap_ns: int, lengths: list[int]) -> None:
    rounds = ColdStartRounds(rps, duration_ns, (0,))
    start_ns, made, missed = 0, 1, 0
    for length_ns in lengths:
        end_ns = start_ns + length_ns
        following_ns, skipped = rounds.next_start(start_ns, end_ns, gap_ns)
        missed += skipped
        if following_ns is None:
            assert made + missed == rounds.count
            return
        assert following_ns >= end_ns + gap_ns
        assert following_ns < duration_ns
        made, start_ns = made + 1, following_ns
    assert made + missed <= rounds.count


def test_cold_start_rounds_come_from_the_experiment(make: Make) -> None:
    experiment = make("requestsPerSecond: 0.016, duration: 20m", (1, 0, 3), "coldStart: {gap: 2s}\n")
    rounds = cold_start_rounds(experiment)
    assert (rounds.count, rounds.targets, rounds.period_ns) == (20, (0, 2), 62.5e9)
    assert [rounds.start_ns(index) for index in (0, 1, 19)] == [0, 62_500_000_000, 1_187_500_000_000]
    assert "every 1m2.5s for 20m, 20 rounds" in describe_cold_start(experiment, rounds, 1)[0]
    assert "2 of 3 targets in the file's order, 2s apart" in describe_cold_start(experiment, rounds, 1)[1]


@pytest.mark.parametrize(
    ("rate", "shard", "message"),
    [
        ("requestsPerSecond: 0, duration: 1m", (0, 1), "must be above 0"),
        ("requestsPerSecond: 1, duration: 1m", (0, 2), "cannot be split"),
        ("requestsPerSecond: 1, arrival: poisson, duration: 1m", (0, 1), "need constant arrivals"),
        ("arrival: {process: trace, file: offsets.csv}", (0, 1), "has arrival: trace"),
    ],
)
def test_invalid_cold_start_experiments(make: Make, rate: str, shard: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cold_start_rounds(make(rate), shard)


# The closed loop


def test_the_closed_loop_shares_its_connections(make: Make) -> None:
    experiment = make("requestsPerSecond: 0, duration: 1m, connections: 10")
    assert experiment.rate.closed_loop
    assert [closed_loop_connections(experiment, (index, 4)) for index in range(4)] == [3, 3, 2, 2]
    assert closed_loop_connections(experiment) == 10
    with pytest.raises(UsageError, match="10 connections are too few for 11 shards"):
        closed_loop_connections(experiment, (0, 11))
    with pytest.raises(UsageError, match="closed loop"):
        make_schedule(experiment, 1)


# For people, and the cost


def test_a_schedule_describes_itself(make: Make) -> None:
    experiment = make("requestsPerSecond: 1000, duration: 10m", (1, 2))
    lines = make_schedule(experiment, 1, (1, 2)).describe()
    assert lines[:6] == [
        "arrivals: constant, 1000 requests/s",
        "ramp: from 1 to 1000 requests/s in 15s, 7,508 arrivals, not measured",
        "measure: 10m, 600,000 arrivals",
        "  target 0, weight 1: 200,001 arrivals http://t0",
        "  target 1, weight 2: 399,999 arrivals http://t1",
        "shard 1 of 2: 303,754 arrivals",
    ]
    assert lines[6].startswith("  seq 1 at 158.926")


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        ("arrival: {process: ramp, from: 0.5, to: 20}, duration: 1m", "arrivals: ramp, 0.5 to 20 requests/s"),
        (
            "arrival: {process: steps, steps: [{requestsPerSecond: 2, duration: 1m}]}",
            "arrivals: steps, up to 2 requests/s (2 for 1m)",
        ),
        (
            "arrival: {process: sine, amplitude: 0.5, period: 2m}, requestsPerSecond: 10, duration: 4m",
            "arrivals: sine, 10 requests/s ± 0.5 of it every 2m",
        ),
        (
            "arrival: {process: trace, file: minutes.csv, minute: 6s}",
            "arrivals: trace, up to 17.33333333 requests/s from minutes.csv, a minute of it in 6s",
        ),
    ],
)
def test_processes_describe_themselves(make: Make, rate: str, text: str) -> None:
    assert make_schedule(make(rate), 1).describe()[0] == text


def test_arrivals_are_made_when_they_are_asked_for_and_cheaply(make: Make) -> None:
    schedule = make_schedule(make("requestsPerSecond: 20000, duration: 100h, rampUp: 0s"), 1)
    assert schedule.planned == 20_000 * 360_000
    assert next(schedule.arrivals()) == Arrival(0, Phase.MEASURE, 0, 0)
    before = time.process_time()
    taken: Any = None
    for taken in islice(schedule.arrivals(), 100_000):  # noqa: B007
        pass
    assert taken == Arrival(99_999, Phase.MEASURE, 0, 99_999 * 50_000)
    assert (time.process_time() - before) / 100_000 < 10e-6  # about 0.4 µs; the rest is for busy machines


def test_a_rare_sine_is_as_exact_as_a_frequent_one() -> None:
    rare = sine(Fraction(1, 1000), Fraction(1), NS_PER_S, 10_000 * NS_PER_S)
    assert list(rare.due(0, 1, 5)) == [k * 1000 * NS_PER_S + 5 for k in range(10)]
    assert list(rare.due(1, 3, 0)) == [k * 1000 * NS_PER_S for k in (1, 4, 7)]
