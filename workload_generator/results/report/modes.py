"""The section "Distribution": modes, steps of a fixed length, and spikes that a timer causes.

Sources: B. W. Silverman, Using kernel density estimates to investigate multimodality, J. R. Stat. Soc. B 43 (1981) 97
(the test: the smoothing that leaves one mode, against what smoothed resamples need); Lord Rayleigh's test of a
preferred phase (K. V. Mardia, P. E. Jupp, Directional Statistics, 2000, section 6.3.1), here against resamples
of the smoothed data, since a narrow distribution has a preferred phase without any steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.report.comparison import RunGroup
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.runs import GROUP_COLUMNS
from workload_generator.results.report.samples import COLD_WORD
from workload_generator.results.report.table import COUNT, TEXT, Table

LEAST = 20
"""The least number of values that is tested."""

_LEVEL = 0.01
_RESAMPLES = 199
_MOST = 1000
_MOST_MODES = 5
_LEAST_SHARE = 0.05
_GRID = 1024
_PERIODS_MS = (5000.0, 2000.0, 1000.0, 500.0, 250.0, 200.0, 100.0, 50.0)
_LEAST_CONCENTRATION = 0.5
_NARROW = 0.02
_NARROW_FROM_MS = 100.0
_NEAR_STEP_MS = 60.0


@dataclass(frozen=True, slots=True)
class DensityPeak:
    """A peak in ms, and the share of the values around it."""

    at_ms: float
    share: float


@dataclass(frozen=True, slots=True)
class DistributionShape:
    """The result of the tests: `modes` (two or more, or none), steps of `period_ms`, a `spike` with the middle half.

    `p_modes` is the p of a single mode, `p_steps` that of no steps at the most likely period.
    """

    values: int
    p_modes: float
    modes: tuple[DensityPeak, ...]
    period_ms: float | None
    p_steps: float
    spike: tuple[float, float] | None

    @property
    def odd(self) -> bool:
        """Whether there is more than one smooth peak."""
        return bool(self.modes or self.period_ms or self.spike)

    def sentence(self) -> str:
        """For people."""
        parts = []
        if self.period_ms is not None:
            parts.append(
                f"the times lie in steps of {_time(self.period_ms)} (p {_p(self.p_steps)}): "
                "something waits for a timer of that period, and the steps hide the language's own time"
            )
        if self.modes:
            peaks = ", ".join(f"{_time(mode.at_ms)} ({mode.share:.0%})" for mode in self.modes)
            modes = f"{len(self.modes)} modes, at {peaks} (p of a single one {_p(self.p_modes)})"
            parts.append(f"{modes}: more than one population")
        if self.spike is not None:
            low, high = self.spike
            text = f"half of all lie within {_time(high - low)}, from {_time(low)} to {_time(high)}"
            step = round(high / 1000) * 1000
            if step and abs((low + high) / 2 - step) <= _NEAR_STEP_MS:
                text += f", at {step // 1000} s: a wait of whole seconds (a probe's period) is likelier than start-up"
            parts.append(text)
        return "; ".join(parts) or "one mode, no steps"


GroupShape = tuple[RunGroup, DistributionShape]
"""A group and the shape of its answered times."""


def find_shapes(groups: Iterable[RunGroup]) -> list[GroupShape]:
    """The shapes of cold starts, and the odd ones of other groups, from some thousand answered times of each run."""
    shapes = []
    for group in groups:
        shape = shape_of(np.concatenate([sample.picked for sample in group.samples]))
        if shape is not None and (group.temperature == COLD_WORD or shape.odd):
            shapes.append((group, shape))
    return shapes


def shapes_table(shapes: Iterable[GroupShape]) -> Table:
    """Modes and steps of each group."""
    return Table.named(
        "shapes",
        GROUP_COLUMNS + TEXT("temperature") + COUNT("values", brief=False) + TEXT("found"),
        [(*group.cells, shape.values, shape.sentence()) for group, shape in shapes],
    )


def shape_of(values_ms: Values, seed: int = 1) -> DistributionShape | None:
    """The shape of the times above 0; None of fewer than `LEAST`. The same values give the same result."""
    values = np.sort(values_ms[values_ms > 0])
    if len(values) < LEAST:
        return None
    if len(values) > _MOST:
        values = values[np.linspace(0, len(values) - 1, _MOST).astype(int)]
    draw = np.random.default_rng(seed)
    p_modes, modes = _modes(np.log(values), draw)
    period, p_steps = _steps(values, draw)
    q1, middle, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    narrow = middle >= _NARROW_FROM_MS and q3 - q1 <= _NARROW * middle
    return DistributionShape(len(values_ms), p_modes, modes, period, p_steps, (q1, q3) if narrow else None)


def _modes(logs: Values, draw: np.random.Generator) -> tuple[float, tuple[DensityPeak, ...]]:
    spread = float(logs.std())
    if spread < 1e-9:
        return 1.0, ()
    p_one = _p_of(logs, 1, spread, draw)
    if p_one > _LEVEL:
        return p_one, ()
    count = 2
    while count < _MOST_MODES and _p_of(logs, count, spread, draw) <= _LEVEL:
        count += 1
    peaks = _peaks(logs, _critical(logs, count, spread))
    return p_one, peaks if len(peaks) > 1 else ()


def _p_of(logs: Values, modes: int, spread: float, draw: np.random.Generator) -> float:
    """The p of at most `modes` modes: the share of smoothed resamples that need at least as much smoothing."""
    h = _critical(logs, modes, spread)
    shrink = 1 / math.sqrt(1 + (h / spread) ** 2)
    mean = float(logs.mean())
    more = 0
    for _ in range(_RESAMPLES):
        again = draw.choice(logs, len(logs)) - mean + h * draw.standard_normal(len(logs))
        more += _count(mean + again * shrink, h) > modes
    return (more + 1) / (_RESAMPLES + 1)


def _critical(logs: Values, modes: int, spread: float) -> float:
    """The least bandwidth with at most `modes` modes."""
    low, high = spread / 500, 2 * spread
    for _ in range(25):
        middle = math.sqrt(low * high)
        if _count(logs, middle) > modes:
            low = middle
        else:
            high = middle
    return high


def _density(logs: Values, h: float) -> tuple[Values, Values]:
    """A Gaussian kernel estimate on a grid, by a convolution of the counts."""
    low, high = float(logs.min()) - 4 * h, float(logs.max()) + 4 * h
    counts, edges = np.histogram(logs, bins=_GRID, range=(low, high))
    step = (high - low) / _GRID
    kernel = np.exp(-2 * (math.pi * np.fft.rfftfreq(2 * _GRID, d=step) * h) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(counts, 2 * _GRID) * kernel, 2 * _GRID)
    return edges[:-1] + step / 2, smooth[:_GRID]


def _summits(density: Values) -> NDArray[np.intp]:
    floor = float(density.max()) * 1e-6  # below are rounding errors of the transform
    inner = density[1:-1]
    return np.flatnonzero((inner > density[:-2]) & (inner >= density[2:]) & (inner > floor)) + 1


def _count(logs: Values, h: float) -> int:
    return len(_summits(_density(logs, h)[1]))


def _peaks(logs: Values, h: float) -> tuple[DensityPeak, ...]:
    """The modes with their shares, cut at the valleys; one with less than a twentieth belongs to its neighbour."""
    grid, density = _density(logs, h)
    summits = _summits(density).tolist()
    while True:
        cuts = [int(np.argmin(density[a:b])) + a for a, b in zip(summits, summits[1:], strict=False)]
        edges = np.searchsorted(logs, grid[cuts]) if cuts else np.zeros(0, dtype=np.intp)
        shares = np.diff(np.concatenate(([0], edges, [len(logs)]))) / len(logs)
        least = int(np.argmin(shares))
        if len(summits) == 1 or shares[least] >= _LEAST_SHARE:
            break
        del summits[least]
    return tuple(DensityPeak(float(np.exp(grid[at])), float(share)) for at, share in zip(summits, shares, strict=True))


def _steps(values: Values, draw: np.random.Generator) -> tuple[float | None, float]:
    """The period with the clearest preferred phase, and its p against smooth data; no period when p is above 1 %."""
    low, high = np.quantile(values, [0.02, 0.98]).tolist()
    periods = [period for period in _PERIODS_MS if high - low >= 0.9 * period and period >= 0.02 * high]
    q1, q3 = np.quantile(values, [0.25, 0.75]).tolist()
    deviation = float(values.std())
    spread = min(deviation, (q3 - q1) / 1.34) or deviation
    h = 0.9 * spread * len(values) ** -0.2
    best, period = max(((_concentration(values, period), period) for period in periods), default=(0.0, 0.0))
    if best < _LEAST_CONCENTRATION:
        return None, 1.0
    again = draw.choice(values, (_RESAMPLES, len(values))) + h * draw.standard_normal((_RESAMPLES, len(values)))
    reached = np.abs(np.exp(2j * math.pi / period * again).mean(axis=1))
    p = (int((reached >= best).sum()) + 1) / (_RESAMPLES + 1)
    return (period if p <= _LEVEL else None), p


def _concentration(values: Values, period: float) -> float:
    return float(np.abs(np.exp(2j * math.pi / period * values).mean()))


def _time(ms: float) -> str:
    return f"{ms / 1000:,.3g} s" if ms >= 10_000 else f"{ms:,.4g} ms"


def _p(p: float) -> str:
    return f"≤ {1 / (_RESAMPLES + 1):.3f}" if p <= 1.5 / (_RESAMPLES + 1) else f"= {p:.2f}"
