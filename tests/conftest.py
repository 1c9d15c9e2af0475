"""Common to all tests: the number of workers, tests that are skipped without a tool, and the table of skipped tests."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import needs

# On a busy machine, slow examples are not a fault.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

WORKERS_PER_CORE = 2
"""Tests wait for processes and sockets half of the time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--must-have",
        action="append",
        default=[],
        metavar="WHAT",
        help="fail, do not skip, tests that need WHAT (a row of the closing table) if it is missing",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*needs): requirements of the test beyond Python, git and uv: tests/needs.py"
    )


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
    rows = [("missing", "tests", "why", "how to install it")]
    rows += [(what, str(number), why, brought_by) for (what, why, brought_by), number in sorted(counts.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    terminalreporter.section("skipped on this machine")
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        terminalreporter.write_line(line.rstrip())


@pytest.fixture(scope="session", autouse=True)
def _commands_of_the_venv() -> Iterator[None]:
    """`just` and the linters are in the venv's folder, which is on the PATH only if the venv is active."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield
