"""The speed of extraction compared with sqlite3's `.import` of the same rows, as CSV, into the same table.

    uv run python bench/extract.py [--rows N] [--rounds N]

Rounds alternate. The result is the ratio of the medians of rows per second; the target is at least 0.5.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workload_generator.base.clock import NS_PER_S, Anchor, rfc3339
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result, Stamp
from workload_generator.log.wire import BlockWriter, read_block
from workload_generator.results.database import open_store
from workload_generator.results.ingest.extract import extract

_START = Anchor(wall_ns=1_770_000_000 * NS_PER_S, mono_ns=0)
_TARGETS = [f"http://empty-{language}-http-0.functions.svc.cluster.local" for language in ("go", "rust")]
_RATE = 10_000
_FAILED_SHARE = 0.01
_BLOCK_ROWS = 512


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if shutil.which("sqlite3") is None:
        sys.exit("bench/extract.py needs the program sqlite3")
    with tempfile.TemporaryDirectory(prefix="bench-extract-") as name:
        folder = Path(name)
        log, csv = folder / "bench_2026-02-02_02-40-00.log", folder / "rows.csv"
        write_log(log, options.rows)
        print(f"{options.rows:,} rows, a log of {log.stat().st_size / 1e6:,.0f} MB")
        extract(log, folder / "csv.db")
        with csv.open("wb") as out:
            subprocess.run(["sqlite3", folder / "csv.db", "-csv", "SELECT * FROM results"], stdout=out, check=True)
        ours: list[float] = []
        theirs: list[float] = []
        for index in range(options.rounds):
            ours.append(options.rows / time_extract(log, folder / "ours.db", options.rows))
            theirs.append(options.rows / time_import(csv, folder / "theirs.db", options.rows))
            print(f"round {index + 1}: extract {ours[-1]:,.0f} rows/s, .import {theirs[-1]:,.0f} rows/s")
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"extract / .import: {ratio:.2f}")
    return 0 if ratio >= 0.5 else 1


def time_extract(log: Path, db: Path, rows: int) -> float:
    db.unlink(missing_ok=True)
    begin = time.perf_counter()
    report = extract(log, db)
    taken = time.perf_counter() - begin
    assert report.rows == rows and not report.skipped and not report.warnings, report
    return taken


def time_import(csv: Path, db: Path, rows: int) -> float:
    db.unlink(missing_ok=True)
    open_store(db).__exit__(None, None, None)
    begin = time.perf_counter()
    subprocess.run(["sqlite3", db, "-cmd", ".mode csv", f".import '{csv}' results"], check=True)
    taken = time.perf_counter() - begin
    with open_store(db) as store:
        assert store.execute("SELECT count(*) FROM results")[0][0] == rows
    return taken


def write_log(path: Path, rows: int) -> None:
    """A log of the measure phase with two targets and 1 % timeouts."""
    draw = random.Random(1)
    encoder = log_format.ResultEncoder(_TARGETS, _START)
    writer = BlockWriter(lambda: None, _BLOCK_ROWS)
    failed = 0
    with path.open("wb") as file:
        lines = log_format.LineLogger(file)
        lines.write(log_format.RUN_STARTED, _header())
        for seq in range(rows):
            due_ns = seq * NS_PER_S // _RATE
            result = _served(seq, due_ns, draw)
            if draw.random() < _FAILED_SHARE:
                failed += 1
                result = result._replace(
                    status=0, ttfb_ns=None, total_ns=None, cold=None, stamp=None, instance=None, bytes_read=0,
                    error=ErrorKind.TIMEOUT, message="no response within 30s",
                )  # fmt: skip
            writer.add(result)
            if writer.count == _BLOCK_ROWS or seq == rows - 1:
                block = read_block(writer.take())
                assert block is not None
                file.write(encoder.encode(block, [shape.error is None for shape in block.shapes]))
        counts = {"planned": rows, "sent": rows, "ok": rows - failed, "failed": failed, "dropped": 0, "cancelled": 0}
        lines.write(
            log_format.RUN_FINISHED,
            {"time": rfc3339(_START.wall_ns), "counts": {"measure": counts}, "verdict": "valid", "reasons": []},
        )


def _header() -> dict[str, object]:
    config = {
        "targets": [{"url": url, "weight": 1, "expectStatus": ["2xx"]} for url in _TARGETS],
        "rate": {"requestsPerSecond": _RATE, "duration": "100s", "timeout": "30s"},
    }
    return {
        "schema": log_format.SCHEMA,
        "run_id": "bench",
        "shard": {"index": 0, "count": 1},
        "experiment": {"name": "bench", "sha256": "0" * 64, "mode": "open", "config": config},
        "prefix": "bench",
        "seed": 1,
        "start": {"wall": rfc3339(_START.wall_ns), "monotonic_ns": 0},
    }


def _served(seq: int, due_ns: int, draw: random.Random) -> Result:
    ttfb_ns = int(draw.lognormvariate(14.2, 0.5))
    return Result(
        seq=seq, phase=Phase.MEASURE, target=seq % 2, due_ns=due_ns, start_ns=due_ns + draw.randrange(90_000),
        status=200, dns_ns=0, connect_ns=0, tls_ns=0, ttfb_ns=ttfb_ns, total_ns=ttfb_ns + 30_000, bytes_read=5,
        cold=False, reused=True, retries=0, stamp=Stamp.KERNEL,
        instance=f"empty-http-0-00001-deployment-7d9c8b-x2k9{seq % 4}", event_id=None, error=None, message=None,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
