"""`kn-bench compare`: verdicts and errors."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.results import logs
from tests.results.logs import served
from workload_generator.base.exit_codes import ExitCode
from workload_generator.commands import kn_bench
from workload_generator.log.records import ErrorKind
from workload_generator.results.compare import Side, compare
from workload_generator.results.ingest.extract import extract


def runs(folder: Path, medians: list[float], lost: float = 0.0, verdict: str = "valid", **header: Any) -> Path:
    """A database of runs with these medians in ms."""
    folder.mkdir()
    draw = random.Random(len(medians))
    for number, median in enumerate(medians):
        results = [
            logs.failed(n, ErrorKind.TIMEOUT) if draw.random() < lost else served(n, median * draw.uniform(0.8, 1.3))
            for n in range(1, 200)
        ]
        head = logs.header(run_id=f"{folder.name}-{number}", **header)
        (folder / f"run_{number}.log").write_bytes(
            logs.line("run_started", head) + b"".join(logs.request_lines(results)) + logs.trailer(results, verdict)
        )
    extract(folder, folder / "x.db")
    return folder / "x.db"


def verdicts(a: Path, b: Path, **options: Any) -> dict[str, str]:
    return {change.figure: change.verdict for change in compare(Side("A", a), Side("B", b), **options).changes}


def run(*argv: str | Path) -> int:
    return kn_bench.main([str(word) for word in argv])


def test_worse_better_and_neither(tmp_path: Path) -> None:
    base = runs(tmp_path / "base", [1.0, 1.1, 1.05, 0.98, 1.02])
    slow = runs(tmp_path / "slow", [2.0, 2.1, 2.05, 1.98, 2.02])
    same = runs(tmp_path / "same", [1.01, 1.09, 1.06, 0.97, 1.03])
    assert verdicts(base, slow) == {"p50": "worse", "p99": "worse", "failed": "no difference shown"}
    assert verdicts(slow, base) == {"p50": "better", "p99": "better", "failed": "no difference shown"}
    assert set(verdicts(base, same).values()) == {"no difference shown"}
    (p50, *_) = compare(Side("A", base), Side("B", slow)).changes
    assert p50.difference.estimate == pytest.approx(1.96, abs=0.1)
    assert p50.difference.interval.low > 1.7 and p50.difference.interval.confidence >= 0.95
    assert p50.difference.superiority == 1


def test_losses_are_worse(tmp_path: Path) -> None:
    base, lossy = runs(tmp_path / "base", [1.0] * 5), runs(tmp_path / "lossy", [1.0] * 5, lost=0.1)
    assert verdicts(base, lossy)["failed"] == "worse"
    assert verdicts(base, lossy)["p99"] == "worse", "beyond the timeout"


def test_fail_on_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = runs(tmp_path / "base", [1.0, 1.1, 1.05, 0.98, 1.02])
    slow = runs(tmp_path / "slow", [2.0, 2.1, 2.05, 1.98, 2.02])
    assert run("compare", base, slow) == 0
    assert run("compare", base, slow, "--fail-on", "worse") == 3
    assert "2 worse, 0 better, 1 without a difference shown" in capsys.readouterr().out
    assert run("compare", slow, base, "--fail-on", "worse") == 0


@pytest.mark.parametrize("flags", [(), ("--fail-on", "worse")])
def test_too_few_runs_are_undecidable(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, slow = runs(tmp_path / "base", [1.0]), runs(tmp_path / "slow", [9.0])
    assert run("compare", base, slow, *flags) == ExitCode.UNDECIDABLE
    assert "too few runs to show any difference" in capsys.readouterr().out


def test_what_is_worse_is_worse_beside_what_is_undecidable(tmp_path: Path) -> None:
    """Of two languages one has enough runs on both sides."""

    def both(folder: Path, go: list[float], ts: list[float]) -> Path:
        runs(folder, go)
        runs(folder / "ts", ts, prefix="serving-scenario-1_2000rps_ts")
        for log in (folder / "ts").glob("*.log"):
            log.rename(folder / f"ts_{log.name}")
        extract(folder, folder / "x.db")
        return folder / "x.db"

    base = both(tmp_path / "base", [1.0, 1.1, 1.05, 0.98, 1.02], [1.0])
    slow = both(tmp_path / "slow", [2.0, 2.1, 2.05, 1.98, 2.02], [1.0])
    assert run("compare", base, slow, "--fail-on", "worse") == ExitCode.INVALID
    assert run("compare", slow, base, "--fail-on", "worse") == ExitCode.UNDECIDABLE


def test_experiments_of_one_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = runs(tmp_path / "base", [1.0, 1.1, 1.05, 0.98, 2.0, 2.1, 2.05, 1.98])
    assert run("compare", db, "--experiments", "1,2,3,4", "5,6,7,8", "--fail-on", "worse") == 3
    assert "B: experiments 5, 6, 7, 8" in capsys.readouterr().out
    assert run("compare", db, "--experiments", "1", "99") == 1
    assert "has no experiment 99" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rps": 500, "prefix": "serving-scenario-1_500rps_go"}, "no condition in common"),
        ({"platform": "kubernetes"}, "platform: host in"),
        ({"version": "9.9"}, "version of the generator: 0.1.0 in"),
        ({"arrival": "poisson"}, "no condition in common"),
    ],
)
def test_runs_that_are_not_comparable_are_compared_only_by_force(
    changes: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    base = runs(tmp_path / "base", [1.0] * 4)
    plain = logs.header
    own = {key: changes.pop(key) for key in ("platform", "version", "arrival") if key in changes}

    def header(**options: Any) -> dict[str, Any]:
        head = plain(**options)
        if "arrival" in own:
            head["experiment"]["config"]["rate"]["arrival"] = {"process": own["arrival"]}
        return head | {key: value for key, value in own.items() if key != "arrival"}

    monkeypatch.setattr(logs, "header", header)
    other = runs(tmp_path / "other", [1.0] * 4, **changes)
    assert run("compare", base, other) == 2
    assert reason in capsys.readouterr().err
    assert run("compare", base, other, "--force") == 0
    assert "not comparable, forced" in capsys.readouterr().out


def test_invalid_runs_are_compared_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, bad = runs(tmp_path / "base", [1.0] * 4), runs(tmp_path / "bad", [1.0] * 4, verdict="invalid")
    assert run("compare", base, bad) == 1
    assert "no valid run" in capsys.readouterr().err
    assert run("compare", base, bad, "--include-invalid") == 0


@pytest.mark.parametrize("argv", [["A.db"], ["A.db", "B.db", "C.db"], ["A.db", "B.db", "--experiments", "1", "2"]])
def test_how_many_databases(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", *argv) == 2
    assert "two databases, or one and --experiments" in capsys.readouterr().err
