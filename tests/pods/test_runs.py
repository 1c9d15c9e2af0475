"""Runs in a pod: whatever becomes of the session, the run is followed to its end, and begun once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pods.standin import Standin
from tests.support import at_once, target
from workload_generator.cluster.pods import podside, sessions
from workload_generator.cluster.pods.podrun import Ended, Lost, Run, begin, code_of, follow, set_aside
from workload_generator.cluster.pods.sessions import Patience, Pod
from workload_generator.errors import BenchError
from workload_generator.kube.errors import Busy, Unreachable

DONE = (0, 3)  # a busy machine may make a run invalid
EXPERIMENT = """
targets: [{{url: http://function.functions.svc.cluster.local}}]
rate: {{requestsPerSecond: 50, duration: {duration}, rampUp: 0s}}
limits: {{lag: {lag}}}
"""


def run(run_id: str, duration: str = "1s", lag: str = "1h", *flags: str, processes: int = 1) -> Run:
    text = EXPERIMENT.format(duration=duration, lag=lag)
    return Run(run_id, "warm", "serving-scenario-1_50rps_go", text, ("--seed=1", *flags), processes)


async def start(standin: Standin, wanted: Run, said: list[str] | None = None, patience_s: float = 20.0) -> Ended:
    say = (said if said is not None else []).append
    async with target(at_once) as url:
        configure(standin, url)
        return await begin(standin.place(patience_s), wanted, say, Patience(patience_s))


def configure(standin: Standin, url: str) -> None:
    standin.configure(f"--dev-url={url.rstrip('/')}", PYTHONPATH=str(Path(__file__).parents[2]))


def log_of(standin: Standin, ended: Ended) -> list[dict[str, Any]]:
    (name,) = ended.logs
    return [json.loads(line) for line in (standin.pod() / "logs" / name).read_text().splitlines()]


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_run_ends_with_the_generators_code(standin: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    ended = await start(standin, run("r1"))
    lines = log_of(standin, ended)
    assert (
        ended.code == (0 if lines[-1]["verdict"] == "valid" else 3)
        and lines[0]["run_id"] == "r1"
        and lines[0]["experiment"]["name"] == "warm"
    )
    assert sum(line["event"] == "request" for line in lines) == 50
    assert [command[:4] for command in standin.runs()] == [
        ["workload-generator", "--config=/tmp/kn-bench/r1/warm.yaml", f"--prefix={run('r1').prefix}", "--log-dir=/logs"]
    ]
    assert "valid" in capsys.readouterr().out, "what the generator prints is printed"


async def test_an_invalid_run_is_3(standin: Standin) -> None:
    assert (await start(standin, run("r1", lag="1ns"))).code == 3


async def test_two_processes_have_two_logs(standin: Standin) -> None:
    ended = await start(standin, run("r1", "1s", "1h", "--processes=2", processes=2))
    assert len(ended.logs) == len(ended.trailers) == 2


@pytest.mark.parametrize("cut", [0, 30, "log"])
async def test_a_cut_session_never_loses_the_run(standin: Standin, cut: int | str) -> None:
    said: list[str] = []
    logs = standin.pod() / "logs"
    if cut == "log":
        flag = standin.folder / "now"
        standin.fault("^workload-generator", cut_when=str(flag))
        running = asyncio.create_task(start(standin, run("r1", "3s"), said))
        await until(lambda: any(b'"phase":"measure"' in path.read_bytes() for path in logs.glob("*.log")))
        flag.touch()
        ended = await running
        assert any("the run goes on" in line for line in said)
    else:
        standin.fault("^workload-generator", cut=cut)
        ended = await start(standin, run("r1"), said)
    assert ended.code in DONE and len(standin.runs()) == 1 and not standin.faults_left
    assert log_of(standin, ended)[-1]["counts"]["measure"]["ok"] in (50, 150)


async def test_sessions_may_be_cut_again_while_the_run_is_followed(standin: Standin) -> None:
    standin.fault("^workload-generator", cut=0, cut_when=str(standin.folder))
    standin.fault('"verb":"look"', refuse="error: unable to upgrade connection")
    standin.fault('"verb":"wait"', cut=0, cut_when=str(standin.folder))
    standin.fault('"verb":"wait"', refuse="Unable to connect to the server: EOF")
    ended = await start(standin, run("r1", "3s"))
    assert ended.code in DONE and len(standin.runs()) == 1 and not standin.faults_left


async def test_a_session_that_never_came_about_is_tried_again(standin: Standin) -> None:
    standin.fault("^workload-generator", refuse="error: unable to upgrade connection: pod does not exist")
    assert (await start(standin, run("r1"))).code in DONE and len(standin.runs()) == 2


async def test_an_api_server_that_is_away_is_waited_for(standin: Standin) -> None:
    place = standin.place()
    find, away = place.find, [Unreachable("GET /: refused"), Busy("GET /: 503"), Unreachable("GET /: refused")]

    async def found() -> Pod:
        if away:
            raise away.pop()
        return await find()

    place.find = found
    async with target(at_once) as url:
        configure(standin, url)
        assert (await begin(place, run("r1"), print, Patience(20))).code in DONE
    assert not away and len(standin.runs()) == 1


async def test_a_session_that_is_silent_is_left_and_the_run_followed(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "SILENCE_S", 1.0)
    standin.fault("^workload-generator", hang=0)
    assert (await start(standin, run("r1", "2s"))).code in DONE and len(standin.runs()) == 1


async def test_what_the_generator_refuses_is_said_and_not_tried_again(standin: Standin) -> None:
    with pytest.raises(BenchError, match=r"exit code 2:\n(.*\n)*.*unknown key"):
        await start(standin, Run("r1", "warm", "p", "targets: [{url: http://f}]\nrates: 3\n", ()))
    assert len(standin.runs()) == 1


async def test_another_run_in_progress_is_said(standin: Standin) -> None:
    first = asyncio.create_task(start(standin, run("r1", "3s")))
    await until(lambda: bool(list((standin.pod() / "logs").glob("*.log"))))
    with pytest.raises(BenchError, match=r"another run is in progress \(warm"):
        await begin(standin.place(), run("r2"), print, Patience(5))
    assert (await first).code in DONE


async def test_a_killed_generator_is_lost_and_its_log_set_aside(standin: Standin) -> None:
    running = asyncio.create_task(start(standin, run("r1", "30s")))
    logs = standin.pod() / "logs"
    await until(lambda: any(b'"phase":"measure"' in path.read_bytes() for path in logs.glob("*.log")))
    for pid in podside.run_processes("r1"):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(Lost, match="ended without its trailer"):
        await running
    assert not list(logs.glob("*.log")) and len(list(logs.glob("*.interrupted"))) == 1
    assert await follow(standin.place(), run("r1"), print) is None


async def test_an_interrupted_run_is_ended_in_the_pod_too(standin: Standin) -> None:
    running = asyncio.create_task(start(standin, run("r1", "30s")))
    logs = standin.pod() / "logs"
    await until(lambda: any(b'"phase":"measure"' in path.read_bytes() for path in logs.glob("*.log")))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = await follow(standin.place(), run("r1"), print)
    assert ended is not None and ended.code == 143
    await set_aside(standin.place(), run("r1"))
    assert await follow(standin.place(), run("r1"), print) is None


@pytest.mark.parametrize(
    ("trailers", "code"),
    [
        ([{"verdict": "valid", "reasons": [], "thresholds": []}], 0),
        ([{"verdict": "valid", "reasons": None, "thresholds": [{"passed": True}]}], 0),
        ([{"verdict": "valid", "reasons": [], "thresholds": [{"passed": False}]}], 3),
        ([{"verdict": "invalid", "reasons": ["lag p99"], "thresholds": []}], 3),
        ([{"verdict": "invalid", "reasons": ["stopped by SIGTERM after 1s of 2s"], "thresholds": []}], 143),
        ([{"verdict": "invalid", "reasons": ["stopped by SIGINT after 1s of 2s"], "thresholds": []}], 130),
    ],
)
def test_the_code_that_trailers_tell(trailers: list[dict[str, Any]], code: int) -> None:
    assert code_of(trailers) == code
