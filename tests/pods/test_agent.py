"""The agent, called in this process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pods.standin import Standin
from workload_generator.cluster.pods import agent
from workload_generator.cluster.pods.sessions import PodRequestRefused


def receipts(path: Path, *ids: str, torn: str = "") -> None:
    lines = [f"{each.partition('@')[0]},2026-11-25T08:00:00Z,{each.partition('@')[2]},r,1,1\n" for each in ids]
    with path.open("a") as file:
        file.write("".join(lines) + torn)


def test_drained_when_every_trigger_has_every_event(tmp_path: Path) -> None:
    receipts(tmp_path / "events.csv", "r-0@a", "r-0@b", "r-0@b", "other-7@a", "r-9@a", torn="r-9,2026")
    request = {"folder": str(tmp_path), "run_id": "r", "expected": 3, "quiet_s": 60}
    assert agent.drained(request) == {"receipts": 3}
    began = time.monotonic()
    assert agent.drained({**request, "expected": 4, "quiet_s": 0.5}) == {"receipts": 3}
    assert time.monotonic() - began < 30
    receipts(tmp_path / "events-1.csv", "r-1@a", "r-x@a", "r-1234567890123@a")
    assert agent.drained({**request, "expected": 4}) == {"receipts": 4}


async def test_drained_waits_while_receipts_arrive(standin: Standin) -> None:
    data = standin.pod() / "data"
    receipts(data / "events.csv", "r-0@a")
    asked = asyncio.create_task(standin.agent().ask("drained", folder="/data", run_id="r", expected=1000, quiet_s=30.0))
    for number in range(1, 1000):
        receipts(data / "events.csv", f"r-{number}@a")
        await asyncio.sleep(0)
    assert await asked == {"receipts": 1000}


async def test_a_request_that_fails_in_the_pod_is_not_repeated(standin: Standin) -> None:
    (standin.pod() / "logs" / "file").touch()
    with pytest.raises(PodRequestRefused, match="file: (File exists|Not a directory)"):
        await standin.agent().ask("put", path="/logs/file/b", text="x")
    calls = len(standin.calls)
    with pytest.raises(PodRequestRefused, match="KeyError"):
        await standin.agent().ask("put", text="x")
    assert len(standin.calls) == calls + 1


def test_only_processes_of_the_generator_are_a_run() -> None:
    decoy = subprocess.Popen([sys.executable, "-c", "input()", "--run-id=r1"], stdin=subprocess.PIPE)
    try:
        assert agent.run_processes("r1") == []
    finally:
        decoy.communicate(b"\n")


@pytest.mark.parametrize(
    ("content", "trailer"),
    [
        (b"", None),
        (b'{"event":"run_finished","verdict":"valid"}', None),
        (b'{"event":"run_finished","verdict":"valid"}\n', "valid"),
        (b'{"event":"request"}\n', None),
        (b'{"event":"request"}\n' * 9000 + b'{"event":"run_finished","verdict":"invalid"}\n', "invalid"),
        (b'{"event":"run_finished","verdict":"valid"}\n{"event":"torn', None),
    ],
)
def test_the_trailer_of_a_log(tmp_path: Path, content: bytes, trailer: str | None) -> None:
    (tmp_path / "p_1.log").write_bytes(b'{"event":"run_started","run_id":"r1"}\n' + content)
    (tmp_path / "p_2.log").write_bytes(b'{"event":"run_started","run_id":"r2"}\n' + content)
    (tmp_path / "p_3.log").write_bytes(b'{"event":"run_started","run_id":"r1"}')
    (tmp_path / "pq.log").write_bytes(b"")
    (log,) = agent.logs_of(str(tmp_path), "p", "r1")
    assert log["name"] == "p_1.log" and (log["trailer"] or {}).get("verdict") == trailer
