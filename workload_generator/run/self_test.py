"""What this machine can be trusted with: a few short runs, real ones with their logs, against a server of our own.

- the timer: how late requests start at a moderate rate
- the most that one loop sends, and what a request costs it
- the truth: TTFB as logged against the moment at which the server says that it answered
- the rate to be trusted: the highest of a few shares of the most at which a run of one second is valid
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop

from workload_generator.base.clock import NS_PER_MS, NS_PER_US
from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import of_signal
from workload_generator.base.subprocesses import start_child
from workload_generator.experiment.load import load_experiment
from workload_generator.run.plan import Plan
from workload_generator.run.runner import Outcome, Run
from workload_generator.run.targets import make_endpoints

_LISTENING_S = 10.0
_MEASURED_S = 1.5
_TRIED_S = 1.0
_TIMER_RPS = 2000
_TRUTH_RPS = 1000
_CONNECTIONS = 50
_SHARES = (0.6, 0.3, 0.1, 0.03)

_EXPERIMENT = """\
targets: [{{url: "{url}"}}]
rate:
  requestsPerSecond: {rps}
  duration: {seconds}s
  rampUp: 0s
  connections: {connections}
  preconnect: {connections}
"""
_CLOSED = _EXPERIMENT.replace("  rampUp: 0s\n", "")


@dataclass(frozen=True, slots=True)
class Report:
    """Lags and errors in milliseconds, rates in requests a second. `trusted_rps` is None when no share was valid."""

    lag_p50_ms: float
    lag_p99_ms: float
    kernel_stamps: float
    error_p50_ms: float
    error_p99_ms: float
    most_rps: float
    cpu_us: float
    trusted_rps: int | None
    doubts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The same, for programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        stamps = f"{self.kernel_stamps:.1%} of responses" if self.kernel_stamps else "none: times are those of reading"
        found = [
            f"timer lag at {_TIMER_RPS:,} rps    p50 {self.lag_p50_ms:.3f} ms, p99 {self.lag_p99_ms:.3f} ms",
            f"kernel stamps             {stamps}",
            f"TTFB − server's answer    p50 {self.error_p50_ms:.3f} ms, p99 {self.error_p99_ms:.3f} ms",
            f"most in a closed loop     {self.most_rps:,.0f} rps, {self.cpu_us:.1f} µs of CPU a request in the loop",
        ]
        if self.trusted_rps is None:
            found.append("trust                     no rate: every run of one second was invalid")
        else:
            found.append(f"trust                     up to {self.trusted_rps:,} rps a process")
        return found + [f"  - {doubt}" for doubt in self.doubts]


def self_test() -> Report:
    """Run it; takes about ten seconds. Raises BenchError when not even loopback works."""
    with tempfile.TemporaryDirectory(prefix="self-test-") as name, _server() as url:
        folder = Path(name)
        timer, _ = _run(folder, "timer", _EXPERIMENT, url, _TIMER_RPS, _MEASURED_S)
        closed, closed_log = _run(folder, "closed", _CLOSED, url, 0, _MEASURED_S)
        _, truth_log = _run(folder, "truth", _EXPERIMENT, f"{url}stamp", _TRUTH_RPS, _MEASURED_S)
        errors, stamps = _errors_ns(truth_log)
        sent = max(1, closed.summary.counts["sent"])
        most_rps = closed.summary.achieved_rps
        trusted: int | None = None
        doubts: tuple[str, ...] = ()
        for share in _SHARES:
            rps = _round_down(most_rps * share)
            tried, _ = _run(folder, f"share-{share}", _EXPERIMENT, url, rps, _TRIED_S)
            if tried.summary.verdict.valid:
                trusted, doubts = rps, ()
                break
            doubts = tuple(f"at {rps:,} rps: {reason}" for reason in tried.summary.verdict.reasons)
        lag = timer.summary.lag
        return Report(
            lag_p50_ms=(lag.quantile_us(0.5) or 0) / 1000,
            lag_p99_ms=(lag.quantile_us(0.99) or 0) / 1000,
            kernel_stamps=stamps,
            error_p50_ms=errors[len(errors) // 2] / NS_PER_MS,
            error_p99_ms=errors[len(errors) * 99 // 100] / NS_PER_MS,
            most_rps=round(most_rps, 1),
            cpu_us=closed_log[-1]["machine"]["cpu_ns"] / sent / NS_PER_US,
            trusted_rps=trusted,
            doubts=doubts,
        )


def _run(
    folder: Path, name: str, text: str, url: str, rps: int, seconds: float
) -> tuple[Outcome, list[dict[str, Any]]]:
    """One run and the lines of its log."""
    path = folder / f"{name}.yaml"
    path.write_text(text.format(url=url, rps=rps, seconds=seconds, connections=_CONNECTIONS))
    experiment = load_experiment(path)
    plan = Plan(
        experiment=experiment,
        seed=1,
        cold_start=False,
        ping=False,
        prefix=name,
        log_dir=folder,
        progress="none",
        run_id=name,
        stamp="self-test",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(Run(plan, make_endpoints(experiment, None)).execute())
    if outcome.signal is not None:
        raise SystemExit(of_signal(outcome.signal))
    if not outcome.summary.counts["ok"]:
        raise BenchError(f"the self-test's own server did not answer: {outcome.summary.counts['errors']}")
    log = outcome.summary.logs[0].read_bytes().splitlines()
    return outcome, [orjson.loads(line) for line in (log if name == "truth" else log[-1:])]


def _errors_ns(log: list[dict[str, Any]]) -> tuple[list[int], float]:
    """Sorted: logged TTFB − what lies between the request's start and the server's answer; and the share of stamps."""
    start = log[0]["start"]
    requests = [
        line for line in log if line["event"] == "request" and line.get("instance") and line["ttfb"] is not None
    ]
    origin_ns = start["monotonic_ns"]
    errors, kernel = [], 0
    for line in requests:
        started_ns = origin_ns + _since_ns(start["wall"], line["time"])
        errors.append(started_ns + int(line["ttfb"] * NS_PER_MS) - int(line["instance"]))
        kernel += line["stamp"] == "kernel"
    if not errors:
        raise BenchError("the self-test's own server named no moment")
    return sorted(errors), kernel / len(errors)


def _since_ns(start: str, moment: str) -> int:
    """Nanoseconds between two times of a log, of microseconds each."""
    between = datetime.fromisoformat(moment) - datetime.fromisoformat(start)
    return round(between.total_seconds() * 1e6) * NS_PER_US


def _round_down(rps: float) -> int:
    """To two digits, at least 1."""
    digits = max(0, len(str(int(rps))) - 2)
    unit = int(10**digits)
    return max(1, int(rps) // unit * unit)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        command = [sys.executable, "-m", "workload_generator.run.self_test_server", str(listening.fileno())]
        process = start_child(command, pass_fds=(listening.fileno(),))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            process.terminate()
            process.wait(_LISTENING_S)
