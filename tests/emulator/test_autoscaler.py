"""The autoscaler, in virtual time."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.clock import NS_PER_S
from workload_generator.emulator.autoscaler import Autoscaler, Bounds, Decision, Meter
from workload_generator.emulator.settings import Settings


def settings(**values: Any) -> Settings:
    return replace(Settings(), **values)


class Simulation:
    """A service whose instances are ready at once: samples each second, decisions every two."""

    def __init__(self, **values: object) -> None:
        self.settings = settings(**values)
        self.autoscaler = Autoscaler(self.settings)
        self.bounds = Bounds(self.settings)
        self.now_s = 0
        self.scale = self.bounds.within(max(1, self.settings.initial_scale))
        self.decision: Decision | None = None

    def run(self, seconds: int, concurrency: float) -> list[int]:
        """The scale after each second."""
        scales = []
        for _ in range(seconds):
            self.now_s += 1
            self.autoscaler.record(concurrency)
            if self.now_s % 2 == 0:
                now_ns = self.now_s * NS_PER_S
                self.decision = self.autoscaler.decide(now_ns, self.scale)
                assert self.decision is not None
                self.scale = self.bounds.apply(now_ns, self.decision.desired, self.scale, 0)
            scales.append(self.scale)
        return scales


@pytest.mark.parametrize(
    ("values", "total", "target"),
    [
        ({}, 100, 70),
        ({"container_concurrency": 10}, 10, 7),
        ({"container_concurrency": 1}, 1, 0.7),
        ({"target": 20}, 20, 14),
        ({"target": 20, "container_concurrency": 10}, 10, 7),
        ({"target": 5, "container_concurrency": 10}, 5, 3.5),
        ({"container_concurrency_target_percentage": 100}, 100, 100),
        ({"container_concurrency_target_percentage": 1, "container_concurrency": 1}, 1, 0.01),
    ],
)
def test_the_target_is_knatives(values: dict[str, object], total: float, target: float) -> None:
    autoscaler = Autoscaler(settings(**values))
    assert (autoscaler.total, autoscaler.target) == (total, pytest.approx(target))


def test_without_a_sample_there_is_no_decision() -> None:
    assert Autoscaler(settings()).decide(0, 1) is None


def test_a_steady_load_gets_its_share_of_the_target() -> None:
    simulation = Simulation()
    assert simulation.run(30, 141)[-1] == 3
    assert simulation.decision is not None and simulation.decision.excess_burst == math.floor(3 * 100 - 200 - 141)


def test_a_burst_starts_panic_mode_which_never_scales_down() -> None:
    simulation = Simulation()
    simulation.run(10, 10)
    assert not simulation.autoscaler.panicking
    assert max(simulation.run(2, 700)) == 10, "by the panic window of one second"
    assert simulation.autoscaler.panicking
    scales = simulation.run(9, 70)
    assert scales == sorted(scales) and simulation.autoscaler.panicking, "the burst is in the stable window"
    assert simulation.run(20, 70)[-1] == 1
    assert not simulation.autoscaler.panicking


def test_a_new_panic_does_not_keep_the_scale_of_the_last_one() -> None:
    simulation = Simulation()
    simulation.run(2, 700)
    assert simulation.run(80, 70)[-1] == 1 and not simulation.autoscaler.panicking
    assert max(simulation.run(2, 210)) == 3 and simulation.autoscaler.panicking


def test_panic_mode_needs_twice_the_capacity() -> None:
    simulation = Simulation()
    simulation.run(10, 69)
    simulation.run(2, 70)
    assert not simulation.autoscaler.panicking
    simulation.run(2, 71)
    assert simulation.autoscaler.panicking, "two instances wanted by the short window, one is ready"


def test_scale_up_and_scale_down_rates_limit_each_change() -> None:
    simulation = Simulation(max_scale_up_rate=2, max_scale_down_rate=2)
    ups = simulation.run(8, 7000)[1::2]
    assert ups == [2, 4, 8, 16]
    simulation.run(10, 7000)
    downs = [scale for scale, _ in itertools.groupby(simulation.run(40, 0))]
    assert all(after >= before // 2 for before, after in itertools.pairwise(downs[:-1]))
    assert downs[-1] == 0


def test_min_scale_max_scale_and_initial_scale_are_kept() -> None:
    assert max(Simulation(max_scale=4).run(20, 7000)) == 4
    assert min(Simulation(min_scale=2).run(60, 0)) == 2
    assert Simulation(min_scale=2).scale == 2
    assert Simulation(initial_scale=3).scale == 3
    limited = Simulation(initial_scale=3, max_scale=2)
    assert limited.scale == 2 and limited.run(120, 0)[-1] == 0, (
        "an initial scale above max-scale is reached at max-scale"
    )


def test_the_stable_window_restarts_with_each_activity() -> None:
    bounds = Bounds(settings(stable_window_ns=6 * NS_PER_S, scale_to_zero_grace_period_ns=4 * NS_PER_S))
    wanted = {0: 1, 10: 0, 14: 0, 20: 1, 22: 0, 26: 0, 30: 0}
    scales = {at: bounds.apply(at * NS_PER_S, desired, 1, 0) for at, desired in wanted.items()}
    assert scales == {0: 1, 10: 1, 14: 0, 20: 1, 22: 1, 26: 1, 30: 0}


def test_zero_comes_after_the_stable_window_and_the_grace_period() -> None:
    simulation = Simulation(stable_window_ns=6 * NS_PER_S, scale_to_zero_grace_period_ns=4 * NS_PER_S)
    simulation.run(10, 1)
    scales = simulation.run(30, 0)
    assert scales.index(0) + 1 == 6 + 4
    assert set(scales[scales.index(0) :]) == {0}


def test_a_request_restarts_the_grace_period() -> None:
    simulation = Simulation(stable_window_ns=6 * NS_PER_S, scale_to_zero_grace_period_ns=10 * NS_PER_S)
    simulation.run(10, 1)
    assert simulation.run(12, 0)[-1] == 1
    simulation.run(2, 0.5)
    assert simulation.run(14, 0)[-1] == 1
    assert simulation.run(4, 0)[-1] == 0


def test_an_instance_stays_for_a_stable_window_after_activity() -> None:
    bounds = Bounds(settings(initial_scale=0, stable_window_ns=6 * NS_PER_S))
    assert bounds.apply(0, 0, 1, 0) == 1
    assert bounds.apply(5 * NS_PER_S, 0, 1, 0) == 1
    assert bounds.apply(6 * NS_PER_S, 0, 1, 0) == 0


def test_one_start_in_progress_completes() -> None:
    bounds = Bounds(settings(initial_scale=0))
    assert bounds.apply(60 * NS_PER_S, 0, 0, 3) == 1
    assert bounds.apply(60 * NS_PER_S, 0, 0, 0) == 0


def test_initial_scale_is_kept_until_it_is_reached() -> None:
    bounds = Bounds(settings(initial_scale=3))
    assert bounds.apply(0, 1, 2, 1) == 3
    assert bounds.apply(1, 1, 3, 0) == 1
    assert bounds.apply(2, 1, 2, 0) == 1


def test_forget_drops_samples_and_panic() -> None:
    autoscaler = Autoscaler(settings())
    for _ in range(10):
        autoscaler.record(1000)
    assert autoscaler.decide(0, 1) is not None and autoscaler.panicking
    autoscaler.forget()
    assert autoscaler.decide(1, 0) is None and not autoscaler.panicking
    autoscaler.record(1)
    decision = autoscaler.decide(2, 0)
    assert decision is not None and decision.desired == 1


@pytest.mark.parametrize(("capacity", "excess"), [(-1, -1), (0, 0), (200, 500 - 200 - 30), (1000, 500 - 1000 - 30)])
def test_excess_burst_capacity(capacity: int, excess: int) -> None:
    autoscaler = Autoscaler(settings(target_burst_capacity=capacity))
    autoscaler.record(30)
    decision = autoscaler.decide(0, 5)
    assert decision is not None and decision.excess_burst == excess


@given(
    loads=st.lists(st.floats(0, 5000), min_size=1, max_size=120),
    low=st.integers(0, 5),
    room=st.integers(0, 20),
    concurrency=st.integers(0, 50),
)
def test_any_load_stays_within_the_bounds_and_ends_at_the_lower_one(
    loads: list[float], low: int, room: int, concurrency: int
) -> None:
    high = low + room
    simulation = Simulation(min_scale=low, max_scale=high, container_concurrency=concurrency)
    for load in loads:
        (scale,) = simulation.run(1, load)
        assert low <= scale and (not high or scale <= high)
    assert simulation.run(60, 0)[-1] == low


@given(loads=st.lists(st.floats(0, 5000), min_size=2, max_size=60))
def test_without_rate_limits_the_scale_is_that_of_one_of_the_windows(loads: list[float]) -> None:
    autoscaler = Autoscaler(settings(max_scale_up_rate=10**9, max_scale_down_rate=10**9))
    for load in loads:
        autoscaler.record(load)
    decision = autoscaler.decide(0, 1)
    assert decision is not None
    wanted = [math.ceil(decision.stable / 70), math.ceil(decision.panic / 70)]
    assert decision.desired == (max(wanted) if decision.panicking else wanted[0])
    assert decision.stable == pytest.approx(sum(loads[-10:]) / len(loads[-10:]))
    assert decision.panic == loads[-1]


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(-3, 5)), max_size=50), st.integers(1, 10**9))
def test_the_meter_averages_by_time(changes: list[tuple[int, int]], rest_ns: int) -> None:
    meter, now_ns, count, area = Meter(0), 0, 0, 0
    for step_ns, change in changes:
        area += count * step_ns
        now_ns += step_ns
        count += change
        meter.add(change, now_ns)
    area += count * rest_ns
    now_ns += rest_ns
    assert meter.take(now_ns) == pytest.approx(area / now_ns)
    assert meter.take(now_ns + 10) == count == meter.value
