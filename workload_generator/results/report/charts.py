"""The charts of each section: title, caption, data, drawing, and the SQL that gives its numbers (`chart_sql`).

The report reads the rows of a run once (`request_rows.ROWS_SQL`) and makes all of its numbers from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workload_generator.results.report import chart_sql
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.chart_data import languages_of
from workload_generator.results.report.chart_specs import ChartSpecs, Spec
from workload_generator.results.report.deliveries import DELAYS_SQL, RATES_SQL
from workload_generator.results.report.samples import HEAT_PER_DECADE

LANGUAGE, OUTCOME, NAMES, NO_LEGEND = "language", "outcome", "name", ""

_PANEL, _RUN = ("panel", "language"), ("panel", "language", "run")


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart, drawn once for each `panel` of its dataset, or, with `rows`, once for each row of a panel.

    `see` is its caption, `sql` gives its numbers, `columns` are those of its data table.
    """

    key: str
    title: str
    see: str
    dataset: str
    spec: Spec
    sql: str
    columns: tuple[str, ...]
    height: int = 260
    wide: bool = False
    half: bool = False
    rows: str = ""
    legend: str = LANGUAGE
    also: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For the page's script; the page itself has words and SQL."""
        names = ("key", "dataset", "spec", "columns", "height", "rows", "legend", "also")
        return {name: getattr(self, name) for name in names}


def comparison_charts(answers: Answers) -> Iterable[Chart]:
    """Intervals of the compared figures."""
    yield Chart(
        "forest",
        "Medians and tails, run by run",
        "Each circle is one run, the diamond their median, the bar its interval. Overlapping bars are not a ranking; "
        "the bar of a single run is not evidence about the next run. A triangle is beyond the timeout.",
        "groups",
        _specs(answers).forest(),
        chart_sql.figures(_compared(answers)),
        (*_RUN, "quantile", "what", "ms", "low", "high", "confidence"),
        height=0,
        legend=NO_LEGEND,
    )


def distribution_charts(answers: Answers) -> Iterable[Chart]:
    """The whole distribution, and its slow end."""
    specs, sql = _specs(answers), chart_sql.curves(_compared(answers))
    columns = (*_PANEL, "band", "share", "ms", "low", "high")
    see = (
        "The further left and the steeper, the better. A curve that ends below 100 % lost the rest: failed and dropped "
        "arrivals rank slower than any limit. A step or a kink is a second population."
    )
    yield Chart("ecdf", "Share of arrivals answered within a time", see, "curves", specs.ecdf(), sql, columns)
    see = (
        "Each step to the right is ten times rarer. A flat curve is even; where it rises, that share of requests waits "
        "for something else: a queue, a pause, a cold start. It ends where arrivals were lost."
    )
    yield Chart("tail", "The slow end, to p99.99", see, "curves", specs.tail(), sql, columns)


def load_charts(answers: Answers) -> Iterable[Chart]:
    """The load curve, a chart for each measure."""
    specs, runs = _specs(answers), _compared(answers)
    for measure, title, see in (
        ("p50", "Median by rate", "A flat line has capacity left; where it bends, requests begin to queue."),
        (
            "p99",
            "p99 by rate",
            "The knee is where p99 leaves the plateau for good. A triangle is beyond the timeout: over 1 % were lost.",
        ),
        ("lost", "Lost by rate", "Above zero the system refuses or loses requests, and low latency means little."),
        (
            "achieved",
            "Achieved rate",
            "Of the plan. Below 100 % the generator did not send everything, and the other figures are too good.",
        ),
    ):
        own = tuple(f"{measure}{end}" for end in ("", "_low", "_high")) if measure[0] == "p" else (measure,)
        sql = chart_sql.achieved(runs) if measure == "achieved" else chart_sql.figures(runs)
        columns = (*_PANEL, "rps", *own)
        yield Chart(f"load_{measure}", title, see, "load", specs.load(measure), sql, columns, height=220, half=True)


def cold_start_charts(answers: Answers) -> Iterable[Chart]:
    """Times and phases of cold starts."""
    specs, runs = _specs(answers), _compared(answers)
    present = list({name for each in answers.starts for start in each.starts for name in start.phases})
    yield Chart(
        "cold",
        "Cold starts, one by one",
        "A dot is a cold start, the bar the middle half, the tick the median. Separate clusters of dots have different "
        "causes (an image pulled, a probe's period), and a median between them describes neither.",
        "cold",
        specs.cold(),
        chart_sql.cold(runs),
        (*_PANEL, "what", "ms", "low", "high"),
        height=0,
        legend=NO_LEGEND,
    )
    yield Chart(
        "phases",
        "Phases of proven cold starts",
        "Each bar is the mean time to the first byte, divided at the platform's own points. Work on the widest part: "
        "before the instance is created it is the autoscaler, up to containers started the node and the image, up to "
        "ready the function and its probes, after that the proxies and the response.",
        "phases",
        specs.phases(present),
        chart_sql.phases(runs),
        (*_PANEL, "phase", "ms", "p50", "p90", "starts", "error"),
        height=0,
        wide=True,
        legend=NO_LEGEND,
    )
    yield Chart(
        "waterfall",
        "One cold start, step by step",
        "The median proven cold start of each language. A step begins where the one before it ends; a step as short as "
        "the error (in the tooltip) may lie anywhere within it.",
        "waterfall",
        specs.waterfall(present),
        chart_sql.phases(runs),
        (*_PANEL, "phase", "start", "begin", "end", "ms", "error"),
        height=180,
        legend=NO_LEGEND,
    )


def failure_charts(answers: Answers) -> Iterable[Chart]:
    """How arrivals ended."""
    yield Chart(
        "outcomes",
        "How the measured arrivals ended",
        "Any colour but that of 2xx is a loss. Refused connections and 503s mean a full system, timeouts a stuck one, "
        "dropped arrivals the generator's own limit.",
        "outcomes",
        _specs(answers).outcomes(),
        chart_sql.outcomes(_compared(answers)),
        (*_PANEL, "outcome", "arrivals", "share"),
        height=0,
        legend=OUTCOME,
    )


def time_charts(answers: Answers) -> Iterable[Chart]:
    """Latency and rates of each run over time."""
    specs = _specs(answers)
    widths = {
        each.run.id: int(max(line.width_s for line in each.timelines) * 1000) for each in answers.data if each.timelines
    }
    yield Chart(
        "latency",
        "TTFB over time",
        "Solid is p50, dashed p99, one line per run; grey lines are invalid or incomplete runs. The shaded part is "
        "the ramp, which enters no figure; triangles are cold requests. A line that rises to the right has not "
        "settled: the run was too short or the load too high.",
        "timeline",
        specs.latency(),
        chart_sql.timeline(widths),
        (*_RUN, "t", "p50", "p99"),
        height=200,
        also=("cold_marks", "ramps"),
    )
    yield Chart(
        "throughput",
        "Throughput over time",
        "The dotted line is the plan, the solid line the answers, the red area failed and dropped arrivals. A gap "
        "between line and plan without red was not sent by the generator.",
        "timeline",
        specs.throughput(),
        chart_sql.timeline(widths),
        (*_RUN, "t", "ok", "lost", "planned"),
        height=200,
        also=("ramps",),
    )
    yield Chart(
        "heat",
        "Latency heat map",
        "Most answers are in the bright cells. Two bright bands are two populations; a vertical smear is a stall of "
        "all requests at once; a slope is a growing queue.",
        "heat",
        specs.heat(),
        chart_sql.heat(widths, HEAT_PER_DECADE),
        (*_PANEL, "t", "end", "low", "high", "per_s"),
        height=220,
        legend=NO_LEGEND,
    )


def eventing_charts(answers: Answers) -> Iterable[Chart]:
    """Delays and rates of event delivery."""
    specs, runs = _specs(answers), chart_sql.listed(run.id for run in answers.runs)
    delays, rates = (sql.replace("= :id", f"IN ({runs})") + ";" for sql in (DELAYS_SQL, RATES_SQL))
    yield Chart(
        "delays",
        "Delay of delivery",
        "From the request to the first receipt, a curve for each trigger. A curve that ends below 100 % lost the "
        "rest; a long foot is a queue.",
        "delivery",
        specs.delays(),
        delays,
        (*_RUN, "trigger", "share", "ms"),
        half=True,
    )
    yield Chart(
        "delivery_rates",
        "Sent and received over time",
        "The receipts of each trigger should match the events sent (without named triggers: a multiple of them); "
        "receipts after the last event are a backlog.",
        "delivery_rates",
        specs.delivery_rates(),
        rates,
        (*_RUN, "trigger", "what", "t", "per_s"),
        half=True,
        legend=NO_LEGEND,
    )


def cluster_charts(answers: Answers) -> Iterable[Chart]:
    """Autoscaling, nodes and pods below the latency of each run."""
    spec, runs = _specs(answers).series(), [run.id for run in answers.runs]
    see = (
        "Where desired is above ready, requests wait for pods; pending pods wait for a node, running ones for their "
        "first successful probe. Desired that lags behind the load is the autoscaler's window."
    )
    autoscaling = ("scaling", "Autoscaling and latency", see, "scaling", spec, chart_sql.scaling(runs))
    see = (
        "On one time axis: does latency rise when replicas are few, or when a node's CPU is at its limit? Replicas "
        "that lag behind the load are the autoscaler's."
    )
    usage = ("machines", "Nodes, pods and latency", see, "machines", spec, chart_sql.usage(runs, answers.usage_columns))
    columns = (*_RUN, "metric", "name", "t", "value")
    for chart in (autoscaling, usage):
        yield Chart(*chart, columns, height=110, wide=True, rows="metric", legend=NAMES)


def _specs(answers: Answers) -> ChartSpecs:
    return ChartSpecs(languages_of(answers))


def _compared(answers: Answers) -> list[int]:
    return [sample.run.id for group in answers.groups for sample in group.samples]
