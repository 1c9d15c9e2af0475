"""Runs in a pod: a run is started once, and followed to its end when the session breaks."""

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

from tests.pods.standin import Clock, Standin
from tests.support import Answer, at_once, target
from workload_generator.base.errors import BenchError
from workload_generator.cluster.pods import agent, sessions
from workload_generator.cluster.pods.pod_run import PodRunEnd, RunLost, RunSpec, begin, exit_code_of, follow
from workload_generator.cluster.pods.sessions import Pod
from workload_generator.kube.errors import Busy, Unreachable

ONE, TWO = f"{os.getpid()}-1", f"{os.getpid()}-2"
"""Ids of runs, one set for each worker: the agent finds the processes of a run by its id."""

DONE = (0, 3)  # a busy machine may make a run invalid
EXPERIMENT = """
targets: [{{url: http://function.functions.svc.cluster.local}}]
rate: {{requestsPerSecond: {rps}, duration: {duration}, rampUp: 0s}}
limits: {{lag: {lag}}}
"""


def run(run_id: str, duration: str = "200ms", *flags: str, lag: str = "1h", processes: int = 1) -> RunSpec:
    """50 requests in 200 ms; a longer one of 50 a second is ended by its test."""
    text = EXPERIMENT.format(rps=250 if duration == "200ms" else 50, duration=duration, lag=lag)
    return RunSpec(run_id, "warm", "serving-scenario-1_50rps_go", text, ("--seed=1", *flags), processes)


async def start(
    standin: Standin, wanted: RunSpec, said: list[str] | None = None, answer: Answer = at_once
) -> PodRunEnd:
    say = (said if said is not None else []).append
    async with target(answer) as url:
        configure(standin, url)
        return await begin(standin.agent(), wanted, say)


class Gate:
    """Answers when it is opened, and not before: a run lasts as long as a test needs it."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        await at_once(writer)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
async def gate() -> Gate:
    return Gate()


def measures(standin: Standin) -> bool:
    """Whether the run sends what it measures."""
    logs = (standin.pod() / "logs").glob("*.log")
    return any(b'"phase":"measure"' in path.read_bytes() for path in logs)


def went_on(said: list[str]) -> bool:
    return any("following the run, which continues" in line for line in said)


def configure(standin: Standin, url: str) -> None:
    standin.configure(f"--dev-url={url.rstrip('/')}", PYTHONPATH=str(Path(__file__).parents[2]))


def log_of(standin: Standin, ended: PodRunEnd) -> list[dict[str, Any]]:
    (name,) = ended.logs
    return [json.loads(line) for line in (standin.pod() / "logs" / name).read_text().splitlines()]


async def until(holds: Callable[[], bool], running: asyncio.Task[PodRunEnd]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert not running.done(), running
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def begun(standin: Standin) -> bool:
    return any((standin.pod() / "logs").glob("*.log"))


async def test_a_run_has_the_generators_exit_code(standin: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    ended = await start(standin, run(ONE))
    lines = log_of(standin, ended)
    assert (
        ended.code == (0 if lines[-1]["verdict"] == "valid" else 3)
        and lines[0]["run_id"] == ONE
        and lines[0]["experiment"]["name"] == "warm"
    )
    assert sum(line["event"] == "request" for line in lines) == 50
    assert [command[:4] for command in standin.runs()] == [
        [
            "workload-generator",
            f"--config=/tmp/kn-bench/{ONE}/warm.yaml",
            f"--prefix={run('r1').prefix}",
            "--log-dir=/logs",
        ]
    ]
    assert "valid" in capsys.readouterr().out, "what the generator prints is printed"


async def test_an_invalid_run_is_3(standin: Standin) -> None:
    assert (await start(standin, run(ONE, lag="1ns"))).code == 3


async def test_two_processes_have_two_logs(standin: Standin) -> None:
    ended = await start(standin, run(ONE, "200ms", "--processes=2", processes=2))
    assert len(ended.logs) == len(ended.trailers) == 2


@pytest.mark.parametrize("cut", [0, 30])
async def test_a_broken_session_does_not_lose_the_run(standin: Standin, cut: int) -> None:
    standin.fault("^workload-generator", cut=cut)
    ended = await start(standin, run(ONE))
    assert ended.code in DONE and len(standin.runs()) == 1 and not standin.faults_left
    assert log_of(standin, ended)[-1]["counts"]["measure"]["ok"] == 50


async def test_a_session_that_breaks_during_the_run(standin: Standin, gate: Gate) -> None:
    said: list[str] = []
    flag = standin.folder / "now"
    standin.fault("^workload-generator", cut_when=str(flag))
    running = asyncio.create_task(start(standin, run(ONE), said, gate))
    await until(lambda: begun(standin), running)
    flag.touch()
    await until(lambda: went_on(said), running)
    gate.open()
    ended = await running
    assert ended.code in DONE and len(standin.runs()) == 1 and not standin.faults_left
    assert log_of(standin, ended)[-1]["counts"]["measure"]["ok"] == 50


async def test_sessions_may_break_while_the_run_is_followed(standin: Standin, gate: Gate) -> None:
    standin.fault("^workload-generator", cut=0, cut_when=str(standin.folder))
    standin.fault('"verb":"look"', refuse="error: unable to upgrade connection")
    standin.fault('"verb":"wait"', cut=0, cut_when=str(standin.folder))
    standin.fault('"verb":"wait"', refuse="Unable to connect to the server: EOF")
    running = asyncio.create_task(start(standin, run(ONE), None, gate))
    await until(lambda: not standin.faults_left, running)
    gate.open()
    assert (await running).code in DONE and len(standin.runs()) == 1


async def test_a_session_that_did_not_start_is_repeated(standin: Standin) -> None:
    standin.fault("^workload-generator", refuse="error: unable to upgrade connection: pod does not exist")
    assert (await start(standin, run(ONE))).code in DONE and len(standin.runs()) == 2


async def test_an_unavailable_api_server_is_waited_for(standin: Standin) -> None:
    agent = standin.agent()
    find, away = agent.find, [Unreachable("GET /: refused"), Busy("GET /: 503"), Unreachable("GET /: refused")]

    async def found() -> Pod:
        if away:
            raise away.pop()
        return await find()

    agent.find = found
    async with target(at_once) as url:
        configure(standin, url)
        assert (await begin(agent, run(ONE), print)).code in DONE
    assert not away and len(standin.runs()) == 1


async def test_a_silent_session_is_ended_and_the_run_followed(standin: Standin, gate: Gate, clock: Clock) -> None:
    said: list[str] = []
    standin.fault("^workload-generator", hang=0)
    running = asyncio.create_task(start(standin, run(ONE), said, gate))
    await until(lambda: begun(standin), running)
    assert not said
    clock.skip(sessions.SILENCE_S)
    await until(lambda: went_on(said), running)
    gate.open()
    assert (await running).code in DONE and len(standin.runs()) == 1


async def test_an_error_of_the_generator_is_reported_and_not_repeated(standin: Standin) -> None:
    with pytest.raises(BenchError, match=r"exit code 2:\n(.*\n)*.*unknown key"):
        await start(standin, RunSpec(ONE, "warm", "p", "targets: [{url: http://f}]\nrates: 3\n", ()))
    assert len(standin.runs()) == 1


async def test_another_run_in_progress_is_reported(standin: Standin, gate: Gate) -> None:
    first = asyncio.create_task(start(standin, run(ONE), None, gate))
    await until(lambda: begun(standin), first)
    with pytest.raises(BenchError, match=r"another run is in progress \(warm"):
        await begin(standin.agent(patience_s=5), run(TWO), print)
    gate.open()
    assert (await first).code in DONE


async def test_a_killed_run_is_lost_and_its_log_renamed(standin: Standin) -> None:
    running = asyncio.create_task(start(standin, run(ONE, "30s")))
    await until(lambda: measures(standin), running)
    for pid in agent.run_processes(ONE):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(RunLost, match="ended without its trailer"):
        await running
    logs = standin.pod() / "logs"
    assert not list(logs.glob("*.log")) and len(list(logs.glob("*.interrupted"))) == 1
    assert await follow(standin.agent(), run(ONE), print) is None


async def test_an_interrupt_ends_the_run_in_the_pod(standin: Standin) -> None:
    running = asyncio.create_task(start(standin, run(ONE, "30s")))
    await until(lambda: measures(standin), running)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = await follow(standin.agent(), run(ONE), print)
    assert ended is not None and ended.code == 143
    await standin.agent().ask("aside", **run(ONE).request)
    assert await follow(standin.agent(), run(ONE), print) is None


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
def test_the_exit_code_of_trailers(trailers: list[dict[str, Any]], code: int) -> None:
    assert exit_code_of(trailers) == code
