"""Extraction of mutated logs and receipts, and of one that is killed: nothing is fatal, and all else is stored.

    python -m tests.results.test_fuzz SEEDS

does more of it by hand: so many folders of mutated files, and 50 kills.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.results.logs import GO, everything, failed, header, heartbeat, line, request_lines, rows_of, served, trailer
from tests.results.test_environment import observed
from tests.results.test_events import OURS, START, receipt, stamp
from tests.results.test_extract import OLD_LOG
from tests.results.test_mishaps import COLD_BURST, COLD_START
from workload_generator.log.records import ErrorKind
from workload_generator.results.database import open_store
from workload_generator.results.extract_summary import print_tables, proof_lines
from workload_generator.results.ingest.extract import extract

FILES = 1000
"""Mutated files of a seed."""

ODD = (
    "18446744073709551615", "-9223372036854775809", "9" * 400, "1e999", "-1", "0", "1.5", "-0.0", "NaN", "Infinity",
    "null", "true", '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"[/]"', f'"{"y" * 5000}"', "[]", "{}",
    "[[[]]]", '{"a":{"b":[1]}}', "[" * 300 + "]" * 300, "[" * 5000, '"2025-02-30T10:11:12.000000Z"',
    '"0000-00-00T00:00:00.000000Z"', '"9999-12-31T23:59:59.999999Z"',
)  # fmt: skip
WORDS = (
    "", "-1", "9" * 20, "9" * 400, "0x10", "1e5", "nan", '"', '"a b"', "\\", "\x1b[2J", "0001-01-01T00:00:00+01:00",
    "2263-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2025-02-30T00:00:00Z", "-5ms", "1h" * 60, "\u0661",
    "\ufeff", "\x00", ",,,,", "=", "\r",
)  # fmt: skip

RESULTS = [served(0), served(1, event_id="run-1-1"), failed(2), failed(3, ErrorKind.DROPPED), served(4, status=503)]
LINES = [*request_lines(RESULTS), heartbeat(3, 5, 5), line("cold_start", COLD_START), line("cold_burst", COLD_BURST)]
END = trailer(RESULTS, "invalid", ["too late"])
RECEIPTS = OURS + "".join(receipt(seq, "ab"[seq % 2]) for seq in range(6))
REPORTS = "".join(f"i-{n % 2},{stamp(START.wall_ns + n * 10**9)},{n},0,{n},{n},100000\n" for n in range(6))


def valid(number: int, draw: random.Random) -> tuple[str, bytes]:
    """A valid file: our log with or without its trailer, one of the original's, receipts, reports or observations."""
    kind = draw.randrange(7)
    if kind < 3:
        head = header(run_id=f"run-{number // 2}", shard=number % 2, shards=2)
        head |= {"events": {"id_prefix": "run-1-", "clock": {"offset_ns": 5, "half_rtt_ns": 7}}}
        return f"run-{number}.log", b"".join([line("run_started", head), *LINES, END if kind else b""])
    if kind == 3:
        old = OLD_LOG.replace("10:11:12.", f"{number // 60:02}:{number % 60:02}:12.")
        return f"eventing-scenario-2_4triggers_{number}rps_2025-02-09_10-11-12.log", old.encode()
    if kind == 4:
        return f"events-{number}.csv", RECEIPTS.replace("run-1-0,", f"event-{number},").encode()
    if kind == 5:
        return f"{number}_environment.jsonl", b"".join(observed(ms, GO, "direct", f"run-{number}") for ms in range(6))
    return f"instances-{number}.csv", REPORTS.replace("i-0,", f"i-{number},").encode()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The file with some mutations."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        lines = data.splitlines(keepends=True) or [b"\n"]
        at = draw.randrange(len(lines))
        lines[at] = draw.choice((_odd_value, _odd_value, _odd_value, _odd_word, _odd_bytes))(lines[at], draw)
        if draw.random() < 0.3:
            other = draw.randrange(len(lines))
            change = draw.randrange(4)
            if change == 0:
                lines.insert(other, lines[at])
            elif change == 1:
                del lines[other]
            elif change == 2:
                lines[at], lines[other] = lines[other], lines[at]
            else:
                lines[other:] = [lines[other][: draw.randrange(len(lines[other]) + 1)]]
        data = b"".join(lines)
    return data


def _odd_value(raw: bytes, draw: random.Random) -> bytes:
    """One value of the line's JSON is another one, or lacks."""
    try:
        doc = json.loads(raw)
    except (ValueError, RecursionError):
        return _odd_word(raw, draw)
    inner: Any = doc
    while isinstance(inner, dict | list) and inner:
        key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not isinstance(inner[key], dict | list) or not inner[key] or draw.random() < 0.4:
            if draw.random() < 0.1:
                del inner[key]
            else:
                inner[key] = "@odd@"
            break
        inner = inner[key]
    return json.dumps(doc, separators=(",", ":")).replace('"@odd@"', draw.choice(ODD)).encode() + b"\n"


def _odd_word(raw: bytes, draw: random.Random) -> bytes:
    """One word of the line is another one."""
    words = re.split(rb'([ ,="]+)', raw.rstrip(b"\n"))
    words[draw.randrange(len(words))] = draw.choice(WORDS).encode()
    return b"".join(words) + b"\n"


def _odd_bytes(raw: bytes, draw: random.Random) -> bytes:
    """A few bytes of the line are others."""
    changed = bytearray(raw)
    for _ in range(draw.randrange(1, 4)):
        at = draw.randrange(len(changed) + 1)
        changed[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
    return bytes(changed)


def write_files(folder: Path, seed: int) -> set[str]:
    """A folder of mutated files, and a good one."""
    draw = random.Random(seed)
    names = {"good.log"}
    results = [served(seq) for seq in range(20)]
    (folder / "good.log").write_bytes(
        b"".join([line("run_started", header(run_id="good")), *request_lines(results), trailer(results)])
    )
    for number in range(FILES):
        name, data = valid(number, draw)
        (folder / name).write_bytes(mutated(data, draw))
        names.add(name)
    return names


def check(seed: int, tables: int | None = None) -> Counter[str]:
    """Extract a folder of mutated files, twice; returns the reasons of what was skipped."""
    with tempfile.TemporaryDirectory() as base:
        folder, db = Path(base) / "logs", Path(base) / "b.db"
        folder.mkdir()
        names = write_files(folder, seed)
        report = extract(folder, db)
        assert report.rows == sum(row["rows"] for row in rows_of(db, "SELECT rows FROM shards"))
        assert rows_of(db, "SELECT count(*) AS n FROM results") == [{"n": report.rows}]
        read = {row["file"] for row in rows_of(db, "SELECT file FROM shards UNION SELECT file FROM event_files")}
        assert read | {skip.file for skip in report.skipped} == names, "each is read or named"
        assert rows_of(db, "SELECT ok, complete, verdict FROM experiments WHERE run_id = 'good'") == [
            {"ok": 20, "complete": 1, "verdict": "valid"}
        ]
        if seed % 2:
            again = extract(folder, db)
            assert (again.rows, again.receipts) == (0, 0)
        for row in rows_of(db, "SELECT name FROM sqlite_schema WHERE type = 'view'"):
            rows_of(db, f"SELECT * FROM {row['name']}")
        said = io.StringIO()
        print_tables(db, Console(file=said, width=200), report.experiments[:tables])
        with open_store(db) as store:
            proof_lines(store)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", said.getvalue())
        return Counter(skip.reason.partition(":")[0] for skip in report.skipped)


@pytest.mark.parametrize("seed", range(10))
def test_no_mutation_of_a_file_is_fatal(seed: int) -> None:
    reasons = check(seed, tables=5)
    assert reasons["not a line of a workload-generator log"] > 20, "mutations that change something"


# Killed


EXTRACTION = """
import sys
from pathlib import Path
from workload_generator.results.ingest.extract import extract
sys.stdout.write("ready\\n")
sys.stdout.flush()
extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def start_extraction(folder: Path, db: Path) -> subprocess.Popen[bytes]:
    """An extraction in a process of its own, which has begun."""
    process = subprocess.Popen([sys.executable, "-c", EXTRACTION, folder, db], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def content(db: Path) -> dict[str, list[dict[str, Any]]]:
    """All that an extraction stores, row by row."""
    tables = ("events", "event_files", "receiver_reports", "cold_starts", "cold_bursts", "cold_burst_instances")
    return everything(db) | {table: rows_of(db, f"SELECT rowid, * FROM {table} ORDER BY rowid") for table in tables}


def write_campaign(folder: Path) -> None:
    """Logs of two shards each, and receipts."""
    for number in range(20):
        rows = [served(seq, event_id=f"run-{number}-{seq}") for seq in range(number % 2, 1500, 2)]
        head = header(run_id=f"run-{number // 2}", shard=number % 2, shards=2)
        log = [line("run_started", head), *request_lines(rows), *LINES[-2:], trailer(rows)]
        (folder / f"{number}.log").write_bytes(b"".join(log))
    (folder / "events.csv").write_text(OURS + "".join(receipt(seq) for seq in range(20_000)))
    (folder / "instances.csv").write_text(REPORTS)


def killed(folder: Path, db: Path, draw: random.Random, most_s: float) -> int:
    """Extract to the end, and kill it once or more before; returns how many extractions did not end before."""
    count = 0
    for _ in range(draw.randrange(1, 4)):
        with start_extraction(folder, db) as process:
            try:
                process.wait(draw.uniform(0, most_s))
            except subprocess.TimeoutExpired:
                process.kill()
            count += process.wait() == -signal.SIGKILL
    with start_extraction(folder, db) as process:
        assert process.wait() == 0
    return count


def kills(folder: Path, rounds: int, seed: int) -> int:
    """Whether killed extractions give the database of an undisturbed one; returns the number of kills."""
    logs = folder / "logs"
    logs.mkdir()
    write_campaign(logs)
    begin = time.monotonic()
    with start_extraction(logs, folder / "whole.db") as process:
        assert process.wait() == 0
    took_s = time.monotonic() - begin
    whole = content(folder / "whole.db")
    assert (len(whole["results"]), len(whole["events"]), len(whole["shards"])) == (15_000, 20_000, 20)
    draw, count = random.Random(seed), 0
    for number in range(rounds):
        db = folder / f"{number}.db"
        count += killed(logs, db, draw, took_s)
        assert content(db) == whole
        assert not list(folder.glob("*.db-*")), "the file alone is the database"
        db.unlink()
    return count


def test_a_killed_extraction_is_made_good_by_the_next(tmp_path: Path) -> None:
    assert kills(tmp_path, rounds=3, seed=1) > 0


def by_hand(seeds: int) -> None:
    """Fuzz `seeds` folders, and print why files and lines were skipped; then kill until there were 50 kills."""
    found: Counter[str] = Counter()
    for number in range(1000, 1000 + seeds):
        found += check(number)
    sys.stdout.write("".join(f"{count:8,} {reason}\n" for reason, count in found.most_common()))
    count = 0
    for number in itertools.count():
        if count >= 50:
            break
        with tempfile.TemporaryDirectory() as name:
            count += kills(Path(name), rounds=10, seed=number)
    sys.stdout.write(f"{count} kills, each database as it should be\n")


if __name__ == "__main__":
    by_hand(int(sys.argv[1]))
