"""The verdict, reason by reason."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from workload_generator.base.histogram import Histogram
from workload_generator.base.verdict import LIMITS, Evidence, Strain, judge, stopped_early


def histogram(*values: int) -> Histogram:
    made = Histogram()
    made.record_all(values)
    return made


CALM = Strain(elapsed_ns=10_000_000_000, cpu_ns=4_000_000_000, waited_ns=100_000_000, steal_share=0.001)
GOOD = Evidence(
    mode="open",
    counts={"planned": 1000, "sent": 1000, "ok": 1000, "failed": 0, "dropped": 0},
    lag=histogram(*[50] * 99, 900),
    ttfb=histogram(*[1000] * 100),
    lag_limit_ns=None,
    user_set_max_in_flight=False,
    max_in_flight=500,
    stopped=None,
    length_ns=10_000_000_000,
    strain=CALM,
)


def strained(**changes: Any) -> dict[str, Any]:
    return {"strain": dataclasses.replace(CALM, **changes)}


def test_a_punctual_complete_run_is_valid() -> None:
    verdict = judge(GOOD)
    assert verdict.valid and verdict.word == "valid" and verdict.reasons == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": {"planned": 1000, "sent": 989, "dropped": 11}}, "achieved 98.90%"),
        (
            {"counts": {"planned": 1000, "sent": 995, "dropped": 5}},
            "generator: 5 arrivals were dropped at its own limit of 500",
        ),
        (
            {"counts": {"planned": 1000, "sent": 995, "dropped": 5}, "user_set_max_in_flight": True},
            "target: 5 arrivals were dropped at the experiment's limit of 500",
        ),
        (
            {"overrun_ns": 2_500_000_000},
            "achieved 80.00% of the planned rate (sent 1,000 of 1,000, the last 2.5s after",
        ),
        ({"exhausted": 3}, "no descriptor, port or memory for 3 connections"),
        ({"lag": histogram(*[1500] * 100)}, "lag p99 1.500 ms is above the limit of 1.000 ms"),
        ({"lag": histogram(*[3000] * 100), "lag_limit_ns": 2_000_000}, "above the limit of 2.000 ms"),
        ({"stopped": stopped_early("SIGTERM", 3_000_400_000, 75_000_000_000)}, "stopped by SIGTERM after 3s of 1m15s"),
        ({"counts": {"planned": 0, "sent": 0, "dropped": 0}}, "nothing was sent"),
        ({"late_ns": 3_200_000_000}, "started 3.2s after the start that all shards share"),
        (strained(cpu_ns=9_100_000_000), "the event loop used 91.0% of a core, more than 90%"),
        (strained(throttled_ns=1_200_000_000, throttled_periods=34), "CPU limit for 1.2s in 34 periods"),
        (strained(stalls=3, longest_stall_ns=55_000_000), "stalled 3 times for more than 20ms, at most 55ms"),
        (strained(waited_ns=600_000_000), "waited for a CPU 6.0% of the time, more than 5%"),
        (strained(steal_share=0.07), "the hypervisor took 7.0% of the CPU time, more than 5%"),
        (strained(clock_steps=1, clock_stepped_ns=250_000_400), "the wall clock was set 1 times, by 250ms in all"),
    ],
)
def test_each_fault_is_named_with_its_figure(changes: dict[str, Any], reason: str) -> None:
    verdict = judge(dataclasses.replace(GOOD, **changes))
    assert verdict.word == "invalid"
    assert any(reason in each for each in verdict.reasons), verdict.reasons


def test_a_stall_at_the_end_is_left_to_the_lag() -> None:
    short = dataclasses.replace(GOOD, length_ns=1_000_000_000)
    assert judge(dataclasses.replace(short, overrun_ns=99_000_000)).valid
    assert not judge(dataclasses.replace(short, overrun_ns=101_000_000)).valid
    assert judge(dataclasses.replace(short, overrun_ns=101_000_000, lag_limit_ns=200_000_000)).valid


def test_the_lag_limit_follows_a_slow_target() -> None:
    slow = dataclasses.replace(GOOD, ttfb=histogram(*[100_000] * 100), lag=histogram(*[4_900] * 100))
    assert judge(slow).valid
    assert not judge(dataclasses.replace(slow, lag=histogram(*[5_200] * 100))).valid


BEYOND = {
    "whole": {"late_ns": 3_200_000_000},
    "room": {"exhausted": 3},
    "rate": {"counts": {"planned": 1000, "sent": 900, "dropped": 100}},
    "lag": {"lag": histogram(*[9_000] * 100)},
    "stalls": strained(stalls=1, longest_stall_ns=48_000_000),
    "CPU": strained(cpu_ns=9_900_000_000, waited_ns=5_000_000_000),
    "machine": strained(throttled_ns=1, steal_share=0.1, clock_steps=1),
}


@pytest.mark.parametrize("mode", ["open", "closed", "cold-start"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_binds_the_modes_of_the_table(limit: str, mode: str) -> None:
    verdict = judge(dataclasses.replace(GOOD, mode=mode, **BEYOND[limit]))
    assert verdict.valid is (mode not in LIMITS[limit].modes), verdict.reasons


def test_a_cold_start_run_is_valid_though_the_event_loop_stalled() -> None:
    stalled = strained(stalls=1, longest_stall_ns=48_000_000)
    assert judge(dataclasses.replace(GOOD, mode="cold-start", lag=histogram(*[30] * 9), **stalled)).valid


def test_the_readme_has_the_table_of_limits() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    for limit in LIMITS.values():
        modes = "all" if len(limit.modes) == 3 else ", ".join(limit.modes)
        assert f"| {limit.text} | {modes} | {limit.why} |\n" in readme


@pytest.mark.parametrize("mode", ["closed", "cold-start"])
def test_lag_does_not_count_without_a_schedule(mode: str) -> None:
    assert judge(dataclasses.replace(GOOD, mode=mode, lag=histogram(*[9_000] * 100))).valid


def test_spinning_does_not_count_as_cpu_use_and_the_closed_loop_may_use_its_core() -> None:
    spun = strained(cpu_ns=9_900_000_000, spun_ns=5_000_000_000)
    assert judge(dataclasses.replace(GOOD, **spun)).valid
    busy = strained(cpu_ns=9_900_000_000, waited_ns=5_000_000_000)
    assert judge(dataclasses.replace(GOOD, **busy, mode="closed")).valid
    assert not judge(dataclasses.replace(GOOD, **busy)).valid
    stalled = strained(stalls=1, longest_stall_ns=30_000_000)
    assert not judge(dataclasses.replace(GOOD, **stalled, mode="closed")).valid


def test_unknown_figures_of_the_kernel_do_not_count_against_a_run() -> None:
    unknown = strained(waited_ns=None, steal_share=None, throttled_ns=None, throttled_periods=None)
    assert judge(dataclasses.replace(GOOD, **unknown)).valid


def test_a_run_that_was_stopped_before_its_first_arrival_does_not_blame_itself() -> None:
    strain = Strain(elapsed_ns=600_000, cpu_ns=620_000, waited_ns=500_000, stalls=1, longest_stall_ns=30_000_000)
    stopped = dataclasses.replace(
        GOOD, counts={"planned": 0, "sent": 0, "dropped": 0}, lag=Histogram(), ttfb=Histogram(), strain=strain,
        stopped=stopped_early("SIGINT", 400_000, 60_000_000_000),
    )  # fmt: skip
    assert judge(stopped).reasons == ("stopped by SIGINT after 400µs of 1m",)


def test_a_share_of_a_short_time_is_chance() -> None:
    assert judge(dataclasses.replace(GOOD, strain=Strain(elapsed_ns=50_000_000, cpu_ns=51_000_000))).valid
