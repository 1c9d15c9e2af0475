"""The tables of a report: per language × rate × scenario, warm and cold apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from workload_generator.base.clock import NS_PER_S, parse_duration
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cluster_tables import (
    conditions_table,
    delivery_table,
    machines_table,
    scaling_table,
)
from workload_generator.results.report.cold_tables import bursts_table, cold_table, phases_table, proofs_table
from workload_generator.results.report.intervals import Interval, Values, quantiles
from workload_generator.results.report.row_heads import CELL, RUN, of_condition, of_run
from workload_generator.results.report.samples import TABLE_SHARES, Readings, RunData
from workload_generator.results.report.table import COUNT, MS, NUMBER, SHARE, Column, Table, Value

_ESTIMATED = ("p50", "p99", "p99.9")


def make_tables(answers: Answers) -> list[Table]:
    """All tables that have something in them."""
    tables = [
        runs_table(answers),
        thresholds_table(answers),
        cells_table(answers),
        rankings_table(answers),
        knees_table(answers),
        cold_table(answers),
        proofs_table(answers),
        phases_table(answers),
        bursts_table(answers),
        outcomes_table(answers),
        readings_table(answers, "ttfb", "TTFB of each run"),
        readings_table(answers, "corrected", "Corrected TTFB of each run"),
        connections_table(answers),
        shapes_table(answers),
        delivery_table(answers),
        scaling_table(answers),
        conditions_table(answers),
        machines_table(answers),
        seconds_table(answers),
    ]
    return [table for table in tables if table.rows]


def runs_table(answers: Answers) -> Table:
    """What was run, what became of it, and what it is worth."""
    table = Table(
        "runs",
        "Runs",
        "Achieved is what was sent against what was planned, by the planned time or the last start if later.",
        (
            *RUN,
            Column("state"),
            Column("planned", COUNT),
            Column("sent", COUNT, brief=False),
            Column("ok", COUNT),
            Column("failed", COUNT),
            Column("dropped", COUNT),
            Column("missing", COUNT, brief=False),
            Column("planned rps", NUMBER, brief=False),
            Column("achieved rps", NUMBER, brief=False),
            Column("achieved", SHARE),
            Column("started", brief=False),
            Column("platform", brief=False),
            Column("version", brief=False),
            Column("reasons", brief=False),
        ),
    )
    for each in answers.data:
        run = each.run
        planned, achieved = rates(each)
        counts = [run.row[name] for name in ("planned", "sent", "ok", "failed", "dropped", "missing")]
        table.add(
            *of_run(run),
            run.state,
            *counts,
            planned,
            achieved,
            achieved / planned if planned and achieved is not None else None,
            run.started,
            run.row["platform"],
            run.row["version"],
            "; ".join(run.reasons),
        )
    return table


def rates(data: RunData) -> tuple[float | None, float | None]:
    """Planned and achieved rate of the measure phase; None is unknown, or no plan (the closed loop)."""
    row = data.run.row
    try:
        planned_s = parse_duration(row["duration"] or "") / NS_PER_S
    except ValueError:
        planned_s = 0.0
    length_s = max(planned_s, data.length_s)
    achieved = row["sent"] / length_s if row["sent"] is not None and length_s else None
    if not planned_s or row["planned"] is None or data.run.mode == "closed":
        return None, achieved
    return row["planned"] / planned_s, achieved


def thresholds_table(answers: Answers) -> Table:
    """What experiments demand of their runs."""
    table = Table(
        "thresholds",
        "Thresholds",
        "Of each run's experiment, judged by the counts and histograms of its log.",
        (*RUN, Column("threshold"), Column("passed"), Column("measured")),
    )
    for each in answers.demands:
        if each.judged is None:
            for text in each.texts:
                table.add(*of_run(each.run), text, "unknown", "the run is not complete")
        for judged in each.judged or ():
            passed = "passed" if judged.passed else "failed"
            table.add(*of_run(each.run), judged.threshold.text, passed, judged.written)
    return table


def cells_table(answers: Answers) -> Table:
    """The figures that are compared, with their intervals."""
    table = Table(
        "ttfb",
        "TTFB by language, rate and scenario",
        "The median over runs; failed and dropped arrivals rank slower than any limit. The interval is over runs, with "
        "the confidence beside it, or of one run alone, which says nothing about another run.",
        (
            *CELL,
            Column("temperature"),
            Column("runs", COUNT),
            Column("arrivals", COUNT, brief=False),
            Column("lost", SHARE),
            *(
                column
                for name in _ESTIMATED
                for column in (
                    Column(name, MS, brief=name != "p99.9"),
                    Column(f"{name} low", MS),
                    Column(f"{name} high", MS),
                    Column(f"{name} answered", MS, brief=False),
                )
            ),
            Column("confidence", SHARE, brief=False),
            Column("interval of", brief=False),
        ),
    )
    for cell in answers.cells:
        values: list[Value] = []
        interval: Interval | None = None
        of = ""
        for name in _ESTIMATED:
            estimate, answered = cell.estimate(name), cell.estimate(name, answered=True)
            interval, of = (estimate.interval, estimate.of) if estimate else (None, "")
            ends = (interval.low, interval.high) if interval else (None, None)
            values += [estimate.value if estimate else None, *ends, answered.value if answered else None]
        table.add(
            *of_condition(cell.condition),
            cell.language,
            cell.temperature,
            len(cell.samples),
            cell.arrivals,
            1 - cell.served / cell.arrivals,
            *values,
            interval.confidence if interval else None,
            of if interval else "",
            timeout=cell.samples[0].run.timeout,
        )
    return table


def rankings_table(answers: Answers) -> Table:
    """Every pair of languages under the same condition."""
    table = Table(
        "pairs",
        "Languages against each other",
        "The ratio of B to A over all pairs of runs (Hodges–Lehmann) with its interval; effect is the share of pairs "
        "of runs in which B is slower (0.5: none); p is the exact Mann–Whitney test's over runs. A difference is shown "
        "where a stepwise test allows it (Campbell and Skillings): the chance that any pair of a condition is called "
        "different and is not is 5 %.",
        (
            Column("scenario"),
            Column("rate"),
            Column("variant", brief=False),
            Column("temperature"),
            Column("figure"),
            Column("A"),
            Column("B"),
            Column("B is"),
            Column("ratio", NUMBER),
            Column("ratio low", NUMBER),
            Column("ratio high", NUMBER),
            Column("confidence", SHARE, brief=False),
            Column("effect", NUMBER, brief=False),
            Column("p", NUMBER, brief=False),
            Column("runs of A", COUNT, brief=False),
            Column("runs of B", COUNT, brief=False),
        ),
        on_terminal=False,
    )
    for ranking in answers.rankings:
        for pair in ranking.pairs:
            found = pair.difference
            table.add(
                *of_condition(ranking.condition),
                ranking.temperature,
                ranking.quantile,
                pair.a.language,
                pair.b.language,
                pair.verdict,
                found.estimate,
                found.interval.low,
                found.interval.high,
                found.interval.confidence,
                found.superiority,
                found.p,
                *found.runs,
                timeout="any",
            )
    return table


def knees_table(answers: Answers) -> Table:
    """Where load curves leave their plateau."""
    table = Table(
        "knees",
        "Knee of the load curve",
        "The rate at which p99 leaves its plateau for good (twice its lowest), or more than 1 % is lost: it lies "
        "between the two rates given.",
        (
            Column("scenario"),
            Column("variant", brief=False),
            Column("language"),
            Column("temperature", brief=False),
            Column("plateau p99", MS),
            Column("on it up to (rps)", NUMBER),
            Column("off it from (rps)", NUMBER),
            Column("what left"),
        ),
    )
    for knee in answers.knees:
        table.add(
            knee.condition.scenario,
            knee.condition.variant,
            knee.language,
            knee.temperature,
            knee.plateau_ms,
            knee.on,
            knee.off,
            knee.reason if knee.off is not None else "nothing",
        )
    return table


def outcomes_table(answers: Answers) -> Table:
    """How the arrivals of each run ended."""
    endings = {str(ended) for each in answers.data for counter in each.outcomes.values() for ended in counter}
    table = Table(
        "outcomes",
        "How the measured arrivals ended",
        "A status, or the kind of error when the response did not come whole.",
        (*RUN, Column("state", brief=False), Column("ended as"), Column("arrivals", COUNT), Column("share", SHARE)),
        on_terminal=not all(ended.startswith("2") for ended in endings),
    )
    for each in answers.data:
        for language, counter in each.outcomes.items():
            whole = sum(counter.values())
            for outcome, number in counter.most_common():
                ended = NOTHING_SAID if outcome is None else str(outcome)
                table.add(*of_run(each.run, language), each.run.state, ended, number, number / whole)
    return table


NOTHING_SAID = "unknown"


def readings_table(answers: Answers, which: str, title: str) -> Table:
    """Quantiles of each run, both readings."""
    table = Table(
        f"{which}_runs",
        title,
        "Of all arrivals (failed and dropped ones rank slower than any limit), and of the answered ones alone. Mean "
        "and standard deviation are of the answered ones." + (" TTFB + lag." if which == "corrected" else ""),
        (
            *RUN,
            Column("temperature"),
            Column("state"),
            Column("reading"),
            Column("arrivals", COUNT),
            *(Column(name, MS) for name in TABLE_SHARES),
            Column("mean", MS),
            Column("std", MS),
        ),
        on_terminal=False,
    )
    for each in answers.data:
        for sample in each.samples:
            readings: Readings | None = sample.ttfb if which == "ttfb" else sample.corrected
            if readings is None:
                continue
            for reading, found, count in (
                ("all", readings.all, sample.arrivals),
                ("answered", readings.answered, sample.served),
            ):
                table.add(
                    *of_run(each.run, sample.language),
                    sample.temperature,
                    each.run.state,
                    reading,
                    count,
                    *found.values(),
                    readings.mean,
                    readings.std,
                    timeout=each.run.timeout,
                )
    return table


def connections_table(answers: Answers) -> Table:
    """What new connections cost."""
    table = Table(
        "connections",
        "New connections: DNS, connect, TLS",
        "Only requests that paid for them: on a reused connection all three are 0.",
        (
            *RUN,
            Column("step"),
            Column("connections", COUNT),
            *(Column(name, MS) for name in ("p50", "p90", "p99", "max")),
        ),
        on_terminal=False,
    )
    for each in answers.connections:
        for step, values in (("DNS", each.dns), ("connect", each.connect), ("TLS", each.tls)):
            if len(values):
                table.add(*of_run(each.run, each.language), step, len(values), *_some(values, (0.5, 0.9, 0.99, 1.0)))
    return table


def shapes_table(answers: Answers) -> Table:
    """What distributions hide."""
    table = Table(
        "shapes",
        "Modes and steps",
        "Silverman's test of a single mode, and a test of steps of a fixed length; of the answered requests.",
        (*CELL, Column("temperature"), Column("values", COUNT, brief=False), Column("found")),
    )
    for found in answers.shapes:
        cell = found.cell
        table.add(
            *of_condition(cell.condition), cell.language, cell.temperature, found.shape.values, found.shape.sentence()
        )
    return table


def seconds_table(answers: Answers) -> Table:
    """Throughput by second."""
    table = Table(
        "throughput_by_second",
        "Throughput by second",
        "The measured arrivals by the second of their start, from the start of the measure phase.",
        (*RUN, *(Column(name, COUNT) for name in ("second", "ok", "failed", "dropped", "cold"))),
        on_terminal=False,
    )
    for each in answers.data:
        for language, columns in each.seconds.items():
            rows = np.flatnonzero(columns.sum(axis=1)).tolist()
            for second in rows:
                table.add(*of_run(each.run, language), second, *columns[second].tolist())
    return table


def _some(values: Values, shares: Iterable[float]) -> list[float | None]:
    found = quantiles(values, 0, tuple(shares)).tolist()
    return [None if math.isnan(value) else value for value in found]
