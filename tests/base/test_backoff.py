"""Delays double up to the cap; jitter shortens them."""

from __future__ import annotations

import itertools

import pytest

from workload_generator.base.backoff import Backoff


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (Backoff(0.1, 5), [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]),
        (Backoff(2, 1), [1, 1]),
    ],
)
def test_delays_grow_up_to_the_cap(backoff: Backoff, delays: list[float]) -> None:
    assert list(itertools.islice(backoff.delays(), len(delays))) == pytest.approx(delays)
    assert [backoff.delay_s(retry) for retry in range(len(delays))] == pytest.approx(delays)


def test_any_number_of_retries_has_a_delay() -> None:
    assert Backoff(1, 60).delay_s(1_000_000) == 60


def test_jitter_shortens_within_its_part() -> None:
    plain, backoff = Backoff(0.1, 5), Backoff(0.1, 5, jitter=0.5)
    drawn = list(itertools.islice(backoff.delays(), 500))
    assert all(delay / 2 <= each <= delay for each, delay in zip(drawn, plain.delays(), strict=False))
    assert min(drawn[10:]) < 2.6 and max(drawn[10:]) > 4.9
