"""Quantiles, intervals and tests against NumPy, SciPy, a published table and known results."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from workload_generator.results.report import intervals
from workload_generator.results.report.intervals import (
    Interval,
    difference,
    false_discovery,
    kruskal_wallis,
    over_runs,
    pair_level,
    pairs_that_differ,
    quantile_intervals,
    quantiles,
    ranks_around,
)

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 1.0)
HEAVY = np.sort(np.random.default_rng(1).pareto(1.1, 20_011) + 1)  # without a variance


@pytest.mark.parametrize("values", [HEAVY, HEAVY[:1], HEAVY[:10], np.sort(np.round(HEAVY))], ids=len)
def test_quantiles_are_numpys_nearest_ranks(values: np.ndarray) -> None:
    expected = np.quantile(values, SHARES, method="inverted_cdf")
    assert quantiles(values, 0, SHARES).tolist() == expected.tolist()


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(0, 60))
def test_arrivals_without_a_value_rank_above_all_others(values: list[int], beyond: int) -> None:
    found = quantiles(np.sort(np.array(values, dtype=np.int64)), beyond, SHARES)
    if not values and not beyond:
        assert np.isnan(found).all()
        return
    whole = np.array([*values, *[math.inf] * beyond])
    assert found.tolist() == np.quantile(whole, SHARES, method="inverted_cdf").tolist()


@pytest.mark.parametrize(
    ("n", "ranks"),
    # J.-Y. Le Boudec, Performance Evaluation (2010), table A.1: confidence intervals of the median, 95 %
    [(6, (1, 6)), (7, (1, 7)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (12, (3, 10)), (20, (6, 15)), (50, (18, 33))],
)
def test_ranks_of_the_median_as_published(n: int, ranks: tuple[int, int]) -> None:
    j, k, reached = ranks_around(n, 0.5)
    assert (j, k) == ranks
    assert reached >= 0.95


@pytest.mark.parametrize("n", [10, 100, 1000, 123_456, 10_000_000])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_coverage_is_scipys_binomial(n: int, q: float) -> None:
    j, k, reached = ranks_around(n, q)
    binomial = scipy.stats.binom(n, q)
    assert binomial.cdf(j - 1) <= 0.025 < binomial.cdf(j)
    assert binomial.cdf(k - 2) < 0.975 <= binomial.cdf(k - 1) + 1e-12
    assert reached == pytest.approx(binomial.cdf(k - 1) - binomial.cdf(j - 1), abs=1e-9)


def test_intervals_of_quantiles_are_scipys() -> None:
    values = HEAVY[::10]
    for q in (0.5, 0.9, 0.99):
        (ours,) = quantile_intervals(values, 0, (q,))
        theirs = scipy.stats.quantile_test(values, p=q).confidence_interval(0.95)
        assert ours.low == theirs.low
        assert ours.high in (theirs.high, values[np.searchsorted(values, theirs.high) - 1])


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32))
def test_intervals_cover_the_true_quantile_with_their_confidence(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = scipy.stats.pareto(1.5).ppf(0.9)
    hits = 0
    for _ in range(400):
        (found,) = quantile_intervals(np.sort(draw.pareto(1.5, 300) + 1), 0, (0.9,))
        hits += found.low <= truth <= found.high
    assert hits / 400 > 0.91  # 0.95, less four standard errors


@pytest.mark.parametrize(("runs", "confidence"), [(2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375), (6, 0.96875)])
def test_few_runs_have_their_range_and_its_confidence(runs: int, confidence: float) -> None:
    assert over_runs([float(n) for n in range(runs)]) == Interval(0, runs - 1, confidence)


def test_one_run_has_no_interval_over_runs() -> None:
    assert over_runs([1.0]) is None


def test_an_interval_over_runs_may_reach_beyond_the_timeout() -> None:
    found = over_runs([3.0, 1.0, math.inf, 2.0, math.inf, 4.0, 5.0])
    assert found is not None
    assert (found.low, found.high) == (1.0, math.inf)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (5, 5), (7, 4), (12, 20), (40, 33)])
def test_differences_are_scipys_mann_whitney(sizes: tuple[int, int]) -> None:
    draw = np.random.default_rng(sum(sizes))
    a, b = draw.pareto(1.2, sizes[0]) + 1, draw.pareto(1.2, sizes[1]) + 1.5
    ours, theirs = difference(a, b), scipy.stats.mannwhitneyu(b, a, method="exact")
    assert ours.p == pytest.approx(min(1.0, theirs.pvalue), rel=1e-6)
    assert ours.superiority == pytest.approx(theirs.statistic / (sizes[0] * sizes[1]))


def test_the_interval_of_a_ratio_leaves_one_out_just_when_the_test_does() -> None:
    draw = np.random.default_rng(2)
    for _ in range(200):
        a, b = draw.lognormal(0, 0.2, 6), draw.lognormal(0.2, 0.2, 7)
        found = difference(a, b)
        assert found.interval.confidence >= 0.95
        assert (found.interval.low > 1 or found.interval.high < 1) == (found.p <= 0.05)


def test_a_known_ratio() -> None:
    found = difference([1, 2, 4, 8], [3, 6, 12, 24])
    assert found.estimate == pytest.approx(3)
    assert found.superiority == pytest.approx(13 / 16)


def test_infinite_values_are_equal_to_each_other_and_above_all_others() -> None:
    assert difference([math.inf] * 5, [math.inf] * 5).p == 1
    found = difference([1.0] * 5, [math.inf] * 5)
    assert (found.estimate, found.interval.low, found.p) == (math.inf, math.inf, pytest.approx(2 / 252))


def test_shares_have_a_shift() -> None:
    found = difference([0.0, 0.0, 0.01], [0.5, 0.5, 0.51], relative=False)
    assert found.estimate == pytest.approx(0.5)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=2, max_size=6))
def test_kruskal_wallis_is_scipys(groups: list[list[int]]) -> None:
    if len({value for group in groups for value in group}) == 1:
        assert kruskal_wallis(groups) == 1  # scipy has no answer
    else:
        assert kruskal_wallis(groups) == pytest.approx(scipy.stats.kruskal(*groups).pvalue)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20))
def test_false_discovery_is_scipys(ps: list[float]) -> None:
    assert false_discovery(ps) == pytest.approx(scipy.stats.false_discovery_control(ps))


def test_distant_groups_differ_from_five_runs_on() -> None:
    draw = np.random.default_rng(3)
    groups = [draw.normal(10 * n, 1, 5).tolist() for n in (1, 2, 3, 4, 5)] + [draw.normal(10, 1, 5).tolist()]
    assert pairs_that_differ(groups) == {(i, j) for i in range(6) for j in range(i + 1, 6)} - {(0, 5)}
    assert not pairs_that_differ([group[:3] for group in groups]), "three runs cannot show any of fifteen pairs"


def test_equal_groups_rarely_differ() -> None:
    draw = np.random.default_rng(4)
    wrong = sum(bool(pairs_that_differ(draw.lognormal(0, 0.3, (5, 5)).tolist())) for _ in range(300))
    assert wrong / 300 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 300)


def test_the_level_of_a_pair_is_the_usual_one_for_two_and_three_groups() -> None:
    assert [pair_level(2), pair_level(3)] == pytest.approx([0.05, 0.05])
    assert pair_level(6) == pytest.approx(1 - 0.95 ** (1 / 3))


def test_chi2_is_scipys() -> None:
    for degrees in range(1, 9):
        for x in (0.0, 0.1, 3.0, 40.0):
            assert intervals._chi2_above(x, degrees) == pytest.approx(scipy.stats.chi2.sf(x, degrees))
