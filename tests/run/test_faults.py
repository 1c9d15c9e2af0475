"""A fault of ours, planted in each callback of a run, ends it: with exit code 1, and a log of everything up to there.

Runs are in this process, their recorder in a thread of it; a few at the end are real processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine import servers
from tests.support import Generator, at_once, target
from workload_generator.base.errors import GeneratorFault
from workload_generator.engine import engine, resolver
from workload_generator.engine.connection import Connection
from workload_generator.engine.dialer import Dial, Dialer
from workload_generator.engine.endpoint import Origin
from workload_generator.engine.engine import Engine
from workload_generator.engine.poller import Poller
from workload_generator.engine.pool import Pool, Stack
from workload_generator.engine.resolver import Resolver
from workload_generator.engine.response_cache import ResponseCache
from workload_generator.engine.timer import DeadlineTimer
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.engine.tls import TlsConnection
from workload_generator.experiment.load import load_experiment
from workload_generator.log import format as log_format
from workload_generator.log import recorder, wire, writer
from workload_generator.log.wire import BlockWriter
from workload_generator.log.writer import Log
from workload_generator.run import runner, signals
from workload_generator.run.cold_start import ColdStarts
from workload_generator.run.dispatcher import ClosedLoop, OneByOne, OpenLoop, Pings
from workload_generator.run.machine import Monitor
from workload_generator.run.plan import RunPlan
from workload_generator.run.runner import LoadRun
from workload_generator.run.targets import make_endpoints

ENDS_WITHIN_S = 20.0  # of a run that would hang: no other time is waited for


class Planted(Exception):
    """The fault."""


class InThread:
    """The recorder as `writer.Log` starts it, in a thread of this process."""

    def __init__(self, command: list[str], **_options: Any) -> None:
        log_fd, counts_fd, socket_fd = (os.dup(int(word)) for word in command[-3:])
        self.returncode: int | None = None
        self._counts = wire.shared_counts(counts_fd)
        self._thread = threading.Thread(target=self._record, args=(log_fd, socket.socket(fileno=socket_fd)))
        self._thread.start()

    def wait(self, timeout: float) -> int | None:
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise subprocess.TimeoutExpired("recorder", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        assert number == signal.SIGCONT, "a thread cannot be stopped"

    def _record(self, log_fd: int, generator: socket.socket) -> None:
        with generator:
            recorder.record(log_fd, self._counts, generator)
        os.close(log_fd)
        self.returncode = 0


class InProcess:
    """Runs in this process, to a server with a given behaviour."""

    def __init__(self, folder: Path) -> None:
        self._generator = Generator(folder)

    def plan(self, urls: list[str], mode: str = "closed", **keys: Any) -> RunPlan:
        rate = {"requestsPerSecond": 0 if mode == "closed" else 500, "duration": "60s"} | keys.pop("rate", {})
        closed = {"connections": 2, "maxIdleConnsPerHost": 2} if mode == "closed" else {}
        path = self._generator.experiment(urls, rate=closed | rate, **keys)
        return RunPlan(
            load_experiment(path), seed=1, cold_start=mode == "cold-start", ping=mode == "ping", prefix="p",
            log_dir=self._generator.logs, progress="none", run_id="r", started=datetime(2026, 1, 1),
        )  # fmt: skip

    async def run(self, plan: RunPlan, tls: Any = None) -> None:
        endpoints = make_endpoints(plan.experiment, None)
        if tls is not None:
            endpoints = [replace(each, origin=Origin(each.origin.host, each.origin.port, tls)) for each in endpoints]
        async with asyncio.timeout(ENDS_WITHIN_S):
            await LoadRun(plan, endpoints).execute()

    def read(self) -> list[dict[str, Any]]:
        """The lines of the log, each of them whole."""
        (path,) = self._generator.logs.glob("*.log")
        return [log_format.decode(line) for line in path.read_bytes().splitlines(keepends=True)]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    monkeypatch.setattr(writer, "subprocess", SimpleNamespace(Popen=InThread, **names))
    monkeypatch.setattr(engine, "_SWEEP_S", 0.02)
    monkeypatch.setattr(runner, "_HEARTBEAT_S", 0.02)
    return InProcess(tmp_path)


ALWAYS = 2**31


def plant(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, after: int, times: int = 1) -> None:
    """Have `where.name` raise, the first time after `after` calls."""
    original, calls = getattr(where, name), count()

    def planted(*args: Any, **options: Any) -> Any:
        if after <= next(calls) < after + times:
            raise Planted(name)
        return original(*args, **options)

    monkeypatch.setattr(where, name, planted, raising=False)


def count_results(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each result that was handed to the log."""
    recorded: list[str] = []

    def counted(name: str) -> Callable[..., None]:
        original = getattr(BlockWriter, name)

        def take(*args: Any) -> None:
            original(*args)
            recorded.append(name)

        return take

    for name in ("served", "add"):
        monkeypatch.setattr(BlockWriter, name, counted(name))
    return recorded


@dataclass(frozen=True)
class Case:
    """A fault in `where.name` at its call number `after`, in a run of `mode` to a server that does `behaviour`."""

    where: Any
    name: str
    mode: str = "closed"
    after: int = 0
    behaviour: Callable[[], servers.Behaviour] = servers.functions
    keys: dict[str, Any] | None = None
    tls: bool = False
    host: str = "127.0.0.1"
    trailer: bool = True

    def __str__(self) -> str:
        return f"{getattr(self.where, '__name__', '').rpartition('.')[2]}.{self.name}-{self.mode}"


def rate(**keys: Any) -> dict[str, Any]:
    return {"rate": keys}


SHORT = rate(duration="100ms")
CASES = [
    # Results
    Case(BlockWriter, "served", after=20),
    Case(BlockWriter, "served", "open", after=20),
    Case(BlockWriter, "served", "ping"),
    Case(BlockWriter, "add", after=3, behaviour=servers.hangs_up),
    Case(BlockWriter, "add", "open", after=3, behaviour=servers.silent, keys=rate(maxInFlight=5)),
    Case(BlockWriter, "take"),
    Case(Log, "_on_timer", after=3),
    Case(Log, "flush", after=5),
    Case(Log, "_on_reply", trailer=False),  # the recorder's first answer: nothing has been sent
    Case(Log, "_on_reply", after=1, keys=SHORT),
    # The dispatchers
    Case(ClosedLoop, "_fill"),
    Case(ClosedLoop, "_start_next", after=20),
    Case(ClosedLoop, "_start_next", after=1, behaviour=servers.hangs_up),  # after the pause
    Case(ClosedLoop, "_on_done", after=20),
    Case(ClosedLoop, "_on_done", after=3, behaviour=servers.hangs_up),
    Case(ClosedLoop, "stop", keys=SHORT),
    Case(ClosedLoop, "start"),
    Case(OpenLoop, "_start_due", "open", after=5),
    Case(OpenLoop, "_drop", "open", behaviour=servers.silent, keys=rate(maxInFlight=5)),
    Case(OpenLoop, "_advance", "open"),
    Case(OpenLoop, "stop", "open", keys=SHORT),
    Case(DeadlineTimer, "_on_readable", "open", after=5),
    Case(Pings, "_run", "ping"),
    Case(ColdStarts, "_run", "cold-start"),
    Case(OneByOne, "visit", "cold-start"),
    Case(OneByOne, "_on_end", "ping"),
    # The engine
    Case(Engine, "start", after=1),
    Case(Engine, "start", "open", after=5),
    Case(Engine, "start", "ping"),
    Case(Engine, "start_again", after=20),
    Case(Engine, "completed", after=20),
    Case(Engine, "completed", "open", after=20),
    Case(Engine, "failed", after=3, behaviour=servers.hangs_up),
    Case(Engine, "ended", "open", behaviour=servers.closes_after_each),
    Case(Engine, "opened", keys=rate(preconnect=2)),
    Case(Engine, "_on_opened", keys=rate(preconnect=2)),
    Case(Connection, "open", keys=rate(preconnect=40, connections=40, maxIdleConnsPerHost=40), after=20),
    Case(Engine, "_on_deadline", behaviour=servers.silent, keys=rate(timeout="50ms")),
    Case(Engine, "_sweep", "open"),
    Case(Engine, "drain", keys=SHORT),
    Case(Engine, "close", keys=SHORT),
    # The pool
    Case(Stack, "release", "open", after=5),
    Case(Stack, "release", keys=SHORT),
    Case(Stack, "take", "open", after=5),
    Case(Pool, "stack", trailer=False),  # nothing has been sent
    Case(Pool, "forget", "open", behaviour=servers.closes_after_each),
    Case(Pool, "close_stale", "open", after=2),
    Case(Pool, "close", keys=SHORT),
    # Connections
    Case(Connection, "_connect", "open"),
    Case(Dialer, "in_turn"),
    Case(Dial, "attempt"),
    Case(Dial, "_on_ready"),
    Case(Connection, "on_connected"),
    Case(Connection, "send_request", after=20),
    Case(Connection, "on_received", after=20),
    Case(Connection, "_on_data", after=20),
    Case(Connection, "_on_piece"),
    Case(Connection, "_complete"),
    Case(Connection, "_read_on", behaviour=lambda: servers.answers(b"x" * 100_000)),
    Case(Connection, "_on_end", behaviour=servers.hangs_up),
    Case(Connection, "close", after=2, behaviour=servers.hangs_up),
    Case(Connection, "on_lost", behaviour=lambda: servers.hangs_up(servers.End.RESET)),
    Case(Connection, "_on_answer", host="localhost"),
    Case(Resolver, "_on_answer", host="localhost"),
    Case(resolver, "_look_up", host="localhost"),
    # Reading
    Case(Poller, "_on_ready", after=20),
    Case(Poller, "_read", after=20),
    Case(Poller, "watch"),
    Case(Poller, "unwatch", after=2, behaviour=servers.hangs_up),
    Case(Poller, "close", keys=SHORT),
    Case(ReceiveClock, "compare", after=20),
    Case(ReceiveClock, "arrived_ns", after=20),
    Case(ResponseCache, "get", after=20),
    Case(ResponseCache, "learn"),
    Case(TlsConnection, "_shake_hands", tls=True),
    Case(TlsConnection, "_send", tls=True, after=5),
    Case(TlsConnection, "_plain_text", tls=True, after=5),
    # What watches the run
    Case(LoadRun, "_beat", "open", after=2),
    Case(Monitor, "_tick", "open", after=2),
    Case(Monitor, "stop", keys=SHORT),
    Case(runner, "judge", keys=SHORT),
]


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_fault_ends_the_run(
    case: Case, runs: InProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = count_results(monkeypatch)
    certificates = servers.Certificates() if case.tls else None
    context = certificates.server() if certificates is not None else None
    async with servers.serve(case.behaviour(), tls=context) as server:
        urls = [f"{server.scheme}://{case.host}:{server.port}/{number}" for number in range(2)]
        plan = runs.plan(urls, case.mode, **(case.keys or {}))
        plant(monkeypatch, case.where, case.name, case.after)
        with pytest.raises(GeneratorFault, match=f"the generator failed: .*Planted: {case.name}") as raised:
            await runs.run(plan, certificates.client() if certificates is not None else None)
    assert isinstance(raised.value.__cause__, Planted)
    assert "Traceback" in caplog.text and "Planted" in caplog.text
    lines = runs.read()
    rows = [line for line in lines if line["event"] == "request"]
    assert lines[0]["event"] == "run_started" and len(rows) == len({row["seq"] for row in rows}) == len(recorded)
    assert (lines[-1]["event"] == "run_finished") == case.trailer
    if case.trailer:
        assert lines[-1]["verdict"] == "invalid" and f"Planted: {case.name}" in lines[-1]["reasons"][0]
        assert sum(lines[-1]["counts"][phase]["sent"] for phase in ("ping", "measure")) == len(
            [row for row in rows if row.get("error") != "dropped"]
        )


@pytest.mark.parametrize(
    ("where", "name"),
    [(BlockWriter, "add"), (Connection, "abort"), (Log, "flush")],
    ids=str,
)
async def test_a_fault_that_comes_again_ends_the_run_too(
    where: Any, name: str, runs: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ending what is in flight meets it once more."""
    recorded = count_results(monkeypatch)
    async with servers.serve(servers.silent()) as server:
        plan = runs.plan([server.url], rate={"timeout": "50ms"})
        plant(monkeypatch, where, name, 3 if where is Log else 0, times=ALWAYS)
        with pytest.raises(GeneratorFault, match=f"Planted: {name}"):
            await runs.run(plan)
    lines = runs.read()
    assert sum(line["event"] == "request" for line in lines) == (0 if where is Log else len(recorded))


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("grace_s", [0.05, 60.0])
async def test_a_signal_ends_a_run_that_lost_what_was_in_flight(
    name: signal.Signals, grace_s: float, runs: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the grace, or at the second one."""
    monkeypatch.setattr(signals, "GRACE_S", grace_s)
    loop, lost = asyncio.get_running_loop(), count(1)

    def lose(*_: object) -> None:
        if next(lost) == 2:  # both connections wait now
            for number in range(1 if grace_s < 1 else 2):
                loop.call_later(0.1 * number, os.kill, os.getpid(), name)

    monkeypatch.setattr(Engine, "completed", lose)
    async with servers.serve(servers.functions()) as server:
        await runs.run(runs.plan([server.url]))
    *_, trailer = lines = runs.read()
    assert [line["error"] for line in lines if line["event"] == "request"] == ["cancelled"] * 2
    assert name.name in trailer["reasons"][0]


async def test_a_lost_request_ends_with_its_timeout(runs: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "completed", lambda *_: None)
    async with servers.serve(servers.functions()) as server:
        await runs.run(runs.plan([server.url], rate={"timeout": "50ms", "duration": "20ms"}))
    assert [line["error"] for line in runs.read() if line["event"] == "request"] == ["timeout"] * 2


async def test_a_signal_gives_up_the_trailer_of_a_run_that_failed(
    runs: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def conclude(_run: LoadRun, _fault: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(signals, "GRACE_S", 60.0)
    monkeypatch.setattr(LoadRun, "_conclude", conclude)
    plant(monkeypatch, Engine, "start_again", after=5)
    async with servers.serve(servers.functions()) as server:
        with pytest.raises(GeneratorFault, match="start_again; .* but no trailer"):
            await runs.run(runs.plan([server.url]))
    assert len([line for line in runs.read() if line["event"] == "request"]) > 5


async def test_an_exception_of_a_library_is_not_a_fault_of_the_generator(runs: InProcess) -> None:
    tell = {"message": "Fatal read error on socket transport", "exception": ConnectionResetError(), "transport": None}
    loop = asyncio.get_running_loop()
    async with servers.serve(servers.functions()) as server:
        loop.call_later(0.1, loop.call_exception_handler, tell)
        await runs.run(runs.plan([server.url], rate={"duration": "200ms"}))
    assert runs.read()[-1]["counts"]["measure"]["failed"] == 0


# Real processes


@pytest.mark.parametrize("processes", [1, 2])
async def test_many_targets_of_one_origin_over_one_connection(tmp_path: Path, processes: int) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        limits = {"requestsPerSecond": 0, "duration": "200ms", "connections": processes, "maxIdleConnsPerHost": 1}
        experiment = generator.experiment([f"{url}{number}" for number in range(50)], rate=limits)
        process = await generator.start("--progress=none", f"--config={experiment}", f"--processes={processes}")
        async with asyncio.timeout(ENDS_WITHIN_S):
            _, stderr = await process.communicate()
    assert process.returncode in (0, 3) and not stderr, stderr
    for path in generator.logs.glob("*.log"):
        lines = [log_format.decode(line) for line in path.read_bytes().splitlines(keepends=True)]
        measured = lines[-1]["counts"]["measure"]
        assert measured["ok"] == measured["planned"] == sum(line["event"] == "request" for line in lines) > 0
    assert len(list(generator.logs.glob("*.log"))) == processes


_FAULTY = """
import sys
from workload_generator.commands import workload_generator
from workload_generator.engine.pool import Stack

def release(stack, connection, now_ns):
    raise LookupError("planted")

Stack.release = release
sys.exit(workload_generator.main())
"""


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_command_reports_a_fault_and_exits_with_1(tmp_path: Path, processes: int) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        experiment = generator.experiment(url, rate={"requestsPerSecond": 50, "duration": "60s"})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _FAULTY, f"--config={experiment}", f"--log-dir={generator.logs}", "--progress=none",
            f"--processes={processes}",
            env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(ENDS_WITHIN_S):
            stdout, stderr = await process.communicate()
    assert process.returncode == 1 and not stdout
    *trace, message = stderr.decode().splitlines()
    assert message.startswith("workload-generator: the generator failed: ") and "LookupError: planted; " in message
    assert "Traceback (most recent call last):" in trace
    for path in generator.logs.glob("*.log"):
        lines = [log_format.decode(line) for line in path.read_bytes().splitlines(keepends=True)]
        assert lines[-1]["event"] == "run_finished" and "planted" in lines[-1]["reasons"][0]
        assert sum(line["event"] == "request" for line in lines) == lines[-1]["counts"]["measure"]["sent"] > 0
