"""Quantities of Kubernetes: every form, and what is none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.quantities import format_bytes, millicores, parse_quantity, whole_bytes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("2", 2), ("+2", 2), ("-1.5", Fraction(-3, 2)), (".5", Fraction(1, 2)), ("5.", 5),
        ("183632734n", Fraction(183632734, 10**9)), ("7u", Fraction(7, 10**6)), ("250m", Fraction(1, 4)),
        ("3k", 3000), ("3M", 3 * 10**6), ("3G", 3 * 10**9), ("3T", 3 * 10**12), ("3P", 3 * 10**15), ("3E", 3 * 10**18),
        ("2663656Ki", 2663656 * 1024), ("1.5Mi", 3 * 2**19), ("1Gi", 2**30), ("1Ti", 2**40), ("1Pi", 2**50),
        ("1Ei", 2**60), ("2e3", 2000), ("2E3", 2000), ("12e-1", Fraction(6, 5)), ("1e+2", 100),
    ],
)  # fmt: skip
def test_every_form(text: str, value: Fraction | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize(
    "text", ["", " ", "fast", "1.2.3Ki", "1 Ki", "1ki", "1K", "1mi", "1ni", "Ki", ".", "1e", "1e3Ki", "0x10", "1e9999",
             "nan", "inf", "1\n", "١", "1" * 65]
)  # fmt: skip
def test_texts_that_are_not_quantities(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity such as"):
        parse_quantity(text)


def test_millicores_and_bytes() -> None:
    assert millicores("183632734n") == 183.632734
    assert whole_bytes("1500m") == 2, "a fraction of a byte is a byte"
    assert whole_bytes("-1500m") == -1


@given(st.integers(0, 2**62), st.sampled_from(["", "m", "Ki", "G"]))
def test_whole_numbers_come_back(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") == number * parse_quantity(f"1{suffix}")


@pytest.mark.parametrize("text", ["0n", "1n", "183632734n", "99999999999999999999n", "007n"])
def test_the_short_way_gives_what_the_long_way_gives(text: str) -> None:
    assert millicores(text) == float(parse_quantity(text) * 1000)
    assert whole_bytes(text.replace("n", "Ki")) == parse_quantity(text.replace("n", "Ki"))


@pytest.mark.parametrize("text", ["n", "Ki", "-n", "²n", "1 n", "\u0661Ki"])
def test_the_short_way_takes_nothing_else(text: str) -> None:
    for number in (millicores, whole_bytes):
        with pytest.raises(ValueError):
            number(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (34_000, "33 KiB"), (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"), (2**70, "1024 EiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_bytes(size) == text
