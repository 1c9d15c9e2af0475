"""Logs and databases that the tests of the results are made from."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.log.blocks import encode
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, rfc3339
from workload_generator.base.histogram import Histogram
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result, Stamp
from workload_generator.results.database import open_store

START = Anchor(wall_ns=1_739_182_272_000_000_000, mono_ns=0)  # 2025-02-10T10:11:12Z
GO = "http://empty-go-http-0.functions.svc.cluster.local"
TS = "http://empty-ts-http-0.functions.svc.cluster.local"
NAME = "serving-scenario-1_2000rps_go_2025-02-10_10-11-12.log"

PHASES = ("ping", "ramp", "measure")


def header(
    *,
    run_id: str = "run-1",
    shard: int = 0,
    shards: int = 1,
    prefix: str = "serving-scenario-1_2000rps_go",
    name: str = "serving-scenario-1-go",
    targets: Sequence[str] = (GO,),
    rps: float = 1000,
) -> dict[str, Any]:
    """The fields of a `run_started`."""
    return {
        "schema": log_format.SCHEMA,
        "run_id": run_id,
        "shard": {"index": shard, "count": shards},
        "experiment": {
            "name": name,
            "sha256": "ab" * 32,
            "mode": "open",
            "config": {
                "targets": [{"url": url, "weight": 1, "expectStatus": ["2xx"]} for url in targets],
                "rate": {
                    "requestsPerSecond": rps,
                    "duration": "10m",
                    "maxIdleConns": 100,
                    "maxIdleConnsPerHost": 10,
                    "idleConnTimeout": "1m30s",
                    "timeout": "30s",
                },
            },
        },
        "prefix": prefix,
        "seed": 7,
        "start": {"wall": rfc3339(START.wall_ns), "monotonic_ns": START.mono_ns},
        "version": "0.1.0",
        "host": f"host-{shard}",
        "python": "3.11.7",
        "platform": "host",
        "cpu_limit": 2.0,
    }


def served(seq: int, ms: float = 1.5, phase: Phase = Phase.MEASURE, **changes: Any) -> Result:
    """A response with status 200, one due each millisecond."""
    due_ns = seq * NS_PER_MS
    result = Result(
        seq=seq, phase=phase, target=0, due_ns=due_ns, start_ns=due_ns + 20_000, status=200, dns_ns=0, connect_ns=0,
        tls_ns=0, ttfb_ns=int(ms * NS_PER_MS), total_ns=int(ms * NS_PER_MS) + 30_000, bytes_read=5, cold=seq == 0,
        reused=seq > 0, retries=0, stamp=Stamp.KERNEL, segments=1, instance="pod-1", event_id=None, error=None,
        message=None,
    )  # fmt: skip
    return result._replace(**changes)


def failed(seq: int, kind: ErrorKind = ErrorKind.TIMEOUT, **changes: Any) -> Result:
    """An arrival without a response."""
    nothing = dict.fromkeys(("dns_ns", "connect_ns", "tls_ns", "ttfb_ns", "total_ns", "cold", "stamp", "instance"))
    return served(seq, status=0, bytes_read=0, error=kind, message=f"it was {kind}", **{**nothing, **changes})


def line(event: str, fields: dict[str, Any]) -> bytes:
    """One line of the log."""
    file = io.BytesIO()
    log_format.LineLogger(file).write(event, fields)
    return file.getvalue()


def is_ok(result: Result) -> bool:
    """What an experiment that expects the default statuses makes of it."""
    return result.error is None and 200 <= result.status < 300


def request_lines(results: Iterable[Result], targets: Sequence[str] = (GO,)) -> list[bytes]:
    """Their lines."""
    encoder = log_format.ResultEncoder(targets, START)
    return [encode(encoder, result, is_ok(result)) for result in results]


def heartbeat(at_ms: float, planned: int, started: int, dropped: int = 0) -> bytes:
    """A heartbeat at `at_ms` after the start."""
    four = {"planned": planned, "started": started, "finished": started, "dropped": dropped}
    at = rfc3339(START.wall_ns + int(at_ms * NS_PER_MS))
    return line(log_format.PROGRESS, {"time": at, **four, "measure": four})


def trailer(results: Sequence[Result], verdict: str = "valid", reasons: Sequence[str] = ()) -> bytes:
    """The last line of a run with these results."""
    counts = {phase.label: _counts([r for r in results if r.phase is phase]) for phase in Phase}
    ttfb = Histogram()
    measured = [r for r in results if r.phase is Phase.MEASURE]
    times = [r.ttfb_ns // 1000 for r in measured if is_ok(r) and r.ttfb_ns is not None]
    ttfb.record_all(times, len(measured) - len(times))
    return line(
        log_format.RUN_FINISHED,
        {
            "time": rfc3339(START.wall_ns + NS_PER_S),
            "counts": {**counts, "missed_rounds": 0},
            "histograms": {"ttfb": ttfb.to_json()},
            "resources": {"cpu_user_s": 1.0},
            "verdict": verdict,
            "reasons": list(reasons),
        },
    )


def whole_log(results: Sequence[Result], **changes: Any) -> bytes:
    """A log from header to trailer, a heartbeat after its first result."""
    lines = request_lines(results)
    beats = [heartbeat(0.5, len(lines), len(lines))] if lines else []
    return b"".join([line(log_format.RUN_STARTED, header(**changes)), *lines[:1], *beats, *lines[1:], trailer(results)])


def _counts(results: Sequence[Result]) -> dict[str, Any]:
    dropped = sum(r.error is ErrorKind.DROPPED for r in results)
    ok = sum(map(is_ok, results))
    return {
        "planned": len(results),
        "sent": len(results) - dropped,
        "ok": ok,
        "failed": len(results) - dropped - ok,
        "dropped": dropped,
        "cancelled": sum(r.error is ErrorKind.CANCELLED for r in results),
        "cold": {
            "true": sum(r.status > 0 and r.cold is True for r in results),
            "false": sum(r.status > 0 and r.cold is False for r in results),
            "unknown": sum(r.status > 0 and r.cold is None for r in results),
        },
    }


def rows_of(db: Path, sql: str, *values: object) -> list[dict[str, Any]]:
    """The rows of a query."""
    with open_store(db) as store:
        return [dict(row) for row in store.execute(sql, values)]


def everything(db: Path) -> dict[str, list[dict[str, Any]]]:
    """All that an extraction stores."""
    return {table: rows_of(db, f"SELECT * FROM {table} ORDER BY id") for table in ("experiments", "results", "shards")}
