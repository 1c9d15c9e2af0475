"""`just test-all`: the parts, and the table of their results."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.parts import PARTS, Part, main

CONTRIBUTING = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def rows(printed: str) -> dict[str, list[str]]:
    lines = [line for line in printed.splitlines() if re.search(r"\d:\d\d", line)]
    return {cells[0]: cells[1:] for cells in (re.split(r"  +", line) for line in lines)}


def test_the_table_lists_each_part_and_a_failure_sets_the_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    parts = [
        Part("good", 1, [python("pass"), python("import os; assert os.environ['A'] == 'b'")], environment={"A": "b"}),
        Part("bad", 2, [python("raise SystemExit(3)"), python("print('never')")]),
        Part("elsewhere", 3, [python("print('never')")], lambda: "no toolchain"),
    ]
    assert main([], parts) == 1
    out, _ = capfd.readouterr()
    printed = rows(out)
    assert printed["good"][0] == "passed" and "never" not in out.replace("print('never')", "")
    assert printed["bad"][0] == "failed" and printed["bad"][-1].endswith("exit code 3")
    assert printed["elsewhere"][0] == "not run" and printed["elsewhere"][2:] == ["3:00", "no toolchain"]
    assert printed["all"][-1] == "6:00"
    assert main(["good", "elsewhere"], parts) == 0
    assert "bad" not in rows(capfd.readouterr()[0])


def test_an_unknown_part_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["imagge"])
    assert "no such part: imagge" in capsys.readouterr().err


def test_contributing_has_the_budget_of_each_part() -> None:
    listed = dict(re.findall(r"^\| `([a-z -]+)` \| (\d+) \|", CONTRIBUTING, re.MULTILINE))
    assert listed == {part.name: str(part.minutes) for part in PARTS}
    assert sum(part.minutes for part in PARTS) <= 20
