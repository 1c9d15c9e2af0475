"""Quantiles, their confidence intervals, and tests of differences, none of which assume a distribution.

Rules:
- a quantile is a nearest rank, as everywhere in this project; arrivals without a value rank above all others
- requests of one run are not independent (one queue, one garbage collector, one placement): statements beyond a run
  rest on whole runs, each of which gives one number
- a confidence is the reached one, not the nominal one: three runs cannot give 95 %

Sources: J.-Y. Le Boudec, Performance Evaluation of Computer and Communication Systems (EPFL Press, 2010), theorem 2.1
(intervals of quantiles from order statistics); H. B. Mann, D. R. Whitney, Ann. Math. Stat. 18 (1947) 50 (the test and
its exact distribution); J. L. Hodges, E. L. Lehmann, Ann. Math. Stat. 34 (1963) 598 (the shift and its interval);
W. H. Kruskal, W. A. Wallis, J. Am. Stat. Assoc. 47 (1952) 583 (several groups); G. Campbell, J. H. Skillings, J. Am.
Stat. Assoc. 80 (1985) 998 (all pairs of several groups, step by step); Y. Benjamini, Y. Hochberg, J. R. Stat. Soc. B 57
(1995) 289 (many cells at once); A. Vargha, H. D. Delaney, J. Educ. Behav. Stat. 25 (2000) 101 (the effect size A).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

Values = NDArray[np.float64]


class Interval(NamedTuple):
    """From `low` to `high`; each may be infinite. `confidence` is the reached one."""

    low: float
    high: float
    confidence: float


def quantiles(served: NDArray[np.generic], beyond: int, shares: Sequence[float]) -> Values:
    """Quantiles of sorted values and `beyond` arrivals that rank above them: inf among the latter, NaN without any."""
    n = len(served) + beyond
    ranks = np.clip(np.ceil(np.array(shares) * n - 1e-9).astype(np.int64), 1, max(1, n))
    out = np.full(len(shares), math.inf if n else math.nan)
    out[ranks <= len(served)] = served[ranks[ranks <= len(served)] - 1]
    return out


@functools.lru_cache(maxsize=4096)
def ranks_around(n: int, q: float, confidence: float = CONFIDENCE) -> tuple[int, int, float]:
    """Ranks j < k such that the quantile `q` of n independent values lies in [x(j), x(k)] with the given confidence.

    j = 0 or k = n + 1: too few values for a bound on that side. The third value is the reached coverage, with an open
    side counted as infinite.
    """
    first, cdf = _binomial(n, q)
    tail = (1 - confidence) / 2
    # P(X <= j - 1) <= tail: j is the last such; P(X <= k - 1) >= 1 - tail: k is the first such.
    j = int(np.searchsorted(cdf, tail, side="right")) - 1
    k = int(np.searchsorted(cdf, 1 - tail, side="left"))
    return first + j, min(first + k, n + 1), float(cdf[k] - cdf[j])


def quantile_intervals(
    served: NDArray[np.generic], beyond: int, shares: Sequence[float], unit: float = 1.0
) -> list[Interval]:
    """The interval of each quantile by one run alone, as if its arrivals were independent: too narrow beyond it.

    There is at least one arrival. The bounds are divided by `unit`.
    """
    n = len(served) + beyond
    out = []
    for q in shares:
        j, k, reached = ranks_around(n, q)
        low = 0.0 if j < 1 else float(served[j - 1]) if j <= len(served) else math.inf
        high = float(served[k - 1]) if k <= len(served) else math.inf
        out.append(Interval(low / unit, high / unit, reached))
    return out


def over_runs(values: Sequence[float]) -> Interval | None:
    """The interval of the median over runs, from one value per run: order statistics, at least 95 % from six runs on.

    Fewer runs give their range and its confidence, 1 − 2^(1 − runs); one run gives None.
    """
    n = len(values)
    if n < 2:
        return None
    ranked = sorted(values)
    j, k, reached = ranks_around(n, 0.5)
    if j >= 1 and k <= n:
        return Interval(ranked[j - 1], ranked[k - 1], reached)
    return Interval(ranked[0], ranked[-1], 1 - 2.0 ** (1 - n))


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values the geometric mean of the middle two, infinite when either is."""
    ranked = sorted(values)
    low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
    if low == high:
        return low
    return math.inf if math.isinf(high) else math.sqrt(low * high)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of B from A, from one value per run each.

    `estimate` is the Hodges–Lehmann estimate of B / A (or of B − A), `interval` its interval, `superiority` the share
    of pairs of runs in which B is larger (A of Vargha and Delaney: 0.5 means no effect), `p` that of the exact
    Mann–Whitney test.
    """

    runs: tuple[int, int]
    estimate: float
    interval: Interval
    superiority: float
    p: float


def difference(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE, *, relative: bool = True
) -> Difference:
    """B against A. Values are at least 0; two infinite ones are equal.

    `relative` gives the ratio B / A, for times, else the shift B − A, for shares. The interval has at least the given
    confidence when there are enough runs, else the greatest possible one.
    """
    m, n = len(a), len(b)
    steps = sorted(_log_ratio(x, y) if relative else y - x for x in a for y in b)
    wins = sum(step > 0 for step in steps)
    ties = sum(step == 0 for step in steps)
    cdf = _mann_whitney(m, n)
    u = min(wins, m * n - wins - ties) + ties // 2 + ties % 2  # ties count against a difference
    p = min(1.0, 2 * cdf[min(u, m * n)])
    depth = max(1, int(np.searchsorted(np.array(cdf), (1 - confidence) / 2 + 1e-12, side="right")))
    low, high = steps[depth - 1], steps[m * n - depth]
    first, second = steps[(m * n - 1) // 2], steps[m * n // 2]
    middle = first if first == second else (first + second) / 2
    if relative:
        low, high, middle = (math.inf if value > 700 else math.exp(value) for value in (low, high, middle))
    return Difference((m, n), middle, Interval(low, high, 1 - 2 * cdf[depth - 1]), (wins + ties / 2) / (m * n), p)


def false_discovery(ps: Sequence[float]) -> list[float]:
    """The adjusted p of each of several tests (Benjamini–Hochberg).

    At most 5 % of the differences at 5 % are expected to be wrong; when nothing differs, the chance of any is 5 %.
    """
    order = np.argsort(ps)[::-1]
    ranks = np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum.accumulate(np.minimum(1.0, np.array(ps)[order] * len(ps) / ranks))
    return [float(p) for p in adjusted]


def pair_level(groups: int) -> float:
    """The level of a test of one pair among `groups` groups, with 5 % for all pairs together.

    It is that of Ryan, Einot, Gabriel and Welsch, which Campbell and Skillings use.
    """
    return _subset_level(2, groups)


def pairs_that_differ(groups: Sequence[Sequence[float]]) -> set[tuple[int, int]]:
    """The pairs i < j that differ, with a chance of 5 % that any of them is wrong.

    A pair differs when every set of groups with both differs: sets of two by the Mann–Whitney test, larger ones by that
    of Kruskal and Wallis. It is more powerful than a test of each pair at 5 % divided by their number.
    """
    count = len(groups)
    alike: set[tuple[int, int]] = set()
    for size in range(count, 1, -1):
        level = _subset_level(size, count)
        for subset in itertools.combinations(range(count), size):
            pairs = set(itertools.combinations(subset, 2))
            if pairs <= alike:
                continue
            members = [groups[index] for index in subset]
            p = difference(members[0], members[1]).p if size == 2 else kruskal_wallis(members)
            if p > level:
                alike |= pairs
    return set(itertools.combinations(range(count), 2)) - alike


def _subset_level(size: int, groups: int) -> float:
    level = 1 - CONFIDENCE
    return level if size >= groups - 1 else float(1 - CONFIDENCE ** (size / groups))


def kruskal_wallis(groups: Sequence[Sequence[float]]) -> float:
    """The p of equal groups, by the χ² approximation; ties have their mean rank."""
    _, places, counts = np.unique(np.concatenate(groups), return_inverse=True, return_counts=True)
    n, ties = len(places), int((counts**3 - counts).sum())
    if n < 2 or ties == n**3 - n:
        return 1.0
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    ends = np.cumsum([len(group) for group in groups])
    between = sum(float(part.sum()) ** 2 / len(part) for part in np.split(ranks, ends[:-1]))
    statistic = (12 / (n * (n + 1)) * between - 3 * (n + 1)) / (1 - ties / (n**3 - n))
    return _chi2_above(statistic, len(groups) - 1)


def _chi2_above(x: float, degrees: int) -> float:
    """The upper tail of χ², by the finite sums for whole degrees of freedom (Abramowitz, Stegun, 26.4.4 and 26.4.5)."""
    if x <= 0:
        return 1.0
    half = x / 2
    if degrees % 2 == 0:
        terms = [half**i / math.factorial(i) for i in range(degrees // 2)]
        return math.exp(-half) * sum(terms)
    terms = [half ** (i - 0.5) / math.gamma(i + 0.5) for i in range(1, (degrees + 1) // 2)]
    return math.erfc(math.sqrt(half)) + math.exp(-half) * sum(terms)


def _log_ratio(x: float, y: float) -> float:
    if x == y:
        return 0.0
    if math.isinf(y) or x <= 0:
        return math.inf
    if math.isinf(x) or y <= 0:
        return -math.inf
    return math.log(y / x)


@functools.lru_cache(maxsize=256)
def _mann_whitney(m: int, n: int) -> list[float]:
    """P(U <= u) without ties, for u = 0 … m·n: the recurrence as a product of polynomials, exact up to rounding."""
    counts = np.zeros(m * n + 1)
    counts[0] = 1.0
    # The Gaussian binomial coefficient [m+n choose m]: multiply by (1 − q^(n+i)), divide by (1 − q^i).
    for i in range(1, m + 1):
        if n + i <= m * n:
            counts[n + i :] -= counts[: m * n + 1 - n - i].copy()
        for at in range(i, m * n + 1):
            counts[at] += counts[at - i]
    cdf: list[float] = np.cumsum(counts / counts.sum()).tolist()
    return cdf


def _binomial(n: int, q: float) -> tuple[int, Values]:
    """The first value of Binomial(n, q) with a weight, and P(X < value) from that value on."""
    q = min(max(q, 0.0), 1.0)
    if q in (0.0, 1.0):
        return (0 if q == 0 else n), np.array([0.0, 1.0])
    spread = 40 + 12 * math.sqrt(n * q * (1 - q))
    low, high = max(0, math.floor(n * q - spread)), min(n, math.ceil(n * q + spread))
    k = np.arange(low, high, dtype=np.float64)
    steps = np.log(n - k) - np.log(k + 1) + math.log(q / (1 - q))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(logs - logs.max())
    return low, np.concatenate(([0.0], np.cumsum(weights / weights.sum())))
