"""`--self-test`: with shorter runs, and as a user runs it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import orjson

from tests.support import Generator

SHORT = {"run.self_test._MEASURED_S": 0.3, "run.self_test._TRIED_S": 0.2}


def left_behind(folder: Path) -> list[Path]:
    return list(folder.glob("self-test-*"))


async def test_the_self_test_prints_its_report(tmp_path: Path) -> None:
    process = await Generator(tmp_path, **SHORT).start("--self-test", "--output=json")
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    report = orjson.loads(stdout)
    assert report["kernel_stamps"] > 0.9
    assert 0 < report["lag_p50_ms"] <= report["lag_p99_ms"]
    assert 0 < report["error_p50_ms"] <= report["error_p99_ms"], "the answer came after the server gave it"
    assert report["most_rps"] > (report["trusted_rps"] or 0)
    assert bool(report["doubts"]) == (report["trusted_rps"] is None)
    assert not left_behind(tmp_path)


async def test_it_is_refused_beside_a_run(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    first = await generator.start_cold("--self-test")
    while not (tmp_path / f"workload-generator-{os.getuid()}/workload-generator.lock").exists():
        await asyncio.sleep(0.01)
    second = await generator.start("--self-test")
    _, stderr = await second.communicate()
    first.terminate()
    assert second.returncode == 2 and b"self-test" in stderr
    assert await first.wait() == 143
