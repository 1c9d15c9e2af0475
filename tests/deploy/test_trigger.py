"""`kn-bench trigger`: the API of a fake server, sessions by the stand-in, a real generator; once as a user runs it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.subscriptions import dead_subscriber
from tests.kube.fake_api import FakeApi, in_thread
from tests.pods.standin import Standin, served
from tests.support import at_once, target
from workload_generator.commands import kn_bench
from workload_generator.kube.resources import PODS

ENTRY = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
ROOT = Path(__file__).parents[2]
EXPERIMENT = """
targets: [{url: http://function.functions.svc.cluster.local}]
rate: {requestsPerSecond: 50, duration: 200ms, rampUp: 0s}
limits: {lag: %s}
"""


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        yield api


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    made = Standin(tmp_path / "cluster", monkeypatch)
    made.pod()
    yield made
    made.end()


def generator(api: FakeApi, *, event: bool = False) -> None:
    env = [{"name": "K_SINK", "value": "http://sink"}] if event else []
    api.put(
        PODS,
        {
            "metadata": {
                "namespace": "workload-generator",
                "name": "generator-1",
                "labels": {"app.kubernetes.io/name": "workload-generator"},
            },
            "spec": {"containers": [{"name": "workload-generator", "env": env}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        },
    )


def words(api: FakeApi, folder: Path, *flags: str) -> list[str]:
    config = api.write_kubeconfig(folder / "kubeconfig")
    return [sys.executable, "-c", ENTRY, "trigger", f"--kubeconfig={config}", f"--out={folder / 'out'}", *flags]


Trigger = Callable[..., tuple[int, str]]


@pytest.fixture
def trigger(api: FakeApi, standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Trigger:
    """The command in this process: its exit code, and what it said."""

    def run(*flags: str, lag: str = "1h") -> tuple[int, str]:
        (tmp_path / "mine.yaml").write_text(EXPERIMENT % lag)
        with served(at_once) as url:
            standin.configure(f"--dev-url={url.rstrip('/')}", PYTHONPATH=str(ROOT))
            code = kn_bench.main(words(api, tmp_path, f"--config={tmp_path / 'mine.yaml'}", *flags)[3:])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_a_run_its_code_and_its_log(api: FakeApi, standin: Standin, trigger: Trigger, tmp_path: Path) -> None:
    generator(api)
    code, out = trigger("--prefix=serving-scenario-1_20rps_go", "--rps=20", "--ping=true", "--seed=7")
    (log,) = (tmp_path / "out").glob("serving-scenario-1_20rps_go_*.log")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert code == (0 if lines[-1]["verdict"] == "valid" else 3), out
    measured = [line for line in lines if line["event"] == "request" and line["phase"] == "measure"]
    assert len(measured) == 4 and lines[0]["seed"] == 7
    assert any(line.get("phase") == "ping" for line in lines)
    assert f"{log}: " in out and "checked" in out and "in workload-generator/generator-1" in out
    (run,) = standin.runs()
    assert "--cold-start" not in run and "--processes=1" not in run


def test_an_invalid_run_says_so_by_its_code(api: FakeApi, trigger: Trigger, tmp_path: Path) -> None:
    generator(api)
    code, out = trigger(lag="1ns")
    assert code == 3 and list((tmp_path / "out").glob("*.log")), out


def test_a_session_that_is_cut_loses_nothing(api: FakeApi, standin: Standin, trigger: Trigger, tmp_path: Path) -> None:
    generator(api)
    standin.fault("workload-generator --config", cut=1)
    code, out = trigger()
    assert code in (0, 3), out
    (log,) = (tmp_path / "out").glob("*.log")
    assert json.loads(log.read_text().splitlines()[-1])["event"] == "run_finished"
    assert len(standin.runs()) == 1


def test_without_its_pod_it_says_what_is_there(
    api: FakeApi, standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator(api)
    code = kn_bench.main(words(api, tmp_path, "--config=cloudevent-250", "--event", "--timeout=500ms")[3:])
    assert code == 1
    told = capsys.readouterr().err
    assert (
        "ready pods of the ContainerSource with K_SINK in workload-generator after 0.5 s: 0 of 1; " in told
        and "generator-1 is Pending and ready" in told
    )
    assert standin.runs() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--config=serving-scenario-1-goo", "did you mean serving-scenario-1-go?"),
        ("", "--config"),
        ("--config=serving-scenario-1-go --rps=-1", "argument --rps: -1 is negative"),
        ("--config=serving-scenario-1-go --duration=0s", "argument --duration: must be longer than 0"),
        ("--config=serving-scenario-1-go --pods=0", "argument --pods: must be at least 1"),
        ("--config=serving-scenario-2-go --pods=2 --cold-start", "--pods: cold-start rounds cannot be shared"),
        ("--config=serving-scenario-2-go --processes=2 --cold-start=true", "--processes: cold-start rounds"),
        ("--config=cloudevent-250 --pods=2 --event", "--pods: a ContainerSource is one pod"),
        ("--config=serving-scenario-1-go --prefix=a/b", "argument --prefix: 'a/b' cannot begin a file name"),
        ("--config=serving-scenario-1-go --processes=257", "argument --processes: 257 is not from 1 to 256"),
        (
            "--config=serving-scenario-1-go --cold-start=maybe",
            "argument --cold-start: 'maybe' is neither true nor false",
        ),
    ],
)
def test_bad_input_names_the_flag_and_runs_nothing(
    api: FakeApi, standin: Standin, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    generator(api)
    try:
        code = kn_bench.main(words(api, tmp_path, *flags.split())[3:])
    except SystemExit as stopped:
        code = int(str(stopped.code))
    assert code == 2 and said in capsys.readouterr().err
    assert standin.calls == []


async def test_ctrl_c_ends_the_run_too(api: FakeApi, standin: Standin, tmp_path: Path) -> None:
    generator(api)
    (tmp_path / "mine.yaml").write_text(EXPERIMENT.replace("200ms", "60s") % "1h")
    async with target(at_once) as url:
        standin.configure(f"--dev-url={url.rstrip('/')}", PYTHONPATH=str(ROOT))
        command = words(api, tmp_path, f"--config={tmp_path / 'mine.yaml'}")
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        until = time.monotonic() + 60
        logs = standin.pod() / "logs"
        while not any(re.search('"phase":"measure"', path.read_text()) for path in logs.glob("*.log")):
            assert time.monotonic() < until and process.returncode is None
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130
    (log,) = logs.glob("*.log")
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["event"] == "run_finished" and "SIG" in str(last["reasons"])


def test_events_to_a_broker_with_dead_subscribers_are_refused(api: FakeApi, standin: Standin, trigger: Trigger) -> None:
    generator(api, event=True)
    dead_subscriber(api)
    code, out = trigger("--config=cloudevent-250", "--event")
    assert code == 1 and "has dead subscribers in its channel: receiver-7" in out and "doctor --fix" in out
    assert not standin.calls
