"""Time, memory and size of the report of many requests, by the command that users run.

    uv run python bench/report.py [--rows N] [--runs N] [--keep DB]

The database is generated: six languages, ten rates, repeats, 1 % of the requests lost. The targets are below 60 s,
1 GiB (peak of the whole process) and 5 MiB.
"""

from __future__ import annotations

import argparse
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workload_generator.results.database import open_store

_LANGUAGES = ("go", "rust", "python", "ts", "quarkus", "springboot")
_RATES = (100, 200, 400, 800, 1000, 2000, 4000, 8000, 12_000, 16_000)
_START_S = 1_770_000_000
_LOST = 0.01
_KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
_COLUMNS = (
    "experiment_id, timestamp, status, ttfb, total_time, is_cold, dns_time, connect_time, tls_time, error_message, "
    "target, seq, phase, lag, error_kind, reused, retries, bytes, stamp, instance, shard, ok"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=120)
    parser.add_argument(
        "--keep", type=Path, metavar="DB", help="keep the database in this file, and use it if it exists"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-report-") as name:
        db = options.keep or Path(name) / "benchmark.db"
        if not db.exists():
            begin = time.perf_counter()
            make_database(db, options.rows, options.runs)
            took = time.perf_counter() - begin
            print(
                f"{options.rows:,} rows of {options.runs} runs, {db.stat().st_size / 1e9:.2f} GB, made in {took:.0f} s"
            )
        page = Path(name) / "report.html"
        seconds, peak_mib = measure([sys.executable, "-c", _KN_BENCH, "report", f"--db={db}", f"--out={page}"])
        size_mib = page.stat().st_size / 2**20
    print(f"report: {seconds:.1f} s, {peak_mib:,.0f} MiB at the peak, a page of {size_mib:.2f} MiB")
    return 0 if seconds < 60 and peak_mib < 1024 and size_mib < 5 else 1


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak resident memory in MiB (of this child, from wait4)."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the report ended with exit code {process.returncode}")
    return seconds, usage.ru_maxrss / 1024


def make_database(db: Path, rows: int, runs: int) -> None:
    """A database as after an extraction. The rows are inserted directly, which is ten times faster."""
    open_store(db).close()
    connection = sqlite3.connect(db)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = OFF")
    draw = random.Random(1)
    marks = ", ".join("?" * (_COLUMNS.count(",") + 1))
    for number in range(runs):
        language = _LANGUAGES[number % len(_LANGUAGES)]
        rate = _RATES[number // len(_LANGUAGES) % len(_RATES)]
        share = rows // runs + (number < rows % runs)
        run = (number + 1, share, language, rate)
        connection.execute(
            "INSERT INTO experiments (id, timestamp, language, scenario, rps, requests_per_second, duration, timeout, "
            "run_id, mode, version, platform, planned, sent, ok, failed, dropped, missing, complete, verdict, reasons) "
            "VALUES (?, ?, ?, 'serving-scenario-1', ?, ?, ?, '30s', ?, 'open', '0', 'host', ?, ?, ?, 0, 0, 0, 1, "
            "'valid', '[]')",
            (number + 1, _rfc3339(number * 1000), language, rate, rate, f"{share // rate + 1}s", str(number))
            + (share, share, share),
        )
        connection.executemany(f"INSERT INTO results ({_COLUMNS}) VALUES ({marks})", _rows(draw, *run))
    connection.commit()
    connection.close()


def _rows(draw: random.Random, run: int, count: int, language: str, rate: int) -> Iterator[tuple[object, ...]]:
    target = f"http://empty-{language}-http-0.functions.svc.cluster.local"
    scale = 0.3 + 0.2 * _LANGUAGES.index(language) + rate / 16_000
    second = ""
    for seq in range(count):
        whole, part = divmod(seq, rate)
        if not part:
            second = _rfc3339((run - 1) * 1000 + whole)[:-1]
        at = f"{second}.{part * 1_000_000_000 // rate:09}Z"
        if draw.random() < _LOST:
            yield (run, at, 0, None, None, None, None, None, None, "no response in 30s", target, seq, "measure", 0.03,
                   "timeout", 0, 0, 0, None, None, 0, 0)  # fmt: skip
        else:
            ms = round(draw.lognormvariate(scale, 0.5), 3)
            yield (run, at, 200, ms, ms + 0.03, 0, 0.0, 0.0, 0.0, None, target, seq, "measure", 0.021, None, 1, 0, 5,
                   "kernel", "pod-1", 0, 1)  # fmt: skip


def _rfc3339(offset_s: int) -> str:
    return f"{datetime.fromtimestamp(_START_S + offset_s, UTC):%Y-%m-%dT%H:%M:%S}Z"


if __name__ == "__main__":
    sys.exit(main())
