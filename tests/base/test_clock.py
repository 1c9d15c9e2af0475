"""Go durations and the two clocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.base.clock import Anchor, format_duration, parse_duration, rfc3339


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h30m", 5_400_000_000_000),
        ("90s", 90_000_000_000),
        ("500ms", 500_000_000),
        ("1.5h", 5_400_000_000_000),
        ("250µs", 250_000),
        ("250μs", 250_000),
        ("250us", 250_000),
        ("1m0s", 60_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("0", 0),
        ("-1.5s", -1_500_000_000),
        ("61.911697ms", 61_911_697),
        ("0.3ns", 0),
        ("2.3h", 8_280_000_000_000),
        ("1.001s", 1_001_000_000),
        ("9223372036854775807ns", 2**63 - 1),
    ],
)
def test_go_durations_parse_exactly(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "10",
        "10 minutes",
        "",
        "s",
        "1 s",
        "1d",
        "1e3s",
        "+",
        "1h 30m",
        "9999999999h",
        "9223372036854775808ns",
        f"1{'0' * 5000}s",
    ],
)
def test_durations_that_go_refuses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=-(2**62), max_value=2**62))
def test_a_formatted_duration_reads_back(ns: int) -> None:
    assert parse_duration(format_duration(ns)) == ns


@pytest.mark.parametrize(
    ("ns", "text"), [(90_000_000_000, "1m30s"), (1_500_000, "1.5ms"), (7_000_000_000, "7s"), (0, "0s")]
)
def test_durations_are_written_as_go_writes_them(ns: int, text: str) -> None:
    assert format_duration(ns) == text


def test_wall_clock_follows_the_monotonic_one() -> None:
    anchor = Anchor(wall_ns=1_000_000_000, mono_ns=500)
    assert anchor.wall_at(1500) == 1_000_001_000
    assert rfc3339(anchor.wall_at(1500)) == "1970-01-01T00:00:01.000001Z"
