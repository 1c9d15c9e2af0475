"""The tables of a report: per language × rate × scenario, warm and cold apart."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from workload_generator.clock import NS_PER_S, parse_duration
from workload_generator.results.answers import Answers
from workload_generator.results.cells import Cell
from workload_generator.results.figures import COUNT, MS, NUMBER, SHARE, Column, Table, Value
from workload_generator.results.intervals import Interval, Values, quantiles
from workload_generator.results.runs import Condition, Run
from workload_generator.results.samples import COLD_WORD, TABLE_SHARES, UNKNOWN_WORD, Readings, RunData

_RUN = (Column("run", COUNT), Column("scenario"), Column("rate"), Column("variant", brief=False), Column("language"))
_CELL = (Column("scenario"), Column("rate"), Column("variant", brief=False), Column("language"))
_ESTIMATED = ("p50", "p99", "p99.9")
_ACCOUNT = (
    "copies", "sent", "acknowledged", "once", "lost", "lost_deliveries", "duplicated", "extra_deliveries", "reordered",
    "unaccounted", "delay_p50", "delay_p90", "delay_p99", "delay_max", "delay_error", "drain",
)  # fmt: skip


def make_tables(answers: Answers) -> list[Table]:
    """All tables that have something in them."""
    tables = [
        runs_table(answers),
        thresholds_table(answers),
        cells_table(answers),
        rankings_table(answers),
        knees_table(answers),
        cold_table(answers),
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
            *_RUN,
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
            *_of_run(run),
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
        (*_RUN, Column("threshold"), Column("passed"), Column("measured")),
    )
    for each in answers.demands:
        if each.judged is None:
            for text in each.texts:
                table.add(*_of_run(each.run), text, "unknown", "the run is not complete")
        for judged in each.judged or ():
            passed = "passed" if judged.passed else "failed"
            table.add(*_of_run(each.run), judged.threshold.text, passed, judged.written)
    return table


def cells_table(answers: Answers) -> Table:
    """The figures that are compared, with their intervals."""
    table = Table(
        "ttfb",
        "TTFB by language, rate and scenario",
        "The median over runs; failed and dropped arrivals rank slower than any limit. The interval is over runs, with "
        "the confidence beside it, or of one run alone, which says nothing about another run.",
        (
            *_CELL,
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


def cold_table(answers: Answers) -> Table:
    """Cold starts by language."""
    names = ("min", "p25", "p50", "p75", "p90", "max")
    table = Table(
        "cold_starts",
        "Cold starts by language",
        "Answers whose function said that it was its instance's first request. Quantiles are medians over runs. Told "
        "is the share of answers that said whether they were cold; the others are unknown, and never count as warm.",
        (
            *_CELL,
            Column("runs", COUNT),
            Column("cold", COUNT),
            Column("lost", COUNT),
            *(Column(name, MS) for name in names),
            Column("p50 low", MS),
            Column("p50 high", MS),
            Column("confidence", SHARE, brief=False),
            Column("told", SHARE, brief=False),
        ),
    )
    for cell in answers.cells:
        if cell.temperature != COLD_WORD:
            continue
        middles = [cell.estimate(name) for name in names[1:-1]]
        interval = middles[1].interval if middles[1] else None
        table.add(
            *of_condition(cell.condition),
            cell.language,
            len(cell.samples),
            cell.served,
            cell.arrivals - cell.served,
            min(cell.values("min"), default=None),
            *(estimate.value if estimate else None for estimate in middles),
            max(cell.values("max"), default=None),
            *((interval.low, interval.high, interval.confidence) if interval else (None, None, None)),
            _told(answers, cell),
            timeout=cell.samples[0].run.timeout,
        )
    return table


def _told(answers: Answers, cell: Cell) -> float | None:
    same = [c for c in answers.cells if (c.condition, c.language) == (cell.condition, cell.language)]
    whole = sum(each.served for each in same)
    unknown = sum(each.served for each in same if each.temperature == UNKNOWN_WORD)
    return (whole - unknown) / whole if whole else None


def outcomes_table(answers: Answers) -> Table:
    """How the arrivals of each run ended."""
    endings = {str(ended) for each in answers.data for counter in each.outcomes.values() for ended in counter}
    table = Table(
        "outcomes",
        "How the measured arrivals ended",
        "A status, or the kind of error when the response did not come whole.",
        (*_RUN, Column("state", brief=False), Column("ended as"), Column("arrivals", COUNT), Column("share", SHARE)),
        on_terminal=not all(ended.startswith("2") for ended in endings),
    )
    for each in answers.data:
        for language, counter in each.outcomes.items():
            whole = sum(counter.values())
            for outcome, number in counter.most_common():
                ended = NOTHING_SAID if outcome is None else str(outcome)
                table.add(*_of_run(each.run, language), each.run.state, ended, number, number / whole)
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
            *_RUN,
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
                    *_of_run(each.run, sample.language),
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
            *_RUN,
            Column("step"),
            Column("connections", COUNT),
            *(Column(name, MS) for name in ("p50", "p90", "p99", "max")),
        ),
        on_terminal=False,
    )
    for each in answers.connections:
        for step, values in (("DNS", each.dns), ("connect", each.connect), ("TLS", each.tls)):
            if len(values):
                table.add(*_of_run(each.run, each.language), step, len(values), *_some(values, (0.5, 0.9, 0.99, 1.0)))
    return table


def shapes_table(answers: Answers) -> Table:
    """What distributions hide."""
    table = Table(
        "shapes",
        "Modes and steps",
        "Silverman's test of a single mode, and a test of steps of a fixed length; of the answered requests.",
        (*_CELL, Column("temperature"), Column("values", COUNT, brief=False), Column("found")),
    )
    for found in answers.shapes:
        cell = found.cell
        table.add(
            *of_condition(cell.condition), cell.language, cell.temperature, found.shape.values, found.shape.sentence()
        )
    return table


def delivery_table(answers: Answers) -> Table:
    """Events: what became of them, by trigger."""
    table = Table(
        "delivery",
        "Event delivery",
        "The account of each run by trigger, as the view event_accounts has it. Lost events were acknowledged by the "
        "sink and not delivered; so many as are unaccounted may be the receivers' losses and not the broker's. The "
        "delay is from the start of the request to the first receipt, lost events slower than any limit, right to ± "
        "what the clocks allow (—: they were not measured); drain is from the last send to the last receipt.",
        (
            *_RUN[:-1],
            Column("trigger"),
            Column("expected", COUNT, brief=False),
            Column("sent", COUNT, brief=False),
            Column("acknowledged", COUNT),
            Column("once", COUNT, brief=False),
            Column("lost", COUNT),
            Column("lost deliveries", COUNT, brief=False),
            Column("duplicated", COUNT),
            Column("extra deliveries", COUNT, brief=False),
            Column("reordered", COUNT),
            Column("unaccounted", COUNT),
            *(Column(name, MS) for name in ("p50", "p90", "p99", "max")),
            Column("±", MS, brief=False),
            Column("drain", MS, brief=False),
        ),
    )
    for each in answers.deliveries:
        values = (each.account[name] for name in _ACCOUNT)
        table.add(*_of_run(each.run)[:-1], each.trigger or None, *values, beyond="lost")
    return table


def machines_table(answers: Answers) -> Table:
    """CPU, memory and replicas while each run went on."""
    table = Table(
        "machines",
        "Nodes and pods during the runs",
        "From half a minute before a run to half a minute after it.",
        (*_RUN, Column("measured"), Column("of"), Column("mean", NUMBER), Column("max", NUMBER)),
        on_terminal=False,
    )
    for each in answers.data:
        for line in answers.machines.get(each.run.id, ()):
            table.add(*_of_run(each.run), line.metric, line.name, float(line.value.mean()), float(line.value.max()))
    return table


def scaling_table(answers: Answers) -> Table:
    """What was wanted and there of each service while each run went on."""
    table = Table(
        "scaling",
        "Autoscaling during the runs",
        "From half a minute before a run to half a minute after it; means over time. Desired and actual are Knative's, "
        "the others count pods, running ones that are not ready yet.",
        (*_RUN, Column("of"), Column("what"), *(Column(name, NUMBER) for name in ("min", "mean", "max", "at first"))),
        on_terminal=False,
    )
    for each in answers.data:
        for line in answers.scaling.get(each.run.id, ()):
            held = np.diff(line.at_s)
            mean = float((line.value[:-1] * held).sum() / held.sum()) if held.sum() else float(line.value[0])
            low, high = float(line.value.min()), float(line.value.max())
            service = line.metric.removeprefix("replicas of ")
            table.add(*_of_run(each.run), service, line.name, low, mean, high, float(line.value[0]))
    return table


def conditions_table(answers: Answers) -> Table:
    """Conditions of Revisions and PodAutoscalers that changed while each run went on."""
    table = Table(
        "conditions",
        "Conditions that changed during the runs",
        "Of Revisions and PodAutoscalers, by seconds since the measure phase began.",
        (
            *_RUN,
            Column("s", NUMBER),
            *(Column(name) for name in ("kind", "name", "condition", "status", "reason")),
        ),
        on_terminal=False,
    )
    for each in answers.data:
        for at_s, change in answers.conditions.get(each.run.id, ()):
            table.add(*_of_run(each.run), at_s, *(word or None for word in change))
    return table


def seconds_table(answers: Answers) -> Table:
    """Throughput by second."""
    table = Table(
        "throughput_by_second",
        "Throughput by second",
        "The measured arrivals by the second of their start, from the start of the measure phase.",
        (*_RUN, *(Column(name, COUNT) for name in ("second", "ok", "failed", "dropped", "cold"))),
        on_terminal=False,
    )
    for each in answers.data:
        for language, columns in each.seconds.items():
            rows = np.flatnonzero(columns.sum(axis=1)).tolist()
            for second in rows:
                table.add(*_of_run(each.run, language), second, *columns[second].tolist())
    return table


def of_condition(condition: Condition) -> tuple[str, str, str]:
    """The columns `scenario`, `rate` and `variant`."""
    return condition.scenario, condition.rate_label, condition.variant


def _of_run(run: Run, language: str | None = None) -> tuple[Value, ...]:
    return run.id, *of_condition(run.condition), language or run.language or "all"


def _some(values: Values, shares: Iterable[float]) -> list[float | None]:
    found = quantiles(values, 0, tuple(shares)).tolist()
    return [None if math.isnan(value) else value for value in found]
