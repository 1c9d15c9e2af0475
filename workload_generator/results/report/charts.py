"""The charts of each section: drawing (`chart_specs`), SQL (`chart_sql`), and their words and layout (`charts.yaml`).

The report reads the rows of a run once (`request_rows.ROWS_SQL`) and makes all of its numbers from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workload_generator.results.report import chart_sql
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.asset_files import words
from workload_generator.results.report.chart_data import languages_of
from workload_generator.results.report.chart_specs import ChartSpecs, Spec
from workload_generator.results.report.deliveries import DELAYS_SQL, RATES_SQL


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart, drawn once for each `panel` of its dataset, or, with `rows`, once for each row of a panel.

    `see` is its caption, `sql` gives its numbers, `columns` are those of its data table. `legend` is what has colours:
    `language`, `outcome`, `name` (of a series) or nothing. `also` are further datasets that it draws. With a height of
    0 it has a line for each language.
    """

    key: str
    spec: Spec
    sql: str
    title: str
    see: str
    dataset: str
    columns: list[str]
    height: int = 260
    wide: bool = False
    half: bool = False
    rows: str = ""
    legend: str = "language"
    also: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the page's script; the page itself has words and SQL."""
        names = ("key", "dataset", "spec", "columns", "height", "rows", "legend", "also")
        return {name: getattr(self, name) for name in names}


def _chart(key: str, spec: Spec, sql: str) -> Chart:
    return Chart(key, spec, sql, **words("charts.yaml")[key])


def comparison_charts(answers: Answers) -> Iterable[Chart]:
    """Intervals of the compared figures."""
    yield _chart("forest", _specs(answers).forest(), chart_sql.statement("figures", _compared(answers)))


def distribution_charts(answers: Answers) -> Iterable[Chart]:
    """The whole distribution, and its slow end."""
    specs, sql = _specs(answers), chart_sql.statement("curves", _compared(answers))
    yield _chart("ecdf", specs.ecdf(), sql)
    yield _chart("tail", specs.tail(), sql)


def load_charts(answers: Answers) -> Iterable[Chart]:
    """The load curve, a chart for each measure."""
    specs, runs = _specs(answers), _compared(answers)
    for measure in ("p50", "p99", "failed", "achieved"):
        sql = chart_sql.statement("achieved" if measure == "achieved" else "figures", runs)
        yield _chart(f"load_{measure}", specs.load(measure), sql)


def cold_start_charts(answers: Answers) -> Iterable[Chart]:
    """Times and phases of cold starts."""
    specs, runs = _specs(answers), _compared(answers)
    present = list({name for each in answers.starts for start in each.starts for name in start.phases})
    yield _chart("cold", specs.cold(), chart_sql.statement("cold", runs))
    yield _chart("phases", specs.phases(present), chart_sql.statement("phases", runs))
    yield _chart("waterfall", specs.waterfall(present), chart_sql.statement("phases", runs))


def failure_charts(answers: Answers) -> Iterable[Chart]:
    """How arrivals ended."""
    yield _chart("outcomes", _specs(answers).outcomes(), chart_sql.statement("outcomes", _compared(answers)))


def time_charts(answers: Answers) -> Iterable[Chart]:
    """Latency and rates of each run over time."""
    specs = _specs(answers)
    widths = {
        each.run.id: int(max(line.width_s for line in each.timelines) * 1000) for each in answers.data if each.timelines
    }
    yield _chart("latency", specs.latency(), chart_sql.over_time("timeline", widths))
    yield _chart("throughput", specs.throughput(), chart_sql.over_time("timeline", widths))
    yield _chart("heat", specs.heat(), chart_sql.over_time("heat", widths))


def eventing_charts(answers: Answers) -> Iterable[Chart]:
    """Delays and rates of event delivery."""
    specs, runs = _specs(answers), chart_sql.listed(run.id for run in answers.runs)
    delays, rates = (sql.replace("= :id", f"IN ({runs})") + ";" for sql in (DELAYS_SQL, RATES_SQL))
    yield _chart("delays", specs.delays(), delays)
    yield _chart("delivery_rates", specs.delivery_rates(), rates)


def cluster_charts(answers: Answers) -> Iterable[Chart]:
    """Autoscaling, nodes and pods below the latency of each run."""
    spec, runs = _specs(answers).series(), [run.id for run in answers.runs]
    yield _chart("scaling", spec, chart_sql.statement("scaling", runs))
    yield _chart("machines", spec, chart_sql.usage(runs, answers.usage_columns))


def _specs(answers: Answers) -> ChartSpecs:
    return ChartSpecs(languages_of(answers))


def _compared(answers: Answers) -> list[int]:
    return [sample.run.id for group in answers.groups for sample in group.samples]
