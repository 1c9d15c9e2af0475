"""`kn-bench quickstart`, as a user runs it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"


def start(data: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KN_BENCH, "quickstart", f"--data={data}"]
    environment = {**os.environ, "TMPDIR": str(data.parent)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def descendants(pid: int) -> set[int]:
    """Processes below `pid`, as they are now."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry))
    found: set[int] = set()
    todo = [pid]
    while todo:
        todo += new if (new := children.get(todo.pop(), [])) else []
        found.update(new)
    return found


def gone(pids: set[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_two_quickstarts_are_two_experiments_and_leave_nothing_running(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for runs in (1, 2):
        process = start(data)
        while not (below := descendants(process.pid)):
            time.sleep(0.05)
        stdout, stderr = process.communicate(timeout=100)
        assert gone(below, within_s=5)
        assert process.returncode == 0, stderr
        assert "p99.9" in stdout and str(data / "benchmark.db") in stdout.replace("\n", "")
        connection = sqlite3.connect(data / "benchmark.db")
        rows = connection.execute(
            "SELECT language, scenario, planned, e.ok, complete, count(*) "
            "FROM experiments e JOIN requests r ON r.experiment_id = e.id GROUP BY e.id"
        ).fetchall()
        connection.close()
        assert rows == [("python", "serving-scenario-1", 2000, 2000, 1, 2000)] * runs


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -signal.SIGKILL)],
)
def test_however_it_ends_its_processes_end_too(
    tmp_path: Path, number: signal.Signals, to_group: bool, code: int
) -> None:
    process = start(tmp_path / "data")
    logs = tmp_path / "data" / "logs"
    deadline = time.monotonic() + 60
    while not any(log.stat().st_size > 10_000 for log in logs.glob("*.log")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    below = descendants(process.pid)
    assert len(below) >= 3, "function, generator and recorder"
    (os.killpg if to_group else os.kill)(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert gone(below, within_s=30)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path / "file" / "data")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and "--data" in stderr


def test_a_file_that_is_no_database_is_named_before_anything_runs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "benchmark.db").write_text("notes, and rather long ones: " * 40)
    process = start(data)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "benchmark.db: file is not a database" in stderr
    assert not list((data / "logs").iterdir())
