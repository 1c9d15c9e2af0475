"""Experiments with faults of any kind: each loads, or is refused with the problems that it has, and soon."""

from __future__ import annotations

import os
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.mutations import mutated
from workload_generator.base.errors import ExperimentError
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.schedule import make_schedule

COUNT = int(os.environ.get("MUTATIONS", "2500"))
"""Of each test."""
SLOW_S = 5.0
SEEDS = [
    b"""targets:
- {url: "http://a:80/b?c", weight: 2, headers: {A: b, "ce-type": x}, body: "x", method: PUT, expectStatus: [200, 4xx]}
- &t {url: https://b, tls: {caFile: none.pem}}
- {<<: *t, weight: 0}
rate: {requestsPerSecond: 0.5, duration: 1m, rampUp: 0s, maxInFlight: 7, connections: 3, preconnect: 2}
""",
    b"""targets: [{url: http://a}]
rate:
  arrival: {process: steps, steps: [{requestsPerSecond: 1, duration: 2s}, {requestsPerSecond: 1e3, duration: 5ms}]}
thresholds: [ttfb.p99 < 50ms, errors < 1%]
""",
    b"""targets: [{url: http://a}]
rate: {arrival: {process: trace, file: t.csv, minute: 30s, scale: 0.5, row: f}}
event: {type: a, source: b, mode: structured, data: '{"a": ${seq}}'}
""",
    b"""targets: [{url: http://a}]
rate: {arrival: {process: sine, amplitude: 0.5, period: 10s}, requestsPerSecond: 10, duration: 1m}
coldStart: {gap: 7s, wait: zero, settle: 1s, maxWait: 3m, order: random, burst: 4}
""",
    b"""targets: [{url: http://a}]
rate: {arrival: {process: ramp, from: 0, to: 100}, duration: 1m, rampUp: 1s}
limits: {lag: 5ms}
seed: 7
""",
    b"""targets: [{url: http://a}]
rate: {arrival: poisson, requestsPerSecond: 10, duration: 1m}
store: {logDirPath: /x}
""",
]
PIECES = [
    *(piece.encode() for piece in (
        "[ ] { } : , - &a *a !!int !!binary !x ' \" \\ # ? ~ null true 1e9 1e999999 -1 0x10 1_000 .inf .nan 1e-99 ∞ "
        "${x} = 99999999999999999999h 2026-01-01"
    ).split()),
    b"<<: *a", b"|\n", b">\n", b"%YAML 1.1\n", b"---\n", b"...\n", b"\t", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8",
    b"\xed\xa0\x80", b'"\\ud800"', b"\n", b"\r", b"\r\n", b"  ", b"9" * 50, b"0." + b"1" * 40, b"a" * 5000, b"{" * 60,
    b"[" * 60, b"? " * 30,
]  # fmt: skip


def load(path: Path, data: bytes) -> None:
    """Load it, and begin its schedule. Raises whatever is not a refusal."""
    path.write_bytes(data)
    try:
        experiment = load_experiment(path, event=len(data) % 5 == 0)
    except ExperimentError as error:
        assert error.problems and all(problem.message for problem in error.problems)
        return
    assert len(experiment.sha256) == 64
    if not experiment.rate.closed_loop:
        schedule = make_schedule(experiment, 1)
        assert schedule.planned >= len(list(islice(schedule.arrivals(), 3))) >= min(3, schedule.planned)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_experiment_is_loaded_or_refused(seed: int, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("f,1,2\nf,3,4\n")
    for data in mutated(SEEDS, PIECES, COUNT, seed):
        begin = time.process_time()
        try:
            load(tmp_path / "e.yaml", data)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}: {data!r}") from error
        assert time.process_time() - begin < SLOW_S, data
