"""Order, resumption and restoring, on a platform that is a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scenarios.platforms import FOUND, SCENARIO, FilePlatform, go, lines, prepare, restore
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.scenarios.model import WaitCondition


def runs(folder: Path) -> list[str]:
    return [line.split()[1] for line in lines(folder) if line.startswith("run ")]


def config(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "config.json").read_text())
    return found


def start_and_hang(folder: Path) -> subprocess.Popen[bytes]:
    """A scenario in a process of its own, which stays in its third run."""
    (folder / "hang").write_text("3")
    process = subprocess.Popen([sys.executable, "-m", "tests.scenarios.platforms", str(folder)])
    deadline = time.monotonic() + 60
    while len(runs(folder)) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_each_run_is_deployed_and_waited_for_and_the_settings_are_restored(tmp_path: Path) -> None:
    prepare(tmp_path)
    said = go(tmp_path, FilePlatform(tmp_path))
    log = lines(tmp_path)
    assert len(runs(tmp_path)) == 12 and log[-1] == "restore" and config(tmp_path) == FOUND
    for first in range(0, 48, 4):
        deploy, ready, zero, run = log[first : first + 4]
        language = run.split()[1].rpartition("_")[2]
        assert (deploy, ready, zero) == (f"deploy empty-{language}-http-0", "wait ready", "wait zero")
    assert sorted(runs(tmp_path)[:6]) == sorted(runs(tmp_path)[6:]) and runs(tmp_path)[:6] != runs(tmp_path)[6:]
    assert any("12 of 12" in line and "left" in line for line in said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_scenario_is_restored_and_resumed(tmp_path: Path, number: signal.Signals) -> None:
    prepare(tmp_path)
    FilePlatform(tmp_path)
    process = start_and_hang(tmp_path)
    done = 2
    assert config(tmp_path) == {"stable-window": "10s"}
    process.send_signal(number)
    code = process.wait(30)
    (tmp_path / "hang").unlink()
    state = json.loads((tmp_path / "out" / "scenario.json").read_text())
    assert len(state["runs"]) == done
    if number is signal.SIGKILL:
        assert code == -9 and state["found"] == FOUND and config(tmp_path) == {"stable-window": "10s"}
    else:
        assert code == 128 + number and state["found"] is None and config(tmp_path) == FOUND
    go(tmp_path, FilePlatform(tmp_path))
    assert len(runs(tmp_path)) == 13, "the run that was killed is the only one that was begun twice"
    (again,) = [line.split()[1:] for line in lines(tmp_path) if line.startswith("again")]
    assert again == [runs(tmp_path)[done], state["begun"]["run_id"]] and config(tmp_path) == FOUND


def test_restore_after_a_kill(tmp_path: Path) -> None:
    prepare(tmp_path)
    process = start_and_hang(tmp_path)
    process.kill()
    process.wait()
    assert config(tmp_path) != FOUND
    assert restore(tmp_path, FilePlatform(tmp_path)) and config(tmp_path) == FOUND
    assert not restore(tmp_path, FilePlatform(tmp_path))


def test_a_changed_scenario_is_refused_before_any_change(tmp_path: Path) -> None:
    prepare(tmp_path)
    go(tmp_path, FilePlatform(tmp_path))
    before = lines(tmp_path)
    for text, seed in ((SCENARIO.replace("[1, 2, 3]", "[1, 2, 4]"), 1), (SCENARIO, 2)):
        prepare(tmp_path, text)
        with pytest.raises(UsageError, match="12 runs in the folder would not be comparable"):
            go(tmp_path, FilePlatform(tmp_path), seed)
    assert lines(tmp_path) == before


def test_a_complete_scenario_repeats_no_run(tmp_path: Path) -> None:
    prepare(tmp_path)
    go(tmp_path, FilePlatform(tmp_path))
    before = lines(tmp_path)
    assert go(tmp_path, FilePlatform(tmp_path)) == ["12 of 12 runs are complete"] and lines(tmp_path) == before


def test_an_invalid_run_is_reported_and_the_scenario_continues(tmp_path: Path) -> None:
    prepare(tmp_path)
    platform = FilePlatform(tmp_path)
    platform.codes["serving-scenario-1_2rps_go"] = 3
    said = go(tmp_path, platform)
    assert sum("invalid" in line for line in said) == 2 and len(runs(tmp_path)) == 12


def test_a_failed_run_ends_the_scenario_and_is_repeated_by_the_next_start(tmp_path: Path) -> None:
    prepare(tmp_path)
    platform = FilePlatform(tmp_path)
    platform.codes["serving-scenario-1_2rps_go"] = 1
    with pytest.raises(BenchError, match=r"serving-scenario-1_2rps_go: .* exit code 1"):
        go(tmp_path, platform)
    assert config(tmp_path) == FOUND
    go(tmp_path, FilePlatform(tmp_path))
    assert len(runs(tmp_path)) == 13


def test_the_settings_are_restored_when_a_condition_times_out(tmp_path: Path) -> None:
    class Never(FilePlatform):
        def wait(self, condition: WaitCondition, deployment: object) -> None:
            raise BenchError("2 instances still exist after 600 s")

    prepare(tmp_path)
    with pytest.raises(BenchError, match="2 instances"):
        go(tmp_path, Never(tmp_path))
    assert config(tmp_path) == FOUND and not runs(tmp_path)


def test_two_scenarios_cannot_use_one_folder(tmp_path: Path) -> None:
    prepare(tmp_path)
    process = start_and_hang(tmp_path)
    try:
        with pytest.raises(UsageError, match="is in use by another scenario"):
            go(tmp_path, FilePlatform(tmp_path))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("text", ["", "{", '{"schema": 9}', "[]", '{"schema": 1, "runs": []}'])
def test_an_invalid_state_file_is_named(tmp_path: Path, text: str) -> None:
    prepare(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "scenario.json").write_text(text)
    with pytest.raises(UsageError, match=r"scenario\.json (is|has)"):
        go(tmp_path, FilePlatform(tmp_path))
