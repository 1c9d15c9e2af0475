"""The self-test: what rates and times this machine can measure. Short runs with their logs against a local server.

- timer: the lag of requests at a moderate rate
- capacity: the highest rate of a closed loop, and its CPU time per request
- accuracy: logged TTFB against the time that the server reports for its response
- trusted rate: the highest of a few shares of the capacity at which a run of one second is valid
"""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop

from workload_generator.base.clock import NS_PER_MS, NS_PER_US, parse_rfc3339
from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import of_signal
from workload_generator.base.subprocesses import start_child
from workload_generator.experiment.load import load_experiment
from workload_generator.run.plan import RunPlan
from workload_generator.run.runner import LoadRun
from workload_generator.run.summary import RunSummary
from workload_generator.run.targets import make_endpoints

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
class SelfTestReport:
    """Rates are in requests per second, `cpu_us` is per request, `kernel_stamps` a share of the responses.

    `error_…` is logged TTFB − the server's. `trusted_rps` is None when no run was valid; `doubts` says why.
    """

    lag_p50_ms: float
    lag_p99_ms: float
    kernel_stamps: float
    error_p50_ms: float
    error_p99_ms: float
    most_rps: float
    cpu_us: float
    trusted_rps: int | None
    doubts: tuple[str, ...]

    def lines(self) -> list[str]:
        """As text."""
        stamps = (
            f"{self.kernel_stamps:.1%} of responses" if self.kernel_stamps else "none: times are read in user space"
        )
        trusted = "no rate: every run of one second was invalid"
        if self.trusted_rps is not None:
            trusted = f"up to {self.trusted_rps:,} rps a process"
        return [
            f"timer lag at {_TIMER_RPS:,} rps    p50 {self.lag_p50_ms:.3f} ms, p99 {self.lag_p99_ms:.3f} ms",
            f"kernel stamps             {stamps}",
            f"TTFB − server's answer    p50 {self.error_p50_ms:.3f} ms, p99 {self.error_p99_ms:.3f} ms",
            f"most in a closed loop     {self.most_rps:,.0f} rps, {self.cpu_us:.1f} µs of CPU a request in the loop",
            f"trust                     {trusted}",
            *(f"  - {doubt}" for doubt in self.doubts),
        ]


def self_test() -> SelfTestReport:
    """Run the self-test, which takes about ten seconds. Raises BenchError when the local server does not answer."""
    with tempfile.TemporaryDirectory(prefix="self-test-") as name, _server() as url:
        folder = Path(name)
        timer, _ = _run(folder, "timer", _EXPERIMENT, url, _TIMER_RPS, _MEASURED_S)
        closed, closed_log = _run(folder, "closed", _CLOSED, url, 0, _MEASURED_S)
        _, truth_log = _run(folder, "truth", _EXPERIMENT, f"{url}stamp", _TRUTH_RPS, _MEASURED_S)
        errors, stamps = _errors_ns(truth_log)
        sent = max(1, closed.counts["sent"])
        most_rps = closed.achieved_rps
        trusted: int | None = None
        doubts: tuple[str, ...] = ()
        for share in _SHARES:
            rps = _round_down(most_rps * share)
            tried, _ = _run(folder, f"share-{share}", _EXPERIMENT, url, rps, _TRIED_S)
            if tried.verdict.valid:
                trusted, doubts = rps, ()
                break
            doubts = tuple(f"at {rps:,} rps: {reason}" for reason in tried.verdict.reasons)
        lag = timer.histograms["lag"]
        return SelfTestReport(
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
) -> tuple[RunSummary, list[dict[str, Any]]]:
    """Run `text` as an experiment; returns the summary and the log: all lines of `truth`, the trailer of others."""
    path = folder / f"{name}.yaml"
    path.write_text(text.format(url=url, rps=rps, seconds=seconds, connections=_CONNECTIONS))
    experiment = load_experiment(path)
    plan = RunPlan(
        experiment=experiment,
        seed=1,
        cold_start=False,
        ping=False,
        prefix=name,
        log_dir=folder,
        progress="none",
        run_id=name,
        started=datetime.now(UTC),
    )
    summary = uvloop.run(LoadRun(plan, make_endpoints(experiment, None)).execute())
    if summary.stopped_by is not None:
        raise SystemExit(of_signal(summary.stopped_by))
    if not summary.counts["ok"]:
        raise BenchError(f"the server of the self-test did not answer: {summary.counts['errors']}")
    log = summary.logs[0].read_bytes().splitlines()
    return summary, [orjson.loads(line) for line in (log if name == "truth" else log[-1:])]


def _errors_ns(log: list[dict[str, Any]]) -> tuple[list[int], float]:
    """The sorted differences of logged TTFB and the server's, and the share of kernel stamps."""
    start = log[0]["start"]
    errors, kernel = [], 0
    for line in log:
        if line["event"] == "request" and line.get("instance") and line["ttfb"] is not None:
            since_ns = parse_rfc3339(line["time"]) - parse_rfc3339(start["wall"])
            first_byte_ns = start["monotonic_ns"] + since_ns + int(line["ttfb"] * NS_PER_MS)
            errors.append(first_byte_ns - int(line["instance"]))
            kernel += line["stamp"] == "kernel"
    if not errors:
        raise BenchError("the server of the self-test did not report the time of a response")
    return sorted(errors), kernel / len(errors)


def _round_down(rps: float) -> int:
    """To two digits, at least 1."""
    unit = int(10 ** max(0, len(str(int(rps))) - 2))
    return max(1, int(rps) // unit * unit)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        command = [sys.executable, "-m", "workload_generator.run.self_test_server", str(listening.fileno())]
        process = start_child(command, pass_fds=(listening.fileno(),))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            process.kill()
            process.wait()
