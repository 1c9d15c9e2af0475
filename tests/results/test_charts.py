"""The SQL of each chart gives its numbers, and these are the numbers of the made-up campaign."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.results.campaign import LANGUAGES, PHASE_SHARES, TRIGGERS
from workload_generator.results.report.answers import Answers, ask
from workload_generator.results.report.chart_data import Dataset, Detail, make_datasets
from workload_generator.results.report.charts import Chart
from workload_generator.results.report.cold_starts import phases_of, typical
from workload_generator.results.report.samples import CURVE_SHARES, HEAT_EDGES_MS
from workload_generator.results.report.sections import make_charts

DETAIL = Detail(10_000, 10_000, 10_000)


@pytest.fixture(scope="module")
def datasets(answers: Answers) -> dict[str, Dataset]:
    return make_datasets(answers, DETAIL)


@pytest.fixture(scope="module")
def charts(answers: Answers, datasets: dict[str, Dataset]) -> list[Chart]:
    return [chart for own in make_charts(answers, datasets).values() for chart in own]


@pytest.fixture(scope="module")
def query(campaign: Path, charts: list[Chart]) -> Callable[[str], list[Any]]:
    sql = {chart.key: chart.sql for chart in charts}

    def run(key: str) -> list[Any]:
        with closing(sqlite3.connect(f"{campaign.as_uri()}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(sql[key]).fetchall()

    return run


def test_every_chart_has_data_and_a_caption_and_sql(charts: list[Chart], datasets: dict[str, Dataset]) -> None:
    assert len(charts) == 18
    for chart in charts:
        assert chart.see.endswith(".") and len(chart.see) > 40, chart.key
        assert "SELECT" in chart.sql
        data = datasets[chart.dataset]
        assert not set(data.keys) & set(data.fields), f"{chart.key}: a key and a field of one name"
        assert set(chart.columns) <= {*data.keys, *data.fields}, chart.key


def test_every_axis_has_a_title(charts: list[Chart]) -> None:
    def axes(spec: dict[str, Any]) -> list[dict[str, Any]]:
        own = [spec["encoding"][name] for name in ("x", "y") if name in spec.get("encoding", {})]
        return own + [axis for layer in spec.get("layer", ()) for axis in axes(layer)]

    for chart in charts:
        quantitative = [axis for axis in axes(chart.spec) if axis["type"] == "quantitative"]
        assert quantitative, chart.key
        if chart.key not in ("machines", "scaling"):  # there the script adds the unit of each measure
            assert all(axis["title"] for axis in quantitative), chart.key


def test_sql_of_the_curves(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found = {(row["run"], row["language"], row["temperature"], row["share"]): row["ms"] for row in query("ecdf")}
    samples = [sample for group in answers.groups for sample in group.samples]
    assert samples
    for sample in samples:
        for share, ms in zip(CURVE_SHARES, sample.curve.tolist(), strict=True):
            assert found.pop((sample.run.id, sample.language, sample.temperature, share)) == ms
    assert not found


def test_sql_of_the_figures(query: Callable[[str], list[Any]], answers: Answers) -> None:
    rows = {(row["run"], row["language"], row["temperature"]): row for row in query("forest")}
    for group in answers.groups:
        for sample in group.samples:
            row = rows[sample.run.id, sample.language, sample.temperature]
            assert (row["p50"], row["p99"]) == (sample.ttfb.all["p50"], sample.ttfb.all["p99"])
            assert row["arrivals"] == sample.arrivals
            assert row["failed"] == pytest.approx(1 - sample.served / sample.arrivals)


def test_sql_over_time(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found = {(row["run"], row["language"], row["t"]): row for row in query("latency")}
    for each in answers.data:
        for line in each.timelines:
            for index, start in enumerate(line.start_s.tolist()):
                row = found.pop((each.run.id, line.language, start), None)
                if row is None:
                    assert not line.ok[index] + line.failed[index] + line.dropped[index]
                    continue
                assert row["ok"] * line.width_s == pytest.approx(line.ok[index])
                assert row["failed"] * line.width_s == pytest.approx(line.failed[index] + line.dropped[index])
                assert row["cold"] == line.cold[index]
                if line.ok[index]:
                    assert (row["p50"], row["p99"]) == (line.p50[index], line.p99[index])
    assert not found


def test_sql_of_the_heat_map(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found = Counter({(r["run"], r["language"], r["t"], r["level"]): r["answers"] for r in query("heat")})
    ours: Counter[tuple[int, str, float, int]] = Counter()
    for each in answers.data:
        for line in each.timelines:
            for index, level in zip(*(axis.tolist() for axis in np.nonzero(line.heat)), strict=True):
                ours[each.run.id, line.language, float(line.start_s[index]), level] = int(line.heat[index, level])
    assert found == ours
    assert HEAT_EDGES_MS[16] == pytest.approx(1.0), "level 16 begins at 1 ms"


def test_sql_of_the_outcomes(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found = {(row["run"], row["language"], row["outcome"]): row["arrivals"] for row in query("outcomes")}
    compared = [each for each in answers.data if each.run.counts_in]
    ours = {
        (each.run.id, language, str(outcome)): number
        for each in compared
        for language, counter in each.outcomes.items()
        for outcome, number in counter.items()
    }
    assert {(run, language, str(outcome)): number for (run, language, outcome), number in found.items()} == ours


def test_sql_of_the_cold_starts(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found: dict[tuple[int, str], list[float]] = {}
    for row in query("cold"):
        found.setdefault((row["run"], row["language"]), []).append(row["ms"])
    samples = [sample for group in answers.groups if group.temperature == "cold" for sample in group.samples]
    assert found == {(s.run.id, s.language): s.picked.tolist() for s in samples if s.served}


def test_sql_of_the_phases(query: Callable[[str], list[Any]], answers: Answers) -> None:
    found = {(row["run"], row["language"], row["seq"], row["phase"]): row for row in query("phases")}
    assert found
    for each in answers.starts:
        for start in each.starts:
            for name, (begin, end) in start.phases.items():
                row = found.pop((each.runs[0].id, each.language, start.seq, name))
                assert (row["begin"], row["end"], row["ms"]) == (begin, end, pytest.approx(end - begin))
                assert bool(row["grid"]) == (name in start.grid)
    assert not found


def test_phases_are_the_made_up_ones_and_add_up(answers: Answers, datasets: dict[str, Dataset]) -> None:
    data = datasets["phases"]
    sums: dict[str, float] = {}
    at, keys = data.fields.index("ms"), list(data.groups)
    for group, ms in zip(data.group, data.columns[at], strict=True):
        assert ms is not None
        sums[keys[group][1]] = sums.get(keys[group][1], 0.0) + ms
    assert set(sums) == set(LANGUAGES)
    for own in answers.group_starts():
        language, starts = own.language, own.starts
        assert sums[language] == pytest.approx(np.mean([start.ms for start in starts]), rel=1e-3)
        mean = {phase.name: phase.mean for phase in phases_of(starts)}
        whole, before = sum(mean.values()), 0.0
        for name, share in PHASE_SHARES.items():
            if name in ("queue_ready", "ready"):
                assert name not in mean, "what Kubernetes knew, beside the last phase"
                continue
            assert mean[name] / whole == pytest.approx(share - before, abs=1e-3), name
            before = share
        middle = typical(starts)
        assert middle is not None and middle.ms == pytest.approx(np.median([start.ms for start in starts]), rel=0.05)


def test_proofs_are_counted(answers: Answers) -> None:
    for each in answers.starts:
        cold = [sample for data in answers.data if data.run is each.runs[0] for sample in data.samples]
        (whole,) = [s for s in cold if (s.language, s.temperature) == (each.language, "all")]
        (proven,) = [s for s in cold if (s.language, s.temperature) == (each.language, "cold")]
        warm = sum(s.served for s in cold if (s.language, s.temperature) == (each.language, "warm"))
        assert each.proofs["requests"] == whole.arrivals
        assert each.proofs["proven"] == len(each.starts) == proven.served
        assert each.proofs["refuted"] == warm and each.proofs["unknown"] == whole.arrivals - whole.served


def test_sql_of_the_delivery(query: Callable[[str], list[Any]], answers: Answers) -> None:
    assert [each.trigger for each in answers.deliveries] == list(TRIGGERS)
    rows = query("delays")
    for each in answers.deliveries:
        own = [row for row in rows if row["trigger"] == each.trigger]
        account = each.account
        assert len(own) == account["sent"] == account["acknowledged"] == each.ranked == 600
        assert sum(row["deliveries"] == 0 for row in own) == account["lost"] == account["lost_deliveries"] > 0
        assert sum(row["deliveries"] > 1 for row in own) == account["duplicated"] == account["extra_deliveries"] > 0
        assert account["once"] == 600 - account["lost"] - account["duplicated"]
        assert sorted(row["delay"] for row in own if row["delay"] is not None) == each.delay_ms.tolist()
        assert 40 < account["delay_p50"] < 75, "the median of lognormal(4, 0.8) delays is 55 ms"
        assert account["delay_error"] == pytest.approx(0.6), "half round trips of 0.4 and 0.2 ms"
        assert account["unaccounted"] == 1


def test_sql_of_the_rates(query: Callable[[str], list[Any]], answers: Answers) -> None:
    counted = Counter(row["trigger"] for row in query("delivery_rates"))
    for each in answers.deliveries:
        width = each.at_s[1]
        assert sum(each.sent_per_s) * width == pytest.approx(counted[None]) == pytest.approx(600)
        assert sum(each.received_per_s) * width == pytest.approx(counted[each.trigger])


def test_sql_of_the_machines(query: Callable[[str], list[Any]], answers: Answers) -> None:
    rows = query("machines")
    assert {row["kind"] for row in rows} == {"node", "pod"}
    metrics = {line.metric for lines in answers.usage.values() for line in lines}
    assert metrics == {
        "replicas", "CPU of pods (cores)", "CPU of nodes (cores)", "memory of pods (MiB)", "memory of nodes (MiB)",
    }  # fmt: skip
    (first,) = [run for run in answers.runs if run.language == "go" and run.condition.rate == 100][:1]
    replicas = next(line for line in answers.usage[first.id] if line.metric == "replicas")
    assert replicas.name == "empty-go-http-0"
    assert replicas.value.max() == 2, "one, and a second one during the run"
    memory = next(line for line in answers.usage[first.id] if line.metric == "memory of pods (MiB)")
    assert memory.value.max() == pytest.approx(40), "two replicas of 20480Ki"


def test_sql_of_the_scaling(query: Callable[[str], list[Any]], answers: Answers) -> None:
    rows = query("scaling")
    assert {row["revision"] for row in rows} == {"empty-go-http-0-00001", "empty-go-http-0-00002"}
    changed = [(run, at_s, *change[1:]) for run, found in answers.conditions.items() for at_s, change in found]
    (run,) = [run for run, at_s, *_ in changed if 0 < at_s < 2]
    assert [change for change in changed if change[0] == run] == [
        (run, pytest.approx(0.4, abs=0.5), "functions/empty-go-http-0-00001", "Active", "True", "Traffic")
    ]
    lines = {line.name: line for line in answers.scaling[run]}
    assert {line.metric for line in lines.values()} == {"replicas of empty-go-http-0"}
    assert list(lines) == ["desired", "actual", "pending", "running", "ready", "terminating"]
    assert lines["desired"].value.max() == max(row["desired"] or 0 for row in rows) == 4
    assert lines["ready"].value.max() == 3, "two of one revision and one of the other"
    assert lines["ready"].value[[0, -1]].tolist() == [0, 0], "not known before a recording, nor after it"


def test_the_rates_of_the_load_curve(datasets: dict[str, Dataset], answers: Answers) -> None:
    knees = {knee.language: (knee.on, knee.off) for knee in answers.knees}
    assert knees == {
        "go": (800, None), "rust": (800, None), "python": (200, 400), "ts": (400, 800), "quarkus": (200, 400),
        "springboot": (400, 800),
    }  # fmt: skip
    assert sorted(set(datasets["load"].columns[0])) == [100, 200, 400, 800]


def test_invalid_and_incomplete_runs_are_compared_only_on_request(campaign: Path, answers: Answers) -> None:
    out = {run.id: run.state for run in answers.runs if not answers.compares(run)}
    assert sorted(out.values()) == ["incomplete", "invalid"]
    compared = {sample.run.id for group in answers.groups for sample in group.samples}
    assert not compared & out.keys()
    some = [*out, *list(compared)[:5]]
    everything = ask(campaign, include_invalid=True, experiments=some)
    assert {s.run.id for group in everything.groups for s in group.samples} == set(some)


def test_languages_of_a_run_are_in_the_order_of_its_rows(answers: Answers) -> None:
    """Every process makes the same page of the same database."""
    several = [list(each.outcomes) for each in answers.data if len(each.outcomes) > 1]
    assert several == [list(LANGUAGES)] * 7


def test_lost_arrivals_have_one_temperature(answers: Answers) -> None:
    for each in answers.data:
        for language, counter in each.outcomes.items():
            own = [sample for sample in each.samples if sample.language == language]
            (whole,) = [sample for sample in own if sample.temperature == "all"]
            parts = [sample for sample in own if sample.temperature != "all"]
            assert sum(sample.arrivals for sample in parts) == whole.arrivals == sum(counter.values())
            assert sum(sample.served for sample in parts) == whole.served


def test_failed_cold_starts_are_lost_cold_starts(answers: Answers) -> None:
    groups = [group for group in answers.groups if group.condition.scenario == "serving-scenario-2"]
    assert sum(group.arrivals - group.served for group in groups if group.temperature == "cold") > 0
    assert all(group.arrivals == group.served for group in groups if group.temperature == "warm")


def test_coarser_charts_keep_the_number_of_arrivals(answers: Answers) -> None:
    fine, coarse = (make_datasets(answers, Detail(bins, bins))["timeline"] for bins in (10_000, 1))
    for column in ("ok", "failed"):
        at, width = fine.fields.index(column), fine.fields.index("width")
        sums = [
            sum(n * w for n, w in zip(data.columns[at], data.columns[width], strict=True) if n is not None and w)
            for data in (fine, coarse)
        ]
        assert sums[1] == pytest.approx(sums[0], rel=0.01)


def test_no_number_of_a_chart_is_infinite(datasets: dict[str, Dataset]) -> None:
    for data in datasets.values():
        assert all(value is None or math.isfinite(value) for column in data.columns for value in column)


def test_charts_are_plain_data(charts: list[Chart]) -> None:
    assert set(charts[0].to_json()) >= {"key", "dataset", "spec"}
