"""Due times of the arrivals of one phase, in whole nanoseconds.

Rules:
- a time depends only on the arrival's index, and on the seed if times are random, so that errors do not accumulate and
  every shard computes the same schedule
- arrival k is due when the integral of the rate reaches k; the inverse is exact, and rounded down only at the end
- times never decrease
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise, repeat
from operator import floordiv
from random import Random
from typing import Protocol

from workload_generator.base.clock import NS_PER_S

_SINE_PIECES = 256


class Times(Protocol):
    """The due times of one phase."""

    @property
    def count(self) -> int:
        """The number of arrivals."""

    def due(self, first: int, step: int, start_ns: int) -> Iterator[int]:
        """The times of the arrivals `first`, `first + step`, …, each plus `start_ns`."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a curve with a linear rate. Rates are numerators over the curve's denominator."""

    length_ns: int
    rate: int
    end_rate: int


class Curve:
    """A piecewise linear rate. Pieces have a length (ns) and a rate (rps) at each end. They repeat until `length_ns`.

    The area under a piece is its number of arrivals. Areas are whole numbers in a unit of which one arrival has
    `2 × denominator × 10⁹`, so that a piece has (rate + end_rate) × length_ns.
    """

    def __init__(self, pieces: Sequence[tuple[int, Fraction, Fraction]], length_ns: int) -> None:
        denominator = math.lcm(*(rate.denominator for _, *rates in pieces for rate in rates))
        self._pieces = tuple(Piece(ns, int(a * denominator), int(b * denominator)) for ns, a, b in pieces if ns)
        self._unit = 2 * denominator * NS_PER_S
        self._area = sum((piece.rate + piece.end_rate) * piece.length_ns for piece in self._pieces)
        self._length_ns = sum(piece.length_ns for piece in self._pieces)
        self.count = math.ceil(self._area_until(length_ns) / self._unit)

    def due(self, first: int, step: int, start_ns: int) -> Iterator[int]:
        """See `Times`."""
        index, area = first, 0
        while index < self.count:
            repeats = (index * self._unit - area) // self._area  # without a requested arrival
            area += repeats * self._area
            start_ns += repeats * self._length_ns
            for piece in self._pieces:
                end_area = area + (piece.rate + piece.end_rate) * piece.length_ns
                end = min(self.count, -(-end_area // self._unit))
                if index < end:
                    indexes = range(index, end, step)
                    yield from _due_in_piece(piece, indexes, self._unit, area, start_ns)
                    index += len(indexes) * step
                area = end_area
                start_ns += piece.length_ns

    def _area_until(self, length_ns: int) -> Fraction:
        repeats, rest_ns = divmod(length_ns, self._length_ns)
        area = Fraction(repeats * self._area)
        for piece in self._pieces:
            part_ns = min(rest_ns, piece.length_ns)
            rise = Fraction((piece.end_rate - piece.rate) * part_ns, piece.length_ns)
            area += (2 * piece.rate + rise) * part_ns
            rest_ns -= part_ns
        return area


def _due_in_piece(piece: Piece, indexes: range, unit: int, area: int, start_ns: int) -> Iterator[int]:
    """The times at which the area since the start of the piece is index × unit − area.

    With a rate from a to b over L, the area after t is (2a + (b − a) t / L) t. Solving for t gives the quadratic
    formula below. Floors of roots and quotients nest: ⌊(x − c) / m⌋ = ⌊(⌊x⌋ − c) / m⌋ for whole c and m > 0 (Graham,
    Knuth and Patashnik, Concrete Mathematics, equation 3.11), so that integers suffice.
    """
    slope = piece.end_rate - piece.rate
    if not slope:
        divisor = 2 * piece.rate
        common = math.gcd(unit, area, divisor)
        divisor //= common
        areas = (index * unit - area for index in (indexes.start, indexes.stop))
        low, high = (this // common + start_ns * divisor for this in areas)
        return map(floordiv, range(low, high, indexes.step * unit // common), repeat(divisor))
    return _due_on_slope(piece, indexes, unit, area, start_ns)


def _due_on_slope(piece: Piece, indexes: range, unit: int, area: int, start_ns: int) -> Iterator[int]:
    slope, level = piece.end_rate - piece.rate, piece.rate * piece.length_ns
    isqrt, square, scale = math.isqrt, level * level, slope * piece.length_ns
    if slope > 0:
        for index in indexes:
            yield start_ns + (isqrt(square + scale * (index * unit - area)) - level) // slope
    else:
        for index in indexes:
            under_root = square + scale * (index * unit - area)
            root = isqrt(under_root - 1) + 1 if under_root else 0  # rounded up, since it is subtracted
            yield start_ns + (level - root) // -slope


def line(from_rps: Fraction, to_rps: Fraction, length_ns: int) -> Curve:
    """A linear rate; constant when both ends are equal."""
    return Curve([(length_ns, from_rps, to_rps)], length_ns)


def stairs(steps: Sequence[tuple[Fraction, int]], length_ns: int) -> Curve:
    """Constant rates, each with its duration (ns), cut at `length_ns`."""
    rest_ns = max(0, length_ns - sum(step_ns for _, step_ns in steps))
    return Curve([(step_ns, rps, rps) for rps, step_ns in [*steps, (Fraction(0), rest_ns)]], length_ns)


def sine(mean_rps: Fraction, amplitude: Fraction, period_ns: int, length_ns: int) -> Curve:
    """mean × (1 + amplitude × sin(2πt / period)), as 256 straight pieces a period.

    The error is at most 0.01 % of the amplitude. A period that divides into equal pieces has exactly its arrivals.
    Sines are rounded to 10⁻⁹, so that every machine plans the same.
    """
    sines = [round(math.sin(2 * math.pi * piece / _SINE_PIECES) * 10**9) for piece in range(_SINE_PIECES + 1)]
    rates = [mean_rps * (1 + amplitude * Fraction(value, 10**9)) for value in sines]
    edges = [period_ns * piece // _SINE_PIECES for piece in range(_SINE_PIECES + 1)]
    lengths = (end - begin for begin, end in pairwise(edges))
    return Curve([(ns, *ends) for ns, ends in zip(lengths, pairwise(rates), strict=True)], length_ns)


class PoissonTimes:
    """A Poisson process: the number of arrivals is Poisson distributed, and their times are uniform given the number.

    The number is therefore known in advance: Kingman, Poisson Processes (1993), section 2.4. Sorted uniform times are
    generated one by one: with n arrivals left, the next one leaves a share V^(1/n) of the time (Devroye, Non-Uniform
    Random Variate Generation, 1986, chapter V.2.1).
    """

    def __init__(self, rps: Fraction, length_ns: int, seed: str) -> None:
        self._mean = float(rps * length_ns / NS_PER_S)
        self._length_ns = length_ns
        self._seed = seed
        self.count = poisson(Random(seed), self._mean)

    def due(self, first: int, step: int, start_ns: int) -> Iterator[int]:
        """See `Times`."""
        return islice(self._all(start_ns), first, None, step)

    def _all(self, start_ns: int) -> Iterator[int]:
        stream = Random(self._seed)
        count = poisson(stream, self._mean)
        random, length_ns, last_ns = stream.random, self._length_ns, start_ns + self._length_ns - 1
        left = 1.0
        for remaining in range(count, 0, -1):
            left *= (1.0 - random()) ** (1.0 / remaining)
            due_ns = start_ns + int(length_ns * (1.0 - left))
            yield due_ns if due_ns < last_ns else last_ns


def poisson(stream: Random, mean: float) -> int:
    """A Poisson distributed number.

    Small means use multiplication (Knuth, The Art of Computer Programming 2, section 3.4.1), others transformed
    rejection, algorithm PTRS of Hörmann, The transformed rejection method for generating Poisson random variables,
    Insurance: Mathematics and Economics 12 (1993), https://doi.org/10.1016/0167-6687(93)90997-4
    """
    if mean < 10:
        threshold, product, number = math.exp(-mean), stream.random(), 0
        while product > threshold:
            product *= stream.random()
            number += 1
        return number
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    log_inverse_alpha = math.log(1.1239 + 1.1328 / (b - 3.4))
    sure = 0.9277 - 3.6224 / (b - 2)
    while True:
        u, v = stream.random() - 0.5, 1.0 - stream.random()
        edge = 0.5 - abs(u)
        if edge <= 0:
            continue
        number = math.floor((2 * a / edge + b) * u + mean + 0.43)
        if edge >= 0.07 and v <= sure:
            return number
        if number < 0 or (edge < 0.013 and v > edge):
            continue
        density = number * math.log(mean) - mean - math.lgamma(number + 1)
        if math.log(v) + log_inverse_alpha - math.log(a / (edge * edge) + b) <= density:
            return number


class Replay:
    """Given times: sorted offsets, cut at `length_ns`."""

    def __init__(self, offsets_ns: Sequence[int], length_ns: int) -> None:
        self._offsets_ns = offsets_ns
        self.count = bisect_left(offsets_ns, length_ns)

    def due(self, first: int, step: int, start_ns: int) -> Iterator[int]:
        """See `Times`."""
        return map(start_ns.__add__, islice(self._offsets_ns, first, self.count, step))
