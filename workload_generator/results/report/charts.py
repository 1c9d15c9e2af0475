"""The pictures of a report: which there are, what each says, and the SQL behind it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workload_generator.results.report import queries
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.datasets import Dataset, languages_of
from workload_generator.results.report.samples import HEAT_PER_DECADE
from workload_generator.results.report.specs import Pictures, Spec

LANGUAGE, OUTCOME, NAMES, NO_LEGEND = "language", "outcome", "name", ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture; it is drawn once for each `panel` of its dataset, or, with `rows`, once for each row of a panel.

    `see` says what there is to see in it; `sql` gives its numbers; `columns` are those of its data table.
    """

    key: str
    section: str
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
        """As the page's script reads it; words and SQL stand in the page itself."""
        names = ("key", "dataset", "spec", "columns", "height", "wide", "rows", "legend", "also")
        return {name: getattr(self, name) for name in names}


def make_charts(answers: Answers, datasets: dict[str, Dataset]) -> list[Chart]:
    """The pictures that have data."""
    return [chart for chart in _charts(answers) if len(datasets[chart.dataset])]


def _charts(answers: Answers) -> Iterable[Chart]:
    draw = Pictures(languages_of(answers))
    compared = [sample.run.id for cell in answers.cells for sample in cell.samples]
    every = [run.id for run in answers.runs]
    widths = {
        each.run.id: int(max(line.width_s for line in each.timelines) * 1000) for each in answers.data if each.timelines
    }
    phases = list({name for each in answers.starts for start in each.starts for name in start.phases})
    arrivals, who = ("panel", "language"), ("panel", "language", "run")
    yield Chart(
        "forest",
        "compare",
        "Medians and tails, run by run",
        "Each circle is one run, the diamond their median, the bar its interval. Where bars overlap, do not rank; a "
        "bar of a single run says nothing about the next. A triangle is beyond the timeout.",
        "cells",
        draw.forest(),
        queries.figures(compared),
        (*who, "quantile", "what", "ms", "low", "high", "confidence"),
        height=0,
        legend=NO_LEGEND,
    )
    yield Chart(
        "ecdf",
        "distribution",
        "How many were answered within which time",
        "The further left and the steeper, the better. A curve that ends below 100 % lost the rest: failed and dropped "
        "arrivals count as slower than any limit. A step or a kink is a second population.",
        "curves",
        draw.ecdf(),
        queries.curves(compared),
        (*arrivals, "band", "share", "ms", "low", "high"),
    )
    yield Chart(
        "tail",
        "distribution",
        "The slow end, to p99.99",
        "Each step to the right is ten times rarer. A flat curve is even; where it turns upwards, that share of users "
        "waits for something else: a queue, a pause, a cold start. It ends where arrivals were lost.",
        "curves",
        draw.tail(),
        queries.curves(compared),
        (*arrivals, "band", "share", "ms", "low", "high"),
    )
    for measure, title, see in (
        ("p50", "Median by rate", "A flat line has capacity left; where it bends, requests begin to queue."),
        (
            "p99",
            "p99 by rate",
            "The knee is where p99 leaves the plateau for good. A triangle is beyond the timeout: over 1 % were lost.",
        ),
        ("lost", "Lost by rate", "Above zero the system refuses or forgets work; fast answers beside it mean little."),
        (
            "achieved",
            "Achieved rate",
            "Of what was planned. Below 100 % the generator did not send everything, and the other figures flatter.",
        ),
    ):
        columns = tuple(f"{measure}{end}" for end in ("", "_low", "_high")) if measure[0] == "p" else (measure,)
        yield Chart(
            f"load_{measure}",
            "load",
            title,
            see,
            "load",
            draw.load(measure),
            queries.achieved(compared) if measure == "achieved" else queries.figures(compared),
            (*arrivals, "rps", *columns),
            height=220,
            half=True,
        )
    yield Chart(
        "latency",
        "time",
        "TTFB over time",
        "Solid is p50, dashed p99, a line a run; grey lines are invalid or incomplete runs. The shaded part is the "
        "ramp, which enters no figure; triangles are cold requests. A line that rises to the right has not settled: "
        "the run was too short or the load too high.",
        "timeline",
        draw.latency(),
        queries.timeline(widths),
        (*who, "t", "p50", "p99"),
        height=200,
        also=("cold_marks", "ramps"),
    )
    yield Chart(
        "throughput",
        "time",
        "Throughput over time",
        "The dotted line is the plan; the line is what was answered, the red area what failed or was dropped. A gap "
        "between line and plan without red is what the generator did not send.",
        "timeline",
        draw.throughput(),
        queries.timeline(widths),
        (*who, "t", "ok", "lost", "planned"),
        height=200,
        also=("ramps",),
    )
    yield Chart(
        "heat",
        "time",
        "Latency heat map",
        "Bright is where most answers are. Two bright bands are two populations; a vertical smear is a stall of all "
        "requests at once; a slope is a queue that grows.",
        "heat",
        draw.heat(),
        queries.heat(widths, HEAT_PER_DECADE),
        (*arrivals, "t", "end", "low", "high", "per_s"),
        height=220,
        legend=NO_LEGEND,
    )
    yield Chart(
        "cold",
        "cold",
        "Cold starts, one by one",
        "A dot is a cold start, the bar the middle half, the tick the median. Dots in separate heaps are different "
        "things (an image pulled, a probe's period), and a median between them describes neither.",
        "cold",
        draw.cold(),
        queries.cold(compared),
        (*arrivals, "what", "ms", "low", "high"),
        height=0,
        legend=NO_LEGEND,
    )
    yield Chart(
        "phases",
        "cold",
        "What proven cold starts are made of",
        "Each bar is the mean time to the first byte, cut where the platform's own points lie. The widest part is what "
        "to work on: before the instance is created it is the autoscaler, up to containers started the node and the "
        "image, up to ready the function and its probes, after that the proxies and the answer itself.",
        "phases",
        draw.phases(phases),
        queries.phases(compared),
        (*arrivals, "phase", "ms", "p50", "p90", "starts", "error"),
        height=0,
        wide=True,
        legend=NO_LEGEND,
    )
    yield Chart(
        "waterfall",
        "cold",
        "One cold start, step by step",
        "The one in the middle of each language's proven cold starts. A step begins where the one before it ended; "
        "steps that are as short as the error (under the pointer) may lie anywhere within it.",
        "waterfall",
        draw.waterfall(phases),
        queries.phases(compared),
        (*arrivals, "phase", "start", "begin", "end", "ms", "error"),
        height=180,
        legend=NO_LEGEND,
    )
    yield Chart(
        "outcomes",
        "failures",
        "How the measured arrivals ended",
        "Anything but the colour of 2xx is a loss. Refused connections and 503s are a full system, timeouts a stuck "
        "one, dropped arrivals the generator's own limit.",
        "outcomes",
        draw.outcomes(),
        queries.outcomes(compared),
        (*arrivals, "outcome", "arrivals", "share"),
        height=0,
        legend=OUTCOME,
    )
    yield Chart(
        "delays",
        "eventing",
        "Delay of delivery",
        "From the request to the first receipt, a curve for each trigger. One that ends below 100 % lost the rest; a "
        "long foot is a queue.",
        "delivery",
        draw.delays(),
        queries.delays(every),
        (*who, "trigger", "share", "ms"),
        half=True,
    )
    yield Chart(
        "delivery_rates",
        "eventing",
        "Sent and received over time",
        "Each trigger's receipts should lie on what was sent (without named triggers: on its multiple); what goes on "
        "after the last event is a backlog.",
        "delivery_rates",
        draw.delivery_rates(),
        queries.delivery_rates(every),
        (*who, "trigger", "what", "t", "per_s"),
        half=True,
        legend=NO_LEGEND,
    )
    yield Chart(
        "scaling",
        "machines",
        "Autoscaling under the latency",
        "Where desired is above ready, requests wait for pods; pending pods wait for a node, running ones for their "
        "first successful probe. Desired that lags behind the load is the autoscaler's window.",
        "scaling",
        draw.machines(),
        queries.scaling(every),
        (*who, "metric", "name", "t", "value"),
        height=110,
        wide=True,
        rows="metric",
        legend=NAMES,
    )
    yield Chart(
        "machines",
        "machines",
        "Nodes and pods under the latency",
        "All on one time axis: does latency rise when replicas are few, or when a node's CPU is at its limit? Replicas "
        "that lag behind the load are the autoscaler's.",
        "machines",
        draw.machines(),
        queries.machines(every, answers.usage_columns),
        (*who, "metric", "name", "t", "value"),
        height=110,
        wide=True,
        rows="metric",
        legend=NAMES,
    )
