"""`kn-bench quickstart`, as a user runs it."""

from __future__ import annotations

import os
import signal
import socket
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

from tests.emulator.platforms import catalog_of
from tests.support import catches
from workload_generator.base.errors import UsageError
from workload_generator.commands import kn_bench, quickstart, scenario
from workload_generator.commands.quickstart import plan
from workload_generator.emulator.settings import load_config
from workload_generator.experiment.load import load_experiment
from workload_generator.functions.catalog import find_catalog, load_catalog
from workload_generator.scenarios.emulator import EmulatorPlatform
from workload_generator.scenarios.runner import ScenarioPlan

EXPERIMENTS = {
    "quickstart-warm.yaml": """
targets: [{url: "http://empty-python-http-0.functions.svc.cluster.local"}]
rate: {requestsPerSecond: 200, duration: 500ms, rampUp: 0s}
limits: {lag: 1h}
""",
    "quickstart-cold.yaml": """
targets: [{url: "http://empty-python-http-0.functions.svc.cluster.local"}]
rate: {requestsPerSecond: 0.1, duration: 20s}
coldStart: {settle: 10ms}
limits: {lag: 1h}
""",
    "quickstart-concurrency.yaml": """
targets: [{url: "http://sleep-python-http-0.functions.svc.cluster.local"}]
rate: {requestsPerSecond: 20, duration: 1s, rampUp: 0s}
limits: {lag: 1h}
""",
    "quickstart-events.yaml": """
targets: [{url: sink}]
event: {type: t, data: '{"n": ${seq}}'}
rate: {requestsPerSecond: 100, duration: 500ms, rampUp: 0s}
limits: {lag: 1h}
""",
}
"""The quickstart's experiments, shorter: it takes what stands in $EXPERIMENTS_DIR first."""

BUNDLED = Path(__file__).parents[2] / "experiments" / "scenarios"
SCENARIOS: dict[str, dict[str, Any]] = {
    "quickstart-warm": {},
    "quickstart-cold": {"patch": {"autoscaler": {"stable-window": "1s", "tick-interval": "50ms"}}},
    "quickstart-concurrency": {
        "rates": [20], "patch": {"containerConcurrency": 1, "annotations": {"max-scale": "2", "queue-limit": "5"}},
    },
    "quickstart-events": {"rates": [100]},
}  # fmt: skip
"""What is other in its scenarios."""

KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"


def environment(data: Path, functions: Path | None = None) -> dict[str, str]:
    """Short experiments; functions that start fast, unless others are given."""
    folder = next(parent for parent in data.parents if parent.is_dir())
    experiments = folder / "experiments"
    for name, text in EXPERIMENTS.items():
        path = experiments / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (experiments / "scenarios").mkdir(exist_ok=True)
    for name, changes in SCENARIOS.items():
        document = yaml.safe_load((BUNDLED / f"{name}.yaml").read_text())
        (experiments / "scenarios" / f"{name}.yaml").write_text(yaml.safe_dump(document | changes))
    functions = functions or catalog_of(folder / "functions", "empty-python-http", "sleep-python-http")
    folders = {"TMPDIR": folder, "EXPERIMENTS_DIR": experiments, "FUNCTIONS_DIR": functions}
    return {"SLEEP_MS": "200", **{name: str(path) for name, path in folders.items()}}


def start(data: Path, *flags: str, functions: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KN_BENCH, "quickstart", f"--data={data}", *flags]
    folders = {**os.environ, **environment(data, functions)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=folders, start_new_session=True
    )


def run_here(monkeypatch: pytest.MonkeyPatch, data: Path, *flags: str, functions: Path | None = None) -> int:
    """The command in this process; its exit code."""
    for name, value in environment(data, functions).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)  # TMPDIR counts again
    return kn_bench.main(["quickstart", f"--data={data}", *flags])


def python_functions(folder: Path) -> Path:
    """The Python functions alone, whatever else is built in this checkout."""
    if not folder.exists():
        folder.mkdir()
        entries = yaml.safe_load((find_catalog() / "catalog.yaml").read_text())["functions"]
        kept = [entry for entry in entries if entry["name"] in ("empty-python-http", "sleep-python-http")]
        (folder / "catalog.yaml").write_text(yaml.safe_dump({"functions": kept}))
        for entry in kept:
            (folder / entry["name"]).symlink_to(find_catalog() / entry["name"])
    return folder


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


def test_a_quickstart_is_four_scenarios_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, functions = tmp_path / "data", python_functions(tmp_path / "python")
    process = start(data, functions=functions)
    while not (below := descendants(process.pid)):
        time.sleep(0.05)
    stdout, stderr = process.communicate(timeout=100)
    assert gone(below, within_s=5)
    assert process.returncode == 0, stderr
    assert "p99.9" in stdout and str(data / "benchmark.db") in stdout.replace("\n", "")
    warm, starts, busy = (
        ("python", f"serving-scenario-{number}", "local", concurrency, planned, 1, planned)
        for number, concurrency, planned in ((1, None, 100), (2, None, 2), (3, 1, 20))
    )
    events = ("broker default/default", "eventing-scenario-1", "local", None, 50, 1, 50)
    assert runs(data) == [events, warm, starts, busy]
    assert accounts(data) == [("receiver-0", 50, 50, 0, 0), ("receiver-1", 50, 50, 0, 0)]
    assert "Events by trigger" in stdout and "End-to-end delay" in stdout
    cold = ask(data, "SELECT cold, ok FROM experiments WHERE scenario = 'serving-scenario-2'")
    assert cold == [(2, 2)], "each from zero"
    assert "cold starts proven: 2 of 2; on average, in ms:" in stdout
    (phases,) = [line for line in stdout.splitlines() if line.startswith("  empty-python-http-0 (2): ")]
    assert all(f" {name} " in phases for name in ("created", "listening", "ready", "first byte")), phases
    ((ok, refused),) = ask(
        data,
        "SELECT sum(status = 200), sum(status = 503) FROM requests r JOIN experiments e ON r.experiment_id = e.id "
        "WHERE e.scenario = 'serving-scenario-3'",
    )
    assert ok > 0 and refused > 0 and ok + refused == 20
    assert not list(tmp_path.glob("kn-bench-*")), "its own folder is gone"

    # Another one adds its runs: here only that of events.
    monkeypatch.setattr(quickstart, "plan", lambda *known: plan(*known)[3:])
    monkeypatch.setattr(scenario, "report_and_show", lambda *_, **__: None)
    assert run_here(monkeypatch, data, functions=functions) == 0
    assert runs(data) == [events] * 2 + [warm, starts, busy]
    assert accounts(data) == [("receiver-0", 50, 50, 0, 0), ("receiver-1", 50, 50, 0, 0)] * 2


def ask(data: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(data / "benchmark.db")
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def runs(data: Path) -> list[tuple[Any, ...]]:
    return ask(
        data,
        "SELECT language, scenario, platform, concurrency, planned, complete, "
        "(SELECT count(*) FROM requests WHERE experiment_id = e.id) FROM experiments e ORDER BY scenario, id",
    )


def accounts(data: Path) -> list[tuple[Any, ...]]:
    columns = "trigger, acknowledged, once, lost, unaccounted"
    return ask(data, f"SELECT {columns} FROM event_accounts ORDER BY experiment_id, trigger")


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -signal.SIGKILL)],
)
def test_however_it_ends_its_processes_end_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, to_group: bool, code: int
) -> None:
    hang = tmp_path / "hang"
    hang.touch()  # so that the first run does not end before the signal comes
    monkeypatch.setenv("HANG", str(hang))
    process = start(tmp_path / "data")
    logs = tmp_path / "data" / "logs"
    wait_until(lambda: any(log.stat().st_size > 10_000 for log in logs.glob("*.log")), process)
    below = descendants(process.pid)
    assert len(below) >= 4, "platform, function, generator and recorder"
    (os.killpg if to_group else os.kill)(process.pid, number)
    hang.unlink()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert gone(below, within_s=30)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "moment", ["it loads its modules", "it has a folder", "it has a child", "the platform speaks", "a run begins"]
)
def test_ctrl_c_at_any_moment(tmp_path: Path, moment: str) -> None:
    data = tmp_path / "data"
    process = start(data)
    wait_until(lambda: catches(process.pid, signal.SIGTERM), process)  # before that, Python itself is starting
    said, logs = data / "platform.txt", data / "logs"
    seen: dict[str, Callable[[], bool]] = {
        "it has a folder": logs.exists,
        "it has a child": lambda: bool(descendants(process.pid)),
        "the platform speaks": lambda: said.exists() and said.stat().st_size > 0,
        "a run begins": lambda: any(logs.glob("*.log")),
    }
    if moment in seen:
        wait_until(seen[moment], process)
    below = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in stderr, stderr
    assert gone(below, within_s=30)


def test_a_port_that_is_taken_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_here(monkeypatch, tmp_path / "data", f"--port={port}") == 2
    said = capsys.readouterr().err
    assert f"port {port} on 127.0.0.1 is in use" in said and "--port" in said


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run_here(monkeypatch, tmp_path / "file" / "data") == 2
    assert "--data" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "benchmark.db").write_text("notes, and rather long ones: " * 40)
    assert run_here(monkeypatch, data) == 1
    assert "benchmark.db: file is not a database" in capsys.readouterr().err
    assert not list((data / "logs").iterdir())


def folder_of(tmp_path: Path, *names: str) -> Path:
    """A folder of functions: those of `names` are built."""
    entries = []
    for name in ("empty-go-http", "empty-python-http", "empty-ts-http", "sleep-python-http"):
        (tmp_path / name).mkdir()
        if name in names:
            (tmp_path / name / "built").touch()
        entry = "language: x, framework: y, image: z, produces: [built], run: ./built"
        entries.append(f"  - {{name: {name}, {entry}}}\n")
    (tmp_path / "catalog.yaml").write_text("functions:\n" + "".join(entries))
    return tmp_path


def test_it_runs_every_language_that_is_built(tmp_path: Path) -> None:
    said: list[str] = []
    functions = load_catalog(folder_of(tmp_path, "empty-ts-http", "empty-python-http", "sleep-python-http"))
    parts = plan(functions, said.append)
    plans = [ScenarioPlan(part, path, "local", 1).runs for path, part in parts]
    assert sorted((run.prefix, run.setup.services) for runs in plans for run in runs) == sorted(
        [
            ("serving-scenario-1_200rps_python", ("empty-python-http-0",)),
            ("serving-scenario-1_200rps_ts", ("empty-ts-http-0",)),
            ("serving-scenario-2_all", ("empty-python-http-0", "empty-ts-http-0")),
            ("serving-scenario-3_12rps_python", ("sleep-python-http-0",)),
            ("eventing-scenario-1_2triggers_200rps", ()),
        ]
    )
    assert said == ["skipping languages whose functions are not built: go"]
    (cold,) = plans[1]
    (tmp_path / f"{cold.name}.yaml").write_text(cold.text)
    narrow = load_experiment(tmp_path / f"{cold.name}.yaml")
    assert narrow.name == "quickstart-cold"
    assert [target.url for target in narrow.targets] == [
        f"http://empty-{language}-http-0.functions.svc.cluster.local" for language in ("python", "ts")
    ]


def test_the_embedded_platform_takes_the_bundled_settings(tmp_path: Path) -> None:
    for path, part in plan(load_catalog(), print):
        EmulatorPlatform(None, part, tmp_path, tmp_path / "said", tmp_path)
        if path.stem == "quickstart-concurrency":
            config = load_config(tmp_path / "patch", load_catalog(), {})
            assert config.settings_of("sleep-python-http-0").container_concurrency == 1


def test_nothing_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="functions build"):
        plan(load_catalog(folder_of(tmp_path)), print)
