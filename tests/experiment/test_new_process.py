"""A new arrival process is one class: this one stands here, and every way to run an experiment works with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = '''
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from workload_generator import __main__
from workload_generator.experiment.arrival_processes import ArrivalProcess
from workload_generator.experiment.curves import Replay
from workload_generator.experiment.fields import key
from workload_generator.experiment.field_kinds import POSITIVE_WHOLE, TEXT


@dataclass(frozen=True, kw_only=True)
class Volleys(ArrivalProcess):
    """`size` arrivals at once, so often that their mean rate is `requestsPerSecond`."""

    process: str = key(TEXT, "volleys")
    size: int = key(POSITIVE_WHOLE)

    def start_rps(self) -> Fraction:
        return Fraction(1)

    def peak_rps(self) -> Fraction:
        return self.rps * self.size

    def times(self, duration_ns: int, seed: int) -> Replay:
        every_ns = int(self.size * 10**9 / self.rps)
        return Replay([at for at in range(0, duration_ns, every_ns) for _ in range(self.size)], duration_ns)

    def describe(self) -> str:
        return f"{super().describe()} in volleys of {self.size}"


sys.exit(__main__.workload_generator())
'''
EXPERIMENT = """
targets: [{{url: "{url}"}}]
rate:
  arrival: {{process: volleys, size: 5}}
  requestsPerSecond: 50
  duration: 400ms
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        return


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "volleys.yaml"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path.write_text(EXPERIMENT.format(url=f"http://127.0.0.1:{server.server_port}/"))
        yield path
        server.shutdown()


def run(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [f"--config={path}", *flags]
    env = {**os.environ, "TMPDIR": str(path.parent)}  # where the lock of a run lies
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], env=env, capture_output=True, text=True)


def test_it_is_checked(experiment: Path) -> None:
    ran = run(experiment, "--check")
    assert ran.returncode == 0, ran.stderr
    assert "arrivals: volleys, 50 requests/s in volleys of 5" in ran.stdout
    assert "measure: 400ms, 20 arrivals" in ran.stdout
    assert "seq 4 at 0s: measure" in ran.stdout


def test_its_keys_are_checked(experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("size", "sise"))
    ran = run(experiment, "--check")
    assert ran.returncode == 2
    assert "rate.arrival.sise: unknown key; did you mean size?" in ran.stderr


@pytest.mark.parametrize("flags", [(), ("--processes=2",)])
def test_it_is_run(experiment: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    ran = run(experiment, f"--log-dir={tmp_path}", "--progress=none", *flags)
    assert ran.returncode in (0, 3), ran.stderr
    logs = sorted(tmp_path.glob("*.log"))
    assert len(logs) == max(1, 2 * len(flags))
    lines = [json.loads(line) for log in logs for line in log.read_bytes().splitlines()]
    requests = [line for line in lines if line["event"] == "request" and line["phase"] == "measure"]
    assert sorted(line["seq"] for line in requests) == list(range(20))
    assert {line["status"] for line in requests} == {200}
    headers = [line for line in lines if line["event"] == "run_started"]
    assert {json.dumps(header["experiment"]["config"]["rate"]["arrival"]) for header in headers} == {
        '{"process": "volleys", "size": 5}'
    }
