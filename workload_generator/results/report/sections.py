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
from workload_generator.results.report.chart_data import Dataset
from workload_generator.results.report.charts import Chart
from workload_generator.results.report.table import Table


@dataclass(frozen=True, slots=True)
class PageSection:
    """One part of the page, left out when it has neither charts nor tables.

    `open` is whether its tables are unfolded, `conclusions` the title above its conclusions in the summary.
    """

    key: str
    short: str
    title: str
    text: tuple[str, ...] = ()
    charts: Callable[[Answers], Iterable[Chart]] = lambda _: ()
    tables: Callable[[Answers], Iterable[Table]] = lambda _: ()
    open: bool = False
    conclusions: str = ""


SECTIONS = (
    PageSection(
        "compare",
        "Comparison",
        "Which is faster, and with what confidence",
        (
            "Requests of one run are not independent, so each run gives one number. Languages are ranked only where a "
            "test over several runs shows a difference.",
        ),
        charts.comparison_charts,
        lambda answers: (comparison.ttfb_table(answers.groups), comparison.pairs_table(answers.rankings)),
        open=True,
        conclusions="Comparison",
    ),
    PageSection(
        "distribution",
        "Distribution",
        "The whole distribution",
        charts=charts.distribution_charts,
        tables=lambda answers: (modes.shapes_table(answers.shapes),),
        conclusions="Distributions",
    ),
    PageSection(
        "load",
        "Load",
        "The load curve",
        charts=charts.load_charts,
        tables=lambda answers: (comparison.knees_table(answers.knees),),
        open=True,
        conclusions="Load",
    ),
    PageSection(
        "cold",
        "Cold starts",
        "Cold starts",
        charts=charts.cold_start_charts,
        tables=lambda answers: (
            cold_starts.starts_table(answers.groups),
            cold_starts.proofs_table(answers.group_starts()),
            cold_starts.phases_table(answers.group_starts()),
            cold_starts.bursts_table(answers.bursts),
        ),
        open=True,
        conclusions="Cold starts",
    ),
    PageSection(
        "failures",
        "Failures",
        "Failures",
        charts=charts.failure_charts,
        tables=lambda answers: (run_tables.outcomes_table(answers.data),),
        conclusions="Failures",
    ),
    PageSection("time", "Over time", "The runs over time", charts=charts.time_charts),
    PageSection(
        "eventing",
        "Eventing",
        "Eventing delivery",
        charts=charts.eventing_charts,
        tables=lambda answers: (deliveries.delivery_table(answers.deliveries),),
        open=True,
        conclusions="Eventing",
    ),
    PageSection(
        "machines",
        "Cluster",
        "Autoscaling, nodes and pods",
        charts=charts.cluster_charts,
        tables=lambda answers: (
            autoscaling.scaling_table(answers.data, answers.scaling),
            autoscaling.conditions_table(answers.data, answers.conditions),
            nodes_and_pods.usage_table(answers.data, answers.usage),
        ),
    ),
    PageSection(
        "runs",
        "Runs",
        "The runs and their verdicts",
        tables=lambda answers: (run_tables.runs_table(answers.data), run_tables.thresholds_table(answers.thresholds)),
        open=True,
        conclusions="Verdicts of the runs",
    ),
    PageSection(
        "tables",
        "Tables",
        "More tables",
        (
            "Times are milliseconds. A failed or dropped arrival ranks slower than any limit: a quantile among them is "
            "beyond the timeout. kn-bench report --csv DIR writes all tables as CSV.",
        ),
        tables=lambda answers: (
            run_tables.readings_table(answers.data, "ttfb"),
            run_tables.readings_table(answers.data, "corrected"),
            run_tables.connections_table(answers.connections),
            run_tables.seconds_table(answers.data),
        ),
        conclusions="Figures",
    ),
)
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
