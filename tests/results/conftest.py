"""A made-up campaign and its report, each made once: tests copy databases before they write to them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from tests.results.campaign import Reported, make_campaign
from workload_generator.commands import kn_bench
from workload_generator.results.report.answers import Answers, ask


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share the campaign run in one pytest-xdist worker, so that it is made once."""
    for item in items:
        if "campaign" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("campaign"))


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its database: six languages, four rates, five repeats, cold starts, events, metrics."""
    return make_campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="session")
def answers(campaign: Path) -> Answers:
    """The answers of the campaign's database."""
    return ask(campaign)


@pytest.fixture(scope="session")
def reported(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The campaign's report, by the command."""
    folder = tmp_path_factory.mktemp("report")
    page, csv = folder / "report.html", folder / "csv"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert kn_bench.main(["report", "--db", str(campaign), "--out", str(page), "--csv", str(csv)]) == 0
    return Reported(page, csv, said.getvalue())
