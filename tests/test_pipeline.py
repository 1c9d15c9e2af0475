"""From a run to the database: complete, killed and growing logs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Generator, after, at_once, target
from workload_generator.results.ingest.extract import extract


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


@pytest.fixture
async def slow_url() -> AsyncIterator[str]:
    """Answers after 100 ms, so that some requests are always in flight."""

    async with target(after(0.1)) as url:
        yield url


def ask(db: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(db)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


async def test_the_database_has_the_counts_of_the_run(generator: Generator, slow_url: str) -> None:
    path = generator.experiment(slow_url, rate={"duration": "500ms", "rampUp": "500ms"})
    ran = await generator.run(f"--config={path}", "--prefix=serving-scenario-1_100rps_go", "--ping")
    db = generator.folder / "benchmark.db"
    report = extract(generator.logs, db)
    assert (report.logs, report.rows, report.skipped, report.warnings) == (1, len(ran.requests()), (), ())
    ((language, planned, sent, ok, missing, complete, verdict),) = ask(
        db, "SELECT language, planned, sent, ok, missing, complete, verdict FROM experiments"
    )
    assert (language, missing, complete, verdict) == ("go", 0, 1, ran.summary["verdict"])
    assert (planned, sent, ok) == (ran.summary["planned"], ran.summary["sent"], ran.summary["ok"]) == (50, 50, 50)
    assert ask(db, "SELECT count(*), min(ttfb) >= 100, sum(is_cold) FROM requests") == [(50, 1, 0)]
    phases = dict(ask(db, "SELECT phase, count(*) FROM results GROUP BY phase"))
    assert phases == {phase: len(ran.requests(phase)) for phase in ("ping", "ramp", "measure")}
    assert extract(generator.logs, db).rows == 0, "no row is read twice"


async def test_targets_of_one_url_keep_their_own_expected_statuses(generator: Generator) -> None:
    async with target(at_once) as url:
        targets = [{"url": url}, {"url": url, "expectStatus": 404}]
        path = generator.experiment(url, targets=targets, rate={"duration": "200ms"})
        ran = await generator.run(f"--config={path}")
    db = generator.folder / "benchmark.db"
    extract(generator.logs, db)
    assert (
        ask(db, "SELECT ok, failed FROM experiments")
        == [(10, 10)]
        == ask(db, "SELECT sum(ok), sum(NOT ok) FROM requests")
    )
    assert (ran.summary["ok"], ran.summary["failed"]) == (10, 10)


async def test_a_killed_run_is_stored_as_incomplete(generator: Generator, slow_url: str) -> None:
    path = generator.experiment(slow_url, rate={"duration": "60s"})
    process = await generator.run_until_sending(f"--config={path}", requests=120)
    process.kill()
    await process.wait()
    await generator.wait_for_recorder()
    db = generator.folder / "benchmark.db"
    report = extract(generator.logs, db)
    rows = sum(doc["event"] == "request" for doc in generator.read_log())
    ((sent, ok, missing, complete, verdict),) = ask(db, "SELECT sent, ok, missing, complete, verdict FROM experiments")
    assert report.rows == rows == ok
    assert (complete, verdict) == (0, None)
    assert 0 <= missing <= 100 and sent == ok + missing, "at most those of the last second, at 100 per second"
    assert report.warnings


async def test_extraction_reads_the_rest_of_a_growing_log(generator: Generator, slow_url: str) -> None:
    db = generator.folder / "benchmark.db"
    path = generator.experiment(slow_url, rate={"duration": "1s"})
    process = await generator.run_until_sending(f"--config={path}")
    first = extract(generator.logs, db)
    assert ask(db, "SELECT complete FROM experiments") == [(0,)]
    ran = await generator.finish(process)
    second = extract(generator.logs, db)
    assert first.rows > 0 and second.rows > 0 and first.rows + second.rows == len(ran.requests()) == 100
    assert ask(db, "SELECT complete, missing, count(DISTINCT seq) FROM experiments, requests") == [(1, 0, 100)]
