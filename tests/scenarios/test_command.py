"""`kn-bench scenario` on the embedded platform: called in this process, but for what is asked of signals."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.test_quickstart import KN_BENCH, descendants, gone
from tests.emulator.platforms import catalog_of
from workload_generator.commands import kn_bench, scenario
from workload_generator.commands.report import report_and_show

BUNDLED = Path(__file__).parents[2] / "experiments" / "scenarios"
BASE = """
limits: {lag: 1h}
rate: {requestsPerSecond: 20, duration: 500ms, rampUp: 0s}
"""
EXPERIMENTS = {
    "serving-scenario-1-go.yaml": f"targets: [{{url: http://replaced}}]\n{BASE}",
    "serving-scenario-2-go-long.yaml": """
targets: [{url: http://replaced}]
rate: {requestsPerSecond: 0.3, duration: 1s}
coldStart: {settle: 10ms}
limits: {lag: 1h}
""",
    "serving-scenario-3-100rps-go.yaml": f"targets: [{{url: http://replaced}}]\n{BASE}",
    "eventing-scenario-1-1000rps.yaml": f"targets: [{{url: sink}}]\nevent: {{type: t, data: x}}\n{BASE}",
    "events.yaml": f"targets: [{{url: sink}}]\nevent: {{type: t, data: x}}\n{BASE}",
}
EVENTS = 10
"""Of one run, at 20 a second."""
SOON = {"stable-window": "1s", "tick-interval": "50ms"}

Run = Callable[..., tuple[int, str]]


def environment(folder: Path) -> dict[str, str]:
    """Where the command finds short experiments, the bundled scenarios with short windows, and a light function."""
    experiments = folder / "experiments"
    (experiments / "scenarios").mkdir(parents=True, exist_ok=True)
    for name, text in EXPERIMENTS.items():
        (experiments / name).write_text(text)
    for path in BUNDLED.glob("*.yaml"):
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        document.setdefault("patch", {})["autoscaler"] = SOON
        for axis in ("triggers", "parallelism"):
            if axis in document:
                document[axis] = document[axis][-1:]
        (experiments / "scenarios" / path.name).write_text(yaml.safe_dump(document))
    functions = catalog_of(folder / "functions", "empty-python-http", "empty-sh-http", "sleep-python-http")
    return {
        "TMPDIR": str(folder),
        "EXPERIMENTS_DIR": str(experiments),
        "FUNCTIONS_DIR": str(functions),
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, without its report: the exit code, and what it and its children wrote."""
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)  # TMPDIR counts again
    monkeypatch.setattr(scenario, "report_and_show", lambda *_, **__: None)

    def command(scenario: str, *flags: str) -> tuple[int, str]:
        code = kn_bench.main(["scenario", scenario, f"--out={tmp_path / 'out'}", *flags])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err, captured.err
        return code, captured.out + captured.err

    return command


def start(folder: Path, scenario: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KN_BENCH, "scenario", scenario, f"--out={folder / 'out'}", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment(folder)},
        start_new_session=True,
    )


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "out" / "benchmark.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


RUNS = "SELECT scenario, language, rps, complete, concurrency FROM experiments ORDER BY rps, id"


def test_serving_1(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--languages=python", "--rates=20,30", "--repeats=1", "--path=activator", "--seed=1")
    with monkeypatch.context() as patched:
        patched.setattr(scenario, "report_and_show", report_and_show)
        code, out = run("serving-1", *flags)
    assert code in (0, 3), out
    cells = [("serving-scenario-1", "python", rps, 1, None) for rps in (20, 30)]
    assert rows(tmp_path, RUNS) == cells
    assert (tmp_path / "out" / "report.html").exists()
    names = [log.name for log in (tmp_path / "out" / "logs").glob("*.log")]
    assert all(re.fullmatch(r"serving-scenario-1_[23]0rps_python_[-_0-9]+\.log", name) for name in names), names
    state = json.loads((tmp_path / "out" / "scenario.json").read_text())
    assert {run["run_id"] for run in state["runs"]} == {
        row[0] for row in rows(tmp_path, "SELECT run_id FROM experiments")
    }
    invalid = {run["run_id"] for run in state["runs"] if run["code"] == 3}
    assert (code == 3) == bool(invalid) and all(run_id in out for run_id in invalid)
    again, out = run("serving-1", *flags[:-1])
    assert again == code and "2 of 2 runs are complete" in out and rows(tmp_path, RUNS) == cells
    code, out = run("serving-1", "--languages=python", "--rates=20", "--repeats=1")
    assert code == 2 and "would not be comparable" in out


def test_serving_2_is_cold(tmp_path: Path, run: Run) -> None:
    code, out = run("serving-2", "--languages=python,sh", "--repeats=2")
    assert code in (0, 3), out
    assert rows(tmp_path, RUNS) == [("serving-scenario-2", "all", 0.3, 1, None)] * 2
    assert rows(tmp_path, "SELECT cold, ok FROM experiments") == [(2, 2)] * 2, "each begins at zero"


def test_serving_3_has_one_request_at_a_time(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAY_MS", "200")
    code, out = run("serving-3", "--languages=python", "--rates=10", "--repeats=1")
    assert code in (0, 3), out
    assert rows(tmp_path, RUNS) == [("serving-scenario-3", "python", 10, 1, 1)]
    busy = rows(
        tmp_path,
        "SELECT instance, count(*) * 200.0, max(julianday(timestamp) * 86400000 + total_time) "
        "- min(julianday(timestamp) * 86400000) FROM requests GROUP BY instance",
    )
    for instance, needed_ms, took_ms in busy:  # each takes 200 ms, and the next one begins when it is over
        assert isinstance(needed_ms, float) and isinstance(took_ms, float) and took_ms > 0.95 * needed_ms, instance


def test_events_over_triggers_and_parallelism(tmp_path: Path, run: Run) -> None:
    scenario = tmp_path / "events-2.yaml"
    scenario.write_text(
        "scenario: eventing-scenario-2\nmode: event\nexperiment: events.yaml\n"
        "triggers: [1, 3]\nparallelism: [5]\nrates: [20]\nrepeats: 1\n"
    )
    code, out = run(str(scenario))
    assert code in (0, 3), out
    accounts = rows(
        tmp_path,
        "SELECT e.triggers, e.workers, a.once, a.lost FROM event_accounts a JOIN experiments e "
        "ON a.experiment_id = e.id ORDER BY 1",
    )
    assert accounts == [(1, 5, EVENTS, 0)] + [(3, 5, EVENTS, 0)] * 3
    assert not rows(tmp_path, "SELECT 1 FROM event_accounts WHERE delay_error IS NULL"), "every clock was measured"


@pytest.mark.parametrize(("name", "triggers", "workers"), [("1", 1, None), ("2", 10, None), ("3", 1, 20)])
def test_the_bundled_eventing_scenarios(
    tmp_path: Path, run: Run, name: str, triggers: int, workers: int | None
) -> None:
    """With the last value of each axis."""
    code, out = run(f"eventing-{name}", "--rates=20", "--repeats=1", "--platform=local")
    assert code in (0, 3), out
    query = """
        SELECT count(*), e.triggers, e.workers, sum(a.once), sum(a.lost), sum(a.duplicated)
        FROM event_accounts a JOIN experiments e ON a.experiment_id = e.id GROUP BY e.id"""
    assert rows(tmp_path, query) == [(triggers, triggers, workers, EVENTS * triggers, 0, 0)]


def measuring(logs: Path) -> bool:
    """Whether a run is in its measured time."""
    texts = [log.read_bytes() for log in logs.glob("*.log")]
    return any(b'"phase":"measure"' in text and b'"event":"run_finished"' not in text for text in texts)


def test_an_interrupted_scenario_leaves_no_process_and_resumes(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one signal after the other: twice in the first run, and in the second one once the first is done.

    A run whose signal comes after its last arrival ends as complete: then the next signal meets the second run.
    """
    flags = ("--languages=python", "--rates=20,30", "--repeats=1")
    hang, logs, state = tmp_path / "hang", tmp_path / "out" / "logs", tmp_path / "out" / "scenario.json"
    monkeypatch.setenv("HANG", str(hang))
    scenario = tmp_path / "mine.yaml"
    scenario.write_text((BUNDLED / "serving-1.yaml").read_text().replace("zero", "") + "duration: 2s\n")
    deadline = time.monotonic() + 100
    for number, code, done in ((signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 0), (signal.SIGKILL, -9, 1)):
        if not done:
            hang.touch()
        process = start(tmp_path, str(scenario), *flags)
        complete = 0
        while complete < done or not measuring(logs):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
            complete = len(json.loads(state.read_text())["runs"]) if state.exists() else 0
            if done and complete:
                hang.touch()
        below = descendants(process.pid)
        os.kill(process.pid, number)
        hang.unlink()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == code and "Traceback" not in stderr, stderr
        assert gone(below, within_s=30)
    again, out = run(str(scenario), *flags)
    assert again in (0, 3) and "1 of 2 runs are complete" in out, out
    assert rows(tmp_path, "SELECT rps, sum(complete) FROM experiments GROUP BY rps") == [(20, 1), (30, 1)]


def test_dry_run_prints_the_order_and_changes_nothing(tmp_path: Path, run: Run) -> None:
    code, out = run("serving-1", "--languages=python", "--rates=5,7", "--repeats=2", "--dry-run", "--seed=4")
    assert code == 0 and not (tmp_path / "out").exists()
    assert re.findall(r"repeat (\d)  serving-scenario-1_(\d)rps_python", out) and "2s of load" in out
    assert run("serving-1", "--languages=python", "--rates=5,7", "--repeats=2", "--dry-run", "--seed=4")[1] == out


@pytest.mark.parametrize(("platform", "said"), [("cluster", True), ("local", False)])
def test_a_dry_run_says_which_broker_has_a_parallelism(run: Run, platform: str, said: bool) -> None:
    code, out = run("eventing-3", f"--platform={platform}", "--dry-run")
    assert code == 0 and ("the triggers of an in-memory broker have none" in out) is said


def test_names_are_shown_as_they_are(tmp_path: Path, run: Run) -> None:
    """Of an experiment that does not exist, on stderr, and of one that does, on stdout."""
    name = "[red]a[b] :bomb: \x1b[2J"
    text = f"scenario: a\nexperiment: {json.dumps(name)}\nservices: empty-python-http-0\nrepeats: 1\n"
    path = tmp_path / "s.yaml"
    path.write_text(text)
    for expected in (2, 0):
        code, out = run(str(path), "--dry-run")
        assert code == expected and "[red]a[b] :bomb: \\x1b[2J" in out and "\x1b" not in out
        (tmp_path / name).write_text(EXPERIMENTS["serving-scenario-1-go.yaml"])


def test_a_flag_of_the_other_platform_is_refused(tmp_path: Path, run: Run) -> None:
    code, out = run("serving-1", "--languages=python", "--context=x")
    assert code == 2 and "--context cannot be used with --platform local" in out
    code, out = run("serving-1", "--platform=cluster", "--port=8080")
    assert code == 2 and "--port cannot be used with --platform cluster" in out


def test_invalid_input_is_refused_before_the_first_run(tmp_path: Path, run: Run) -> None:
    code, out = run("serving-1")
    assert code == 2 and "empty-go-http-0" in out and "--languages" in out
    bad = tmp_path / "bad.yaml"
    bad.write_text("scenario: a\nexperiment: none\nservices: empty-{language}-http-0\nlanguages: [python]\n")
    code, out = run(str(bad))
    assert code == 2 and "none: no such file, and no experiment of that name" in out
    bad.write_text(
        bad.read_text().replace("none", "serving-scenario-1-go") + "patch: {annotations: {max-scale: many}}\n"
    )
    code, out = run(str(bad))
    assert code == 2 and "max-scale: 'many' is not a number" in out
