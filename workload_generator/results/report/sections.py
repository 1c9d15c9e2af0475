"""The page from top to bottom: its sections, with the functions that make the tables and charts of each.

The module of a table also has the SQL that reads its rows. The first table, `comparison.ttfb_table`, and all others of
measured requests come from `request_rows.ROWS_SQL`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from workload_generator.results.report import (
    autoscaling,
    charts,
    cold_starts,
    comparison,
    deliveries,
    modes,
    nodes_and_pods,
    run_tables,
)
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.asset_files import words
from workload_generator.results.report.chart_data import Dataset
from workload_generator.results.report.charts import Chart
from workload_generator.results.report.table import Table

_Charts = Callable[[Answers], Iterable[Chart]]
_Tables = Callable[[Answers], Iterable[Table]]


@dataclass(frozen=True, slots=True)
class PageSection:
    """One part of the page, left out when it has neither charts nor tables. `assets/sections.yaml` has its words.

    `open` is whether its tables are unfolded, `conclusions` the title above its conclusions in the summary.
    """

    key: str
    charts: _Charts
    tables: _Tables
    short: str
    title: str
    text: str = ""
    open: bool = False
    conclusions: str = ""


def _nothing(_answers: Answers) -> tuple[()]:
    return ()


_CONTENT: Mapping[str, tuple[_Charts, _Tables]] = {
    "compare": (
        charts.comparison_charts,
        lambda answers: (comparison.ttfb_table(answers.groups), comparison.pairs_table(answers.rankings)),
    ),
    "distribution": (charts.distribution_charts, lambda answers: (modes.shapes_table(answers.shapes),)),
    "load": (charts.load_charts, lambda answers: (comparison.knees_table(answers.knees),)),
    "cold": (
        charts.cold_start_charts,
        lambda answers: (
            cold_starts.starts_table(answers.groups),
            cold_starts.proofs_table(answers.group_starts()),
            cold_starts.phases_table(answers.group_starts()),
            cold_starts.bursts_table(answers.bursts),
        ),
    ),
    "failures": (charts.failure_charts, lambda answers: (run_tables.outcomes_table(answers.data),)),
    "time": (charts.time_charts, _nothing),
    "eventing": (charts.eventing_charts, lambda answers: (deliveries.delivery_table(answers.deliveries),)),
    "machines": (
        charts.cluster_charts,
        lambda answers: (
            autoscaling.scaling_table(answers.data, answers.scaling),
            autoscaling.conditions_table(answers.data, answers.conditions),
            nodes_and_pods.usage_table(answers.data, answers.usage),
        ),
    ),
    "runs": (
        _nothing,
        lambda answers: (run_tables.runs_table(answers.data), run_tables.thresholds_table(answers.thresholds)),
    ),
    "tables": (
        _nothing,
        lambda answers: (
            run_tables.readings_table(answers.data, "ttfb"),
            run_tables.readings_table(answers.data, "corrected"),
            run_tables.connections_table(answers.connections),
            run_tables.seconds_table(answers.data),
        ),
    ),
}
SECTIONS = tuple(PageSection(key, *makers, **words("sections.yaml")[key]) for key, makers in _CONTENT.items())
CONCLUSIONS_ORDER = ("runs", "compare", "failures", "load", "cold", "distribution", "eventing", "tables")
"""The sections in the order in which the summary has their conclusions, the most important first."""


def make_charts(answers: Answers, datasets: Mapping[str, Dataset]) -> dict[str, list[Chart]]:
    """The charts with data, by the key of their section, in the order of the page."""
    return {
        section.key: [chart for chart in section.charts(answers) if len(datasets[chart.dataset])]
        for section in SECTIONS
    }


def make_tables(answers: Answers) -> dict[str, list[Table]]:
    """The tables with rows, by the key of their section, in the order of the page."""
    return {section.key: [table for table in section.tables(answers) if table.rows] for section in SECTIONS}
