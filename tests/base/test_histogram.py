"""Distributions against the sorted list they stand for."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workload_generator.base.histogram import BEYOND, Histogram, format_us

values = st.lists(st.integers(0, 10**9), max_size=200)
beyonds = st.integers(0, 20)


@given(values, beyonds, st.floats(0, 1))
@example([0] * 8 + [1] * 3, 6, 0.5)
@example([1, 2], 0, 0.51)
def test_quantiles_follow_nearest_rank(times: list[int], beyond: int, q: float) -> None:
    histogram = Histogram()
    histogram.record_all(times, beyond)
    ranked = [*sorted(times), *[BEYOND] * beyond]
    if not ranked:
        assert histogram.quantile_us(q) is None
        return
    expected = ranked[max(1, math.ceil(q * len(ranked) - 1e-9)) - 1]
    assert histogram.quantile_us(q) == pytest.approx(expected, rel=0.001, abs=0)


@given(values, values, beyonds)
def test_merging_is_the_same_as_recording_together(one: list[int], two: list[int], beyond: int) -> None:
    together, left, right = Histogram(), Histogram(), Histogram()
    together.record_all(one + two, beyond)
    left.record_all(one, beyond)
    right.record_all(two)
    left.merge(right)
    for q in (0, 0.5, 0.9, 0.99, 0.999, 1):
        assert left.quantile_us(q) == together.quantile_us(q)
    read_back = Histogram.from_json(left.to_json())
    assert read_back.to_json() == left.to_json()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "—"), (BEYOND, "> 30s"), (1482.0, "1.482 ms"), (2_500_000.0, "2.500 s")]
)
def test_times_for_people(value: float | None, text: str) -> None:
    assert format_us(value, "30s") == text
