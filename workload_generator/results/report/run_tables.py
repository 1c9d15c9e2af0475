"""The sections "Runs", "Failures" and "Tables": tables with rows of single runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workload_generator.results.database import Store
from workload_generator.results.report.intervals import Values, quantiles
from workload_generator.results.report.request_rows import CONNECTIONS_SQL, batches
from workload_generator.results.report.runs import RUN_COLUMNS, RecordedRun, RunThresholds
from workload_generator.results.report.samples import TABLE_SHARES, RunData
from workload_generator.results.report.table import COUNT, MS, NUMBER, SHARE, TEXT, Table, Value

_STEPS = ("DNS", "connect", "TLS")


@dataclass(frozen=True, slots=True)
class Connections:
    """The new connections of one run and language: the times above 0 of each step in ms, ranked."""

    run: RecordedRun
    language: str
    steps: dict[str, Values]


def read_connections(store: Store, run: RecordedRun) -> list[Connections]:
    """The new connections of a run by language."""
    times: dict[str, dict[str, list[float]]] = {}
    for rows in batches(store, CONNECTIONS_SQL, {"id": run.id}):
        for target, *values in rows:
            steps = times.setdefault(run.language_of(target), {name: [] for name in _STEPS})
            for name, value in zip(_STEPS, values, strict=True):
                if value:
                    steps[name].append(value)
    return [
        Connections(run, language, {name: np.sort(np.array(values)) for name, values in steps.items()})
        for language, steps in sorted(times.items())
    ]


def runs_table(data: Iterable[RunData]) -> Table:
    """State, counts and rates of each run."""
    rows = []
    for each in data:
        run = each.run
        planned, achieved = each.rates()
        counts = [run.row[name] for name in ("planned", "sent", "ok", "failed", "dropped", "missing")]
        share = achieved / planned if planned and achieved is not None else None
        words = (run.path, run.started, run.row["platform"], run.row["version"], "; ".join(run.reasons))
        rows.append((*run.cells(), run.state, *counts, planned, achieved, share, *words))
    return Table.named(
        "runs",
        (
            *(RUN_COLUMNS + TEXT("state") + COUNT("planned") + COUNT("sent", brief=False)),
            *(COUNT("ok", "failed", "dropped") + COUNT("missing", brief=False)),
            *(NUMBER("planned rps", "achieved rps", brief=False) + SHARE("achieved")),
            *TEXT("path", "started", "platform", "version", "reasons", brief=False),
        ),
        rows,
    )


def thresholds_table(thresholds: Iterable[RunThresholds]) -> Table:
    """The thresholds of each run's experiment."""
    rows: list[tuple[Value, ...]] = []
    for each in thresholds:
        if each.judged is None:
            rows += [(*each.run.cells(), text, "unknown", "the run is not complete") for text in each.texts]
        for one in each.judged or ():
            rows.append((*each.run.cells(), one.threshold.text, "passed" if one.passed else "failed", one.value_text))
    return Table.named("thresholds", RUN_COLUMNS + TEXT("threshold", "passed", "measured"), rows)


def outcomes_table(data: Iterable[RunData]) -> Table:
    """How the arrivals of each run ended."""
    rows = [
        (*each.run.cells(language), each.run.state, outcome, number, number / counter.total())
        for each in data
        for language, counter in each.outcomes.items()
        for outcome, number in counter.most_common()
    ]
    return Table.named(
        "outcomes",
        RUN_COLUMNS + TEXT("state", brief=False) + TEXT("ended as") + COUNT("arrivals") + SHARE("share"),
        rows,
        on_terminal=any(not str(row[-3]).startswith("2") for row in rows),
    )


def readings_table(data: Iterable[RunData], which: str) -> Table:
    """Both readings of each run; `which` is `ttfb` or `corrected`."""
    table = Table.named(
        f"{which}_runs",
        (*RUN_COLUMNS, *TEXT("temperature", "state", "reading"), *COUNT("arrivals"), *MS(*TABLE_SHARES, "mean", "std")),
    )
    for each in data:
        for sample in each.samples:
            readings = sample.ttfb if which == "ttfb" else sample.corrected
            if readings is None:
                continue
            head = (*each.run.cells(sample.language), sample.temperature, each.run.state)
            moments = (readings.mean, readings.std)
            for word, count, quantiles_ms in (
                ("all", sample.arrivals, readings.all),
                ("answered", sample.served, readings.answered),
            ):
                table.add(*head, word, count, *quantiles_ms.values(), *moments, beyond=f"> {each.run.timeout}")
    return table


def connections_table(connections: Iterable[Connections]) -> Table:
    """The times of new connections."""
    return Table.named(
        "connections",
        RUN_COLUMNS + TEXT("step") + COUNT("connections") + MS("p50", "p90", "p99", "max"),
        [
            (*each.run.cells(each.language), step, len(ms), *quantiles(ms, 0, (0.5, 0.9, 0.99, 1.0)).tolist())
            for each in connections
            for step, ms in each.steps.items()
            if len(ms)
        ],
    )


def seconds_table(data: Iterable[RunData]) -> Table:
    """Throughput by second."""
    return Table.named(
        "throughput_by_second",
        RUN_COLUMNS + COUNT("second", "ok", "failed", "dropped", "cold"),
        [
            (*each.run.cells(language), second, *counts[second].tolist())
            for each in data
            for language, counts in each.seconds.items()
            for second in np.flatnonzero(counts.sum(axis=1)).tolist()
        ],
    )
