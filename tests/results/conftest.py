"""A made-up campaign, made once: databases are copied before they are written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.results.campaign import make_campaign


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its database: six languages, four rates, five repeats, cold starts, events, metrics."""
    return make_campaign(tmp_path_factory.mktemp("campaign"))
