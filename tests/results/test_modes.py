"""Modes, steps and spikes, on data that was made with and without them."""

from __future__ import annotations

import numpy as np
import pytest

from workload_generator.results.report.modes import shape_of

DRAW = np.random.default_rng(5)


def test_the_spike_of_the_originals_springboot() -> None:
    """Its quartiles were 1018, 1021 and 1024 ms: a probe each second, not the language."""
    shape = shape_of(DRAW.normal(1021, 4.4, 200))
    assert shape is not None and shape.spike is not None
    assert "at 1 s: a wait of whole seconds" in shape.sentence()


def test_steps_are_found_with_their_period() -> None:
    shape = shape_of(1000 * DRAW.integers(1, 5, 200) + DRAW.normal(25, 20, 200))
    assert shape is not None
    assert shape.period_ms == 1000
    assert len(shape.modes) == 4


def test_two_populations_are_found_with_their_shares() -> None:
    shape = shape_of(np.concatenate([DRAW.normal(300, 20, 140), DRAW.normal(900, 60, 60)]))
    assert shape is not None
    assert [mode.at_ms for mode in shape.modes] == pytest.approx([300, 900], rel=0.06)
    assert [mode.share for mode in shape.modes] == pytest.approx([0.7, 0.3], abs=0.02)
    assert shape.p_modes <= 0.01


@pytest.mark.parametrize("kind", ["lognormal", "pareto", "exponential"])
def test_one_population_has_one_mode(kind: str) -> None:
    draw = np.random.default_rng(6)
    samples = {
        "lognormal": lambda: draw.lognormal(7, 0.3, 150),
        "pareto": lambda: (draw.pareto(1.8, 150) + 1) * 100,
        "exponential": lambda: draw.exponential(400, 150) + 5,
    }
    shapes = [shape_of(samples[kind]()) for _ in range(20)]
    assert sum(bool(shape and (shape.modes or shape.period_ms)) for shape in shapes) <= 1


def test_the_same_data_give_the_same_result() -> None:
    values = DRAW.lognormal(7, 0.3, 100)
    assert shape_of(values) == shape_of(values)


def test_few_or_equal_values_give_no_result() -> None:
    assert shape_of(np.full(19, 5.0)) is None
    shape = shape_of(np.full(50, 5.0))
    assert shape is not None and not shape.odd
