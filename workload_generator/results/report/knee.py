"""The knee of a load curve: the rate at which p99 or the errors leave the plateau for good.

The plateau is the lowest p99 of any rate. A rate is off it when its p99 (the median over its runs) is more than twice
as much, or when more than 1 % of its arrivals failed or were dropped beyond what the best rate lost. The knee lies
between the last rate on the plateau and the first from which on all are off: the true one is anywhere in between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median as middle

from workload_generator.results.report.cells import Cell
from workload_generator.results.report.runs import Condition

FACTOR = 2.0
ERRORS = 0.01
LEAST_RATES = 3


@dataclass(frozen=True, slots=True)
class Knee:
    """Of one language under conditions that differ in nothing but the rate.

    `off` None: on the plateau at every rate; `on` None: even the lowest rate is off it. `off_ms` and `off_errors` are
    the figures of the rate `off`.
    """

    condition: Condition
    language: str
    temperature: str
    rates: tuple[float, ...]
    plateau_ms: float
    on: float | None
    off: float | None
    off_ms: float
    off_errors: float

    @property
    def reason(self) -> str:
        """What left the plateau."""
        if self.off_ms > FACTOR * self.plateau_ms:
            return f"p99 {_ms(self.plateau_ms)} → {_ms(self.off_ms)}"
        return f"{self.off_errors:.1%} failed or dropped"


def find_knees(cells: Sequence[Cell]) -> list[Knee]:
    """One for each language that was run at three rates or more."""
    knees = []

    def alike(cell: Cell) -> tuple[str, str, str, str, str]:
        condition = cell.condition
        return (condition.scenario, condition.variant, condition.platform, cell.language, cell.temperature)

    homes = [cell for cell in cells if cell.home]
    for _, group in itertools.groupby(sorted(homes, key=alike), key=alike):
        curve = sorted((cell for cell in group if cell.condition.rate), key=lambda cell: cell.condition.rate or 0)
        if len(curve) >= LEAST_RATES:
            knees += _knee(curve)
    return knees


def _knee(curve: Sequence[Cell]) -> list[Knee]:
    p99 = [estimate.value if (estimate := cell.estimate("p99")) else math.inf for cell in curve]
    answered = [e.value if (e := cell.estimate("p99", answered=True)) else math.inf for cell in curve]
    errors = [middle(cell.error_shares()) for cell in curve]
    plateau = min(p99)
    if math.isinf(plateau):
        plateau = min(answered)
    if math.isinf(plateau):
        return []
    floor = min(errors)
    off = [time > FACTOR * plateau or share > floor + ERRORS for time, share in zip(p99, errors, strict=True)]
    first = len(off)
    while first and off[first - 1]:
        first -= 1
    rates = tuple(float(cell.condition.rate or 0) for cell in curve)
    return [
        Knee(
            condition=curve[0].condition,
            language=curve[0].language,
            temperature=curve[0].temperature,
            rates=rates,
            plateau_ms=plateau,
            on=rates[first - 1] if first else None,
            off=rates[first] if first < len(rates) else None,
            off_ms=p99[first] if first < len(rates) else math.nan,
            off_errors=errors[first] if first < len(rates) else math.nan,
        )
    ]


def _ms(value: float) -> str:
    return "beyond the timeout" if math.isinf(value) else f"{value:,.3g} ms"
