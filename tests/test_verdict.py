"""The verdict, reason by reason."""

import dataclasses
from typing import Any

import pytest

from workload_generator.stats import Histogram
from workload_generator.verdict import Evidence, judge, stopped_early


def histogram(*values: int) -> Histogram:
    made = Histogram()
    made.record_all(values)
    return made


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
)


def test_a_punctual_complete_run_is_valid() -> None:
    verdict = judge(GOOD)
    assert verdict.valid and verdict.word == "valid" and verdict.reasons == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": {"planned": 1000, "sent": 989, "dropped": 11}}, "achieved 98.90%"),
        (
            {"counts": {"planned": 1000, "sent": 995, "dropped": 5}},
            "5 arrivals were dropped at the generator's limit of 500",
        ),
        (
            {"counts": {"planned": 1000, "sent": 995, "dropped": 5}, "user_set_max_in_flight": True},
            "at the experiment's limit of 500",
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


@pytest.mark.parametrize("mode", ["closed", "cold-start"])
def test_lag_does_not_judge_what_has_no_schedule(mode: str) -> None:
    assert judge(dataclasses.replace(GOOD, mode=mode, lag=histogram(*[9_000] * 100))).valid
