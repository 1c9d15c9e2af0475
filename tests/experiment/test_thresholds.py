"""Thresholds: read, judged at the end of a run, and judged again from the database."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest

from tests.support import Generator, at_once, held_against, target, valid_but_for_the_machine
from workload_generator.base.histogram import Histogram
from workload_generator.experiment.thresholds import judge_thresholds, threshold
from workload_generator.experiment.yaml_lines import Scalar
from workload_generator.results.ingest.extract import extract
from workload_generator.results.report.answers import ask
from workload_generator.results.report.conclusions import summarise

COUNTS = {"sent": 198, "failed": 2, "dropped": 2}


def histogram(values_us: list[int], beyond: int = 0) -> Histogram:
    made = Histogram()
    made.record_all(values_us, beyond)
    return made


@pytest.mark.parametrize(
    ("text", "value", "passed"),
    [
        ("ttfb.p99 < 50ms", 1.98, True),
        ("ttfb.p99<1.98ms", 1.98, False),
        ("ttfb.p99 <= 1.98ms", 1.98, True),
        ("ttfb.min > 9µs", 0.01, True),
        ("ttfb.max < 1h", "beyond", False),
        ("ttfb.p99.9 < 1h", "beyond", False),
        ("ttfb.p99.9 > 1s", "beyond", True),
        ("errors < 2%", 0.02, False),
        ("errors <= 0.02", 0.02, True),
        ("failed < 1.1%", 0.01, True),
        ("dropped >= 1%", 0.01, True),
        ("lag.p50 < 1s", None, False),
    ],
)
def test_judging(text: str, value: float | str | None, passed: bool) -> None:
    ttfb = histogram([10 * n for n in range(1, 199)], beyond=2)
    (judged,) = judge_thresholds([threshold(Scalar(text))], COUNTS, {"ttfb": ttfb, "lag": Histogram()})
    assert judged.passed is passed
    found = judged.to_json()["value"]
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


def test_thresholds_fail_without_arrivals() -> None:
    counts = {"sent": 0, "failed": 0, "dropped": 0}
    (judged,) = judge_thresholds([threshold(Scalar("errors < 1%"))], counts, {})
    assert not judged.passed and judged.value_text == "nothing was measured"


def test_values_for_people() -> None:
    judged = judge_thresholds(
        [threshold(Scalar(text)) for text in ("errors < 1%", "ttfb.p50 < 1s", "ttfb.max < 1s")],
        {"sent": 3, "failed": 1, "dropped": 0},
        {"ttfb": histogram([1234, 5678], beyond=1)},
    )
    assert [each.value_text for each in judged] == ["33.33%", "5.678 ms", "beyond the timeout"]
    assert judged[2].value == math.inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "is not a threshold: use for example"),
        ("ttfb.p99 = 5ms", "is not a threshold"),
        ("tfb.p99 < 5ms", "did you mean ttfb?"),
        ("ttfb < 5ms", "needs min, max or a quantile"),
        ("ttfb.p100 < 5ms", "needs min, max or a quantile"),
        ("ttfb.mean < 5ms", "needs min, max or a quantile"),
        ("ttfb.p99 < 5", "is not a duration"),
        ("ttfb.p99 < 1%", "is not a duration"),
        ("errors.p99 < 1%", "has no .p99"),
        ("errors < 101%", "is not a share"),
        ("errors < 5ms", "is not a share"),
    ],
)
def test_invalid_thresholds(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        threshold(Scalar(text))


async def test_a_failed_threshold_is_exit_code_3_and_reported_everywhere(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        thresholds = ["errors < 1%", "ttfb.p50 < 1ns", "corrected_ttfb.max < 1h"]
        config = generator.experiment(url, rate={"duration": "300ms"}, thresholds=thresholds)
        ran = await generator.run(f"--config={config}")
    assert ran.code == 3 and not held_against(ran)
    assert [each["passed"] for each in ran.summary["thresholds"]] == [True, False, True]
    assert ran.trailer["thresholds"] == ran.summary["thresholds"]
    extract(generator.logs, tmp_path / "x.db")
    answers = ask(tmp_path / "x.db")
    (thresholds_of_run,) = answers.thresholds
    assert thresholds_of_run.judged is not None
    assert [each.to_json() for each in thresholds_of_run.judged] == ran.trailer["thresholds"]
    words = [each.text for each in summarise(answers).conclusions]
    assert any(text.startswith("Run 1 failed its threshold ttfb.p50 < 1ns:") for text in words)


async def test_passed_thresholds_are_exit_code_0_and_reported(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        config = generator.experiment(url, rate={"duration": "300ms"}, thresholds=["errors < 1%"])
        process = await generator.start(f"--config={config}", "--progress=none")
        ran = await generator.finish(process)
    valid_but_for_the_machine(ran)
    assert "threshold errors < 1%: passed, 0%" in ran.stdout


async def test_the_shards_of_a_run_are_judged_together(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        config = generator.experiment(url, rate={"duration": "300ms"}, thresholds=["ttfb.max < 1h", "errors > 1%"])
        command = (f"--config={config}", "--processes=2", "--output=json", "--progress=none")
        process = await generator.start(*command)
        stdout, stderr = await process.communicate()
    assert process.returncode == 3, stderr
    summary = orjson.loads(stdout)
    assert summary["sent"] == 30
    assert [each["passed"] for each in summary["thresholds"]] == [True, False]
    extract(generator.logs, tmp_path / "x.db")
    (thresholds_of_run,) = ask(tmp_path / "x.db").thresholds
    assert thresholds_of_run.judged is not None
    assert [each.to_json() for each in thresholds_of_run.judged] == summary["thresholds"]
