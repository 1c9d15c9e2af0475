"""Mutated responses are read alike from a cache, in one piece and in random pieces: see `fuzz`."""

from __future__ import annotations

import pytest

from tests.engine import fuzz
from workload_generator.engine import connection


@pytest.mark.parametrize("seed", range(4))
def test_mutated_responses_are_read_alike(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_TURN_NS", 10**12)
    disagreements, hits = fuzz.compare(3_000, seed)
    assert not disagreements and hits > 300
