"""`kn-bench scenario` on the embedded platform, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_quickstart import KN_BENCH, descendants, gone, python_functions

BASE = """
limits: {lag: 1h}
rate: {requestsPerSecond: 20, duration: 1s, rampUp: 0s}
"""
EXPERIMENTS = {
    "serving-scenario-1-go.yaml": f"targets: [{{url: http://replaced}}]\n{BASE}",
    "serving-scenario-2-go-long.yaml": """
targets: [{url: http://replaced}]
rate: {requestsPerSecond: 0.3, duration: 4s}
coldStart: {gap: 500ms}
limits: {lag: 1h}
""",
    "serving-scenario-3-100rps-go.yaml": f"targets: [{{url: http://replaced}}]\n{BASE}",
    "eventing-scenario-1-1000rps.yaml": f"targets: [{{url: sink}}]\nevent: {{type: t, data: x}}\n{BASE}",
    "events.yaml": f"targets: [{{url: sink}}]\nevent: {{type: t, data: x}}\n{BASE}",
}


def environment(folder: Path) -> dict[str, str]:
    experiments = folder / "experiments"
    experiments.mkdir(exist_ok=True)
    for name, text in EXPERIMENTS.items():
        (experiments / name).write_text(text)
    functions = python_functions(folder / "functions")
    return {
        **os.environ,
        "TMPDIR": str(folder),
        "EXPERIMENTS_DIR": str(experiments),
        "FUNCTIONS_DIR": str(functions),
        "SLEEP_MS": "200",
    }


def start(folder: Path, scenario: str, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KN_BENCH, "scenario", scenario, f"--out={folder / 'out'}", *flags]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(folder),
        start_new_session=True,
    )


def run(folder: Path, scenario: str, *flags: str) -> tuple[int, str]:
    process = start(folder, scenario, *flags)
    stdout, stderr = process.communicate(timeout=110)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stdout + stderr


def rows(folder: Path, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(folder / "out" / "benchmark.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


RUNS = "SELECT scenario, language, rps, complete, concurrency FROM experiments ORDER BY rps, id"


def test_serving_1(tmp_path: Path) -> None:
    flags = ("--languages=python", "--rates=20,30", "--repeats=2", "--seed=1")
    code, out = run(tmp_path, "serving-1", *flags)
    assert code in (0, 3), out
    cells = [("serving-scenario-1", "python", rps, 1, None) for rps in (20, 20, 30, 30)]
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
    again, out = run(tmp_path, "serving-1", *flags[:-1])
    assert again == code and "4 of 4 runs are done already" in out and rows(tmp_path, RUNS) == cells
    code, out = run(tmp_path, "serving-1", "--languages=python", "--rates=20", "--repeats=2")
    assert code == 2 and "would not be comparable" in out


def test_serving_2_is_cold(tmp_path: Path) -> None:
    scenario = tmp_path / "mine.yaml"
    bundled = Path(__file__).parents[2] / "experiments" / "scenarios" / "serving-2.yaml"
    text = bundled.read_text().replace(
        "stable-window: 10s, scale-to-zero-grace-period: 10s", "stable-window: 1s, tick-interval: 250ms"
    )
    scenario.write_text(text)
    code, out = run(tmp_path, str(scenario), "--languages=python", "--repeats=2")
    assert code in (0, 3), out
    assert rows(tmp_path, RUNS) == [("serving-scenario-2", "python", 0.3, 1, None)] * 2
    assert rows(tmp_path, "SELECT cold, ok FROM experiments") == [(2, 2)] * 2, (
        "the patch is on, and each begins at zero"
    )


def test_serving_3_has_one_request_at_a_time(tmp_path: Path) -> None:
    code, out = run(tmp_path, "serving-3", "--languages=python", "--rates=10", "--repeats=1")
    assert code in (0, 3), out
    assert rows(tmp_path, RUNS) == [("serving-scenario-3", "python", 10, 1, 1)]
    busy = rows(
        tmp_path,
        "SELECT instance, count(*) * 200.0, max(julianday(timestamp) * 86400000 + total_time) "
        "- min(julianday(timestamp) * 86400000) FROM requests GROUP BY instance",
    )
    for instance, needed_ms, took_ms in busy:  # each takes 200 ms, and the next one begins when it is over
        assert isinstance(needed_ms, float) and isinstance(took_ms, float) and took_ms > 0.95 * needed_ms, instance


def test_events_over_triggers_and_parallelism(tmp_path: Path) -> None:
    scenario = tmp_path / "events-2.yaml"
    scenario.write_text(
        "scenario: eventing-scenario-2\nmode: event\nexperiment: events.yaml\n"
        "triggers: [1, 3]\nparallelism: [5]\nrates: [20]\nrepeats: 1\n"
    )
    code, out = run(tmp_path, str(scenario))
    assert code in (0, 3), out
    accounts = rows(
        tmp_path,
        "SELECT e.triggers, e.workers, a.once, a.lost FROM event_accounts a JOIN experiments e "
        "ON a.experiment_id = e.id ORDER BY 1",
    )
    assert accounts == [(1, 5, 20, 0)] + [(3, 5, 20, 0)] * 3
    assert not rows(tmp_path, "SELECT 1 FROM event_accounts WHERE delay_error IS NULL"), "every clock was measured"


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("eventing-1", [(1, 10)]),
        ("eventing-2", [(triggers, 10) for triggers in (4, 6, 8, 10)]),
        ("eventing-3", [(1, parallelism) for parallelism in (5, 15, 20)]),
    ],
)
def test_the_bundled_eventing_scenarios(tmp_path: Path, name: str, cells: list[tuple[int, int]]) -> None:
    code, out = run(tmp_path, name, "--rates=20", "--repeats=1", "--platform=local")
    assert code in (0, 3), out
    query = """
        SELECT count(*) AS triggers, coalesce(e.workers, 10), sum(a.once), sum(a.lost), sum(a.duplicated)
        FROM event_accounts a JOIN experiments e ON a.experiment_id = e.id GROUP BY e.id ORDER BY 1, 2"""
    assert rows(tmp_path, query) == [(triggers, workers, 20 * triggers, 0, 0) for triggers, workers in cells]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_interrupted_in_a_run_it_leaves_nothing_running_and_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    flags = ("--languages=python", "--rates=20,30", "--repeats=1", "--duration=3s")
    process = start(tmp_path, "serving-1", *flags)
    logs, deadline = tmp_path / "out" / "logs", time.monotonic() + 60
    while sum(b'"phase":"measure"' in log.read_bytes() for log in logs.glob("*.log")) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    below = descendants(process.pid)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in stderr, stderr
    assert gone(below, within_s=30)
    again, out = run(tmp_path, "serving-1", *flags)
    assert again in (0, 3) and "1 of 2 runs are done already" in out, out
    assert rows(tmp_path, "SELECT rps, sum(complete) FROM experiments GROUP BY rps") == [(20, 1), (30, 1)]


def test_dry_run_prints_the_order_and_touches_nothing(tmp_path: Path) -> None:
    code, out = run(tmp_path, "serving-1", "--languages=python", "--rates=5,7", "--repeats=2", "--dry-run", "--seed=4")
    assert code == 0 and not (tmp_path / "out").exists()
    assert re.findall(r"repeat (\d)  serving-scenario-1_(\d)rps_python", out) and "4 s of load" in out
    assert (
        run(tmp_path, "serving-1", "--languages=python", "--rates=5,7", "--repeats=2", "--dry-run", "--seed=4")[1]
        == out
    )


def test_what_cannot_be_is_said_before_anything_runs(tmp_path: Path) -> None:
    code, out = run(tmp_path, "serving-1")
    assert code == 2 and "empty-go-http-0" in out and "--languages" in out
    bad = tmp_path / "bad.yaml"
    bad.write_text("scenario: a\nexperiment: none\nservices: empty-{language}-http-0\nlanguages: [python]\n")
    code, out = run(tmp_path, str(bad))
    assert code == 2 and "none: no such file, and no experiment of that name" in out
    bad.write_text(
        bad.read_text().replace("none", "serving-scenario-1-go") + "patch: {annotations: {max-scale: many}}\n"
    )
    code, out = run(tmp_path, str(bad))
    assert code == 2 and "max-scale: 'many' is not a number" in out
