"""What holds for all tests: how many workers, what is skipped for want of a tool, and the table that sums it up."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import needs

# A pause of a busy machine is no fault, neither of the code nor of how its examples are made.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

WORKERS_PER_CORE = 2
"""Half of a test's time is waiting for processes and sockets."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--must-have",
        action="append",
        default=[],
        metavar="WHAT",
        help="where WHAT (a row of the closing table) is missing, a test that needs it fails and is not skipped",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*needs): what the test needs beyond Python, git and uv: tests/needs.py")


def pytest_xdist_auto_num_workers() -> int:
    return WORKERS_PER_CORE * len(os.sched_getaffinity(0))


def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in (need for mark in item.iter_markers("needs") for need in mark.args):
        if not need.here():
            stop = pytest.fail if need.what in item.config.getoption("--must-have") else pytest.skip
            stop(need.reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skips = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    counts = Counter(needs.parts_of(skip[2].removeprefix("Skipped: ")) for skip in skips if isinstance(skip, tuple))
    if not counts:
        return
    rows = [("not here", "tests", "why", "what brings it")]
    rows += [(what, str(number), why, brought_by) for (what, why, brought_by), number in sorted(counts.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("skipped on this machine")
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(line.rstrip())


@pytest.fixture(scope="session", autouse=True)
def _commands_of_the_venv() -> Iterator[None]:
    """`just` and the linters stand beside Python, whether or not the venv is active."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield
