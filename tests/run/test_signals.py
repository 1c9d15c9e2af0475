"""Signals at any moment, to any process of a run: it ends in time, its log is closed, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import Generator, after, at_once, catches, children_of, target
from tests.warm import Process
from workload_generator.log import format as log_format
from workload_generator.results.ingest.extract import extract
from workload_generator.run.signals import GRACE_S

DRAINED_S = GRACE_S + 2
NEVER = after(60)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_preconnect(tmp_path: Path, processes: int, number: signal.Signals) -> None:
    """The TLS handshakes get no response for the 30 s of the requests' timeout."""
    generator = Generator(tmp_path)
    reached = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    path = generator.experiment(url, rate={"duration": "60s", "preconnect": 4})
    process = await generator.start(f"--config={path}", "--progress=none", f"--processes={processes}")
    await reached.wait()
    process.send_signal(number)
    began = time.monotonic()
    await process.communicate()
    code = process.returncode
    server.close()
    assert code == 128 + number and time.monotonic() - began < DRAINED_S
    for log in generator.logs.glob("*.log"):
        trailer = log_format.decode(log.read_bytes().splitlines()[-1])
        assert trailer["reasons"] == [f"stopped by {number.name} after 0s of 1m"], "and nothing else"


_BETWEEN_FORKS = """
import os, signal, sys
from workload_generator.__main__ import workload_generator
from workload_generator.run import shards

fork = shards.ShardedRun._fork

def fork_and_signal(*arguments):
    fork(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)

shards.ShardedRun._fork = fork_and_signal
sys.exit(workload_generator())
"""


async def test_a_signal_between_two_forks_reaches_all_workers(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        experiment = generator.experiment(url, rate={"duration": "60s"})
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BETWEEN_FORKS, f"--config={experiment}", f"--log-dir={generator.logs}",
            "--progress=none", "--processes=2",
            env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        _, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 143, stderr
    logs = [log.read_bytes().splitlines() for log in generator.logs.glob("*.log")]
    assert len(logs) == 2 and all(b"stopped by SIGTERM" in lines[-1] for lines in logs)


async def test_a_worker_that_does_not_respond_is_reported_and_ended(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{"run.shards._ALIVE_S": 0.03})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "3s"})
        process = await generator.start(f"--config={path}", "--progress=none", "--processes=2")
        while len(pids := children_of(process.pid)) < 2 or not catches(pids[1], signal.SIGTERM):
            await asyncio.sleep(0.01)
        os.kill(pids[1], signal.SIGSTOP)
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert f"shard 1 (process {pids[1]}) does not respond".encode() in stderr
    assert b"shard 1: its process was ended by SIGKILL" in stderr


async def test_a_stopped_worker_does_not_hold_up_a_signal(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "60s"})
        process = await generator.start(f"--config={path}", "--progress=none", "--processes=2")
        while len(list(generator.logs.glob("*.log"))) < 2:
            await asyncio.sleep(0.01)
        os.kill(children_of(process.pid)[1], signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), DRAINED_S)
    assert process.returncode == 143
    assert all(b"run_finished" in log.read_bytes().splitlines()[-1] for log in generator.logs.glob("*.log"))


# Random signals


class Victims:
    """The processes of a run, by what they are."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def all(self) -> dict[str, list[int]]:
        """The command; the shards, if there are any; the recorders."""
        found: dict[str, list[int]] = {"command": [self._process.pid], "shard": [], "recorder": []}
        for pid in _descendants(self._process.pid):
            try:
                is_recorder = b"log.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found["recorder" if is_recorder else "shard"].append(pid)
        return found


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = children_of(pid)
    except OSError:
        return
    for child in children:
        yield child
        yield from _descendants(child)


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


async def one_random_signal(generator: Generator, url: str, seed: int) -> str:
    """Send a random signal to a random process of a run at a random moment, and check what is left."""
    draw = random.Random(seed)
    processes = draw.choice([1, 2])
    number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP])
    whom = draw.choice(["command", "recorder", *(["shard"] if processes > 1 else [])])
    delay_s, twice, pause_s = draw.uniform(0, 1.6), draw.random() < 0.3, draw.uniform(0.05, 0.7)
    label = f"seed {seed}: {number.name}{' twice' * twice} to the {whom} of {processes} after {delay_s:.2f} s"
    path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "1500ms"})
    process = await generator.start(f"--config={path}", "--progress=none", f"--processes={processes}")
    seen: set[int] = set()
    victims = Victims(process)
    began = time.monotonic()
    while time.monotonic() - began < delay_s or not victims.all()[whom]:
        seen |= {pid for pids in victims.all().values() for pid in pids}
        if process.returncode is not None:
            break
        await asyncio.sleep(0.02)
    answered = finished_results(generator)
    chosen = victims.all()[whom]
    seen |= {pid for pids in victims.all().values() for pid in pids}
    if process.returncode is None and chosen:
        pid = draw.choice(chosen)
        send(pid, number)
        if number == signal.SIGSTOP:
            await asyncio.sleep(pause_s)
            send(pid, signal.SIGCONT)
        elif twice and number != signal.SIGKILL:
            await asyncio.sleep(pause_s)
            send(pid, number)
    _, stderr = await asyncio.wait_for(process.communicate(), DRAINED_S + 2)
    code, gave_up = process.returncode, b"does not respond" in stderr
    async with asyncio.timeout(DRAINED_S):
        while left := [pid for pid in seen if alive(pid)]:
            await asyncio.sleep(0.02)
    assert not left, label
    for log in generator.logs.glob("*.log"):
        lines = [log_format.decode(line) for line in log.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]
        seqs = [doc["seq"] for doc in lines if doc["event"] == "request"]
        assert len(seqs) == len(set(seqs)), label
        if number != signal.SIGKILL and not gave_up:
            assert lines[-1]["event"] == "run_finished", (label, lines[-1])
    assert answered <= finished_results(generator), label
    if number == signal.SIGHUP or (number == signal.SIGSTOP):
        assert code in (0, 3), (label, code)
    return label


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def finished_results(generator: Generator) -> set[tuple[str, int]]:
    """The results in the logs so far."""
    return {
        (log.name, log_format.decode(line)["seq"])
        for log in generator.logs.glob("*.log")
        for line in log.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n") and b'"event":"request"' in line
    }


SEEDS = os.environ.get("SIGNAL_SEEDS", "1 4 5 9")
"""Of runs that each get one signal; `SIGNAL_SEEDS="$(seq 100)"` is the long test."""


@pytest.mark.timeout(1200)
async def test_random_signals(tmp_path: Path) -> None:
    async with target(at_once) as url:
        for seed in map(int, SEEDS.split()):
            generator = Generator(tmp_path / str(seed))
            generator.folder.mkdir()
            label = await one_random_signal(generator, url, seed)
            sys.stderr.write(f"{label}\n")
            written = finished_results(generator)
            brief = {"requestsPerSecond": 100, "duration": "30ms"}
            process = await generator.start(
                f"--config={generator.experiment(url, rate=brief)}", f"--log-dir={generator.folder / 'next'}"
            )
            _, stderr = await process.communicate()
            assert process.returncode in (0, 3), (label, "the next run starts", stderr)
            if written:
                database = generator.folder / "benchmark.db"
                extract(generator.logs, database)
                assert stored(database) == len(written), label


def stored(database: Path) -> int:
    connection = sqlite3.connect(database)
    ((count,),) = connection.execute("SELECT count(*) FROM results").fetchall()
    connection.close()
    return int(count)
