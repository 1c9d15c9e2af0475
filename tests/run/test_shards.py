"""One run on several processes and on several pods: a schedule in shares, one summary, one experiment."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support import BRIEF, Generator, Process, after, at_once, children_of, target
from workload_generator.log import format as log_format
from workload_generator.results.ingest.extract import extract


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


def logs_of(generator: Generator) -> list[list[dict[str, Any]]]:
    """The lines of each log, by shard."""
    return [
        [log_format.decode(line) for line in path.read_bytes().splitlines()]
        for path in sorted(generator.logs.glob("*.log"))
    ]


def rows_of(generator: Generator, sql: str) -> list[tuple[Any, ...]]:
    """Of the database that the logs make."""
    db = generator.folder / "benchmark.db"
    extract(generator.logs, db)
    connection = sqlite3.connect(db)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


async def finish(process: Process) -> tuple[int, dict[str, Any], str]:
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, orjson.loads(stdout) if stdout else {}, stderr.decode()


async def test_two_processes_share_one_schedule_and_sum_up_as_one(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{"run.runner._HEARTBEAT_S": 0.1})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 505, "duration": "400ms"})
        process = await generator.start(f"--config={path}", "--processes=2", "--ping", "--output=json", "--seed=3")
        code, summary, stderr = await finish(process)
    assert code in (0, 3), stderr
    logs = logs_of(generator)
    assert [log[0]["shard"] for log in logs] == [{"index": 0, "count": 2}, {"index": 1, "count": 2}]
    seqs = [[doc["seq"] for doc in log if doc["event"] == "request" and doc["phase"] == "measure"] for log in logs]
    assert sorted(seqs[0] + seqs[1]) == list(range(202)) and {seq % 2 for seq in seqs[1]} == {1}
    assert (summary["planned"], summary["sent"], summary["ok"]) == (202, 202, 202)
    assert summary["planned_rps"] == pytest.approx(505) and len(summary["logs"]) == 2
    slowest = max(doc["ttfb"] for log in logs for doc in log if doc.get("phase") == "measure")
    assert summary["ttfb_ms"]["max"] == pytest.approx(slowest, abs=0.0011), "exactly merged"
    assert sum(doc.get("phase") == "ping" for log in logs for doc in log if doc["event"] == "request") == 1
    assert "ping http" in stderr, "the workers' progress is shown as one"
    ((run_id, shards, sent, complete),) = rows_of(generator, "SELECT run_id, shards, sent, complete FROM experiments")
    assert (run_id, shards, sent, complete) == (summary["run_id"], 2, 202, 1)


async def test_the_closed_loops_connections_are_shared(generator: Generator) -> None:
    busy, most = 0, 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await after(0.02)(writer)
        busy -= 1

    async with target(count) as url:
        rate = {"requestsPerSecond": 0, "duration": "300ms", "connections": 5}
        process = await generator.start(f"--config={generator.experiment(url, rate=rate)}", "--processes=2")
        code, _, _ = await asyncio.wait_for(_plain(process), 60)
    assert code in (0, 3) and most == 5


async def _plain(process: Process) -> tuple[int, str, str]:
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def workers_of(process: Process) -> list[int]:
    """The pids of a run's worker processes, once both are there."""
    while len(pids := children_of(process.pid)) < 2:
        await asyncio.sleep(0.02)
    return pids


async def sending(generator: Generator) -> None:
    """Wait until both logs have some requests."""
    while True:
        data = [path.read_bytes().count(b'"event":"request"') for path in generator.logs.glob("*.log")]
        if len(data) == 2 and min(data) > 10:
            return
        await asyncio.sleep(0.05)


async def test_a_worker_that_dies_fails_the_run_and_leaves_the_others_whole(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "2s"})
        process = await generator.start(f"--config={path}", "--processes=2", "--progress=none")
        pids = await workers_of(process)
        await sending(generator)
        os.kill(pids[1], signal.SIGKILL)
        code, _, stderr = await _plain(process)
    assert code == 1 and "shard 1: its process was ended by SIGKILL" in stderr
    whole = logs_of(generator)[0]
    assert whole[-1]["event"] == "run_finished" and whole[-1]["counts"]["measure"]["sent"] == 200
    ((complete, missing),) = rows_of(generator, "SELECT complete, missing >= 0 FROM experiments")
    assert (complete, missing) == (0, 1)


async def test_a_signal_reaches_every_worker_and_every_log_is_closed(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "1m"})
        process = await generator.start(f"--config={path}", "--processes=2", "--progress=none")
        await workers_of(process)
        await sending(generator)
        process.send_signal(signal.SIGTERM)
        code, stdout, _ = await _plain(process)
    assert code == 143
    assert [log[-1]["event"] for log in logs_of(generator)] == ["run_finished"] * 2
    assert "shard 0: stopped by SIGTERM" in stdout and "shard 1: stopped by SIGTERM" in stdout


async def test_a_signal_to_workers_that_are_starting_stops_them(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "10m"})
        process = await generator.start(f"--config={path}", "--processes=2", "--progress=none")
        await workers_of(process)
        process.send_signal(signal.SIGTERM)
        code, stdout, stderr = await _plain(process)
    assert code == 143, stderr
    assert "shard 0: stopped by SIGTERM" in stdout and "shard 1: stopped by SIGTERM" in stdout


async def test_workers_of_a_killed_command_end_too(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 200, "duration": "1m"})
        process = await generator.start(f"--config={path}", "--processes=2", "--progress=none")
        pids = await workers_of(process)
        await sending(generator)
        process.kill()
        await process.wait()
        while any(map(is_there, pids)):
            await asyncio.sleep(0.05)
    assert [log[-1]["event"] for log in logs_of(generator)] == ["run_finished"] * 2


async def test_a_log_that_cannot_be_made_ends_all_before_anything_is_sent(generator: Generator) -> None:
    requests = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        requests += 1
        await at_once(writer)

    generator.logs.write_text("a file where the folder should be")
    async with target(count) as url:
        process = await generator.start(f"--config={generator.experiment(url)}", "--processes=2")
        code, _, stderr = await _plain(process)
    assert code == 2 and "cannot create the log" in stderr and not requests


async def test_pods_start_together_and_make_one_experiment(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 500, "duration": "400ms"})
        start_at = time.time() + 1.5
        flags = [f"--config={path}", "--run-id=together", f"--start-at={start_at:.3f}", "--output=json"]
        first = await generator.start(*flags, "--shard=0/2")
        os.environ["JOB_COMPLETION_INDEX"] = "1"
        try:  # a pod has its own /tmp, and so its own lock
            (generator.folder / "pod").mkdir()
            second = await Generator(generator.folder / "pod").start(
                *flags, "--shard=/2", f"--log-dir={generator.logs}"
            )
        finally:
            del os.environ["JOB_COMPLETION_INDEX"]
        done = [await finish(process) for process in (first, second)]
    assert {code for code, _, _ in done} <= {0, 3}, done
    logs = logs_of(generator)
    requests = [doc for log in logs for doc in log if doc["event"] == "request"]
    assert sorted(doc["seq"] for doc in requests) == list(range(200))
    assert min(datetime.fromisoformat(doc["time"]).timestamp() for doc in requests) > start_at - 0.001, "not before"
    assert logs[0][0]["seed"] == logs[1][0]["seed"], "a seed that is not given follows from the id of the run"
    ((rows, shards, complete),) = rows_of(generator, "SELECT sent, shards, complete FROM experiments")
    assert (rows, shards, complete) == (200, 2, 1)


async def test_a_missing_shard_is_named_and_a_late_one_is_invalid(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate=BRIEF)
        flags = ["--run-id=late", f"--start-at={time.time() - 7:.3f}", "--shard=2/3", "--output=json"]
        process = await generator.start(f"--config={path}", *flags)
        code, summary, _ = await finish(process)
    assert code == 3
    assert any("after the start that all shards share" in reason for reason in summary["reasons"])
    assert summary["sent"] == summary["planned"] == 33, "late, but whole"
    ((reasons, complete),) = rows_of(generator, "SELECT reasons, complete FROM experiments")
    assert "shards 0, 1 of 3" in reasons and complete == 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--processes=2", "--cold-start"], "cold-start rounds cannot be split"),
        (["--shard=0/2"], "--run-id"),
        (["--processes=7", "--rps=0"], "5 connections are too few for 7 shards"),
    ],
)
async def test_schedules_that_cannot_be_shared_are_refused(
    generator: Generator, flags: list[str], complaint: str
) -> None:
    path = generator.experiment("http://127.0.0.1:1", rate={"connections": 5})
    code, _, stderr = await _plain(await generator.start(f"--config={path}", *flags))
    assert code == 2 and complaint in stderr and not generator.logs.exists()


async def test_precise_spins_and_is_never_early(generator: Generator) -> None:
    async with target(at_once) as url:
        ran = await generator.run(f"--config={generator.experiment(url, rate=BRIEF)}", "--precise")
    assert ran.code in (0, 3) and ran.lines[0]["precise"] is True
    assert all(doc["lag"] >= 0 for doc in ran.requests())
    machine = ran.trailer["machine"]
    assert 0 < machine["spun_ns"] < machine["elapsed_ns"]


async def test_a_hog_beside_the_run_makes_it_invalid(generator: Generator) -> None:
    core = min(os.sched_getaffinity(0))
    hogs: list[asyncio.subprocess.Process] = []
    async with target(at_once) as url:
        # It spins before each deadline, so that it takes most of a core; its fair share is a fifth. It has to wait.
        path = generator.experiment(url, rate={"requestsPerSecond": 2000, "duration": "1500ms"})
        process = await generator.run_until_sending(f"--config={path}", "--precise")
        os.sched_setaffinity(process.pid, {core})
        try:
            for _ in range(4):
                hog = await asyncio.create_subprocess_exec("sh", "-c", "while :; do :; done")
                hogs.append(hog)
                os.sched_setaffinity(hog.pid, {core})
            ran = await generator.finish(process)
        finally:
            for hog in hogs:
                hog.kill()
                await hog.wait()
    assert ran.code == 3
    assert any("waited for a CPU" in reason for reason in ran.trailer["reasons"]), ran.trailer
