"""The tables of a report about cold starts: how many, whether proven, their phases, and bursts at zero."""

from __future__ import annotations

from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cells import Cell
from workload_generator.results.report.intervals import quantiles
from workload_generator.results.report.row_heads import CELL, RUN, of_condition
from workload_generator.results.report.samples import COLD_WORD, UNKNOWN_WORD
from workload_generator.results.report.specs import phase_word
from workload_generator.results.report.starts import Proofs, phases_of
from workload_generator.results.report.table import COUNT, MS, NUMBER, SHARE, Column, Table


def cold_table(answers: Answers) -> Table:
    """Cold starts by language."""
    names = ("min", "p25", "p50", "p75", "p90", "max")
    table = Table(
        "cold_starts",
        "Cold starts by language",
        "Answers whose function said that it was its instance's first request. Quantiles are medians over runs. Told "
        "is the share of answers that said whether they were cold; the others are unknown, and never count as warm.",
        (
            *CELL,
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


def proofs_table(answers: Answers) -> Table:
    """What is proven of cold starts."""
    table = Table(
        "cold_proofs",
        "How many cold starts are proven",
        "Proven: no instance was there just before the send, and the one that answered was made after it. Refuted: one "
        "of the two is seen not to hold. Skipped: the target never got to zero, and nothing was sent.",
        (
            *CELL,
            *(Column(name, COUNT) for name in ("requests", "proven", "refuted", "unknown", "skipped")),
            Column("share", SHARE),
        ),
    )
    for (condition, language), found in answers.starts_of().items():
        whole = sum((each.proofs for each in found), Proofs())
        table.add(
            *of_condition(condition), language, whole.requests, whole.proven, whole.refuted, whole.unknown,
            whole.skipped, whole.share,
        )  # fmt: skip
    return table


def phases_table(answers: Answers) -> Table:
    """The phases of proven cold starts."""
    names = ("p25", "p50", "p75", "p90", "max")
    table = Table(
        "cold_phases",
        "The phases of proven cold starts",
        "A phase ends at the point of its name. Quantiles are over all proven starts of a language; share is the "
        "phase's part of the mean time to the first byte, error how far a point may be off, 1 s grid how many are "
        "known to whole seconds only.",
        (
            *CELL,
            Column("phase"),
            Column("starts", COUNT),
            Column("mean", MS),
            *(Column(name, MS) for name in names),
            Column("share", SHARE),
            Column("error", MS),
            Column("1 s grid", COUNT, brief=False),
        ),
    )
    for (condition, language), found in answers.starts_of().items():
        starts = [start for each in found for start in each.starts]
        phases = phases_of(starts)
        whole = sum(phase.mean for phase in phases)
        for phase in phases:
            q25, q50, q75, q90 = quantiles(phase.ms, 0, (0.25, 0.5, 0.75, 0.9)).tolist()
            table.add(
                *of_condition(condition), language, phase_word(phase.name), len(phase.ms), phase.mean, q25, q50, q75,
                q90, float(phase.ms[-1]), phase.mean / whole if whole else None, phase.error_ms, phase.on_grid,
            )  # fmt: skip
    return table


def bursts_table(answers: Answers) -> Table:
    """What bursts at zero waited for and cost."""
    means = ("started", "needed", "overshoot", "instance_s", "wasted_s")
    table = Table(
        "cold_bursts",
        "Bursts at zero",
        "Waiting are the requests whose instance was ready only after the send, wait is for how long. Started, needed "
        "(answered at least one), overshoot (did not), their seconds and those of the overshoot are means of a burst.",
        (
            *RUN,
            *(Column(name, COUNT) for name in ("bursts", "requests", "ok", "waiting")),
            *(Column(f"wait {name}", MS) for name in ("p50", "p90", "max")),
            *(Column(name.replace("_", " "), NUMBER) for name in means),
        ),
    )
    for each in answers.bursts:
        condition = each.run.condition
        waits = quantiles(each.waits, 0, (0.5, 0.9, 1.0)).tolist() if len(each.waits) else (None, None, None)
        sums = [sum(cost[name] or 0 for cost in each.costs) for name in ("requests", "ok", "waiting")]
        table.add(
            each.run.id, *of_condition(condition), each.language, len(each.costs), *sums, *waits,
            *(_mean([cost[name] for cost in each.costs]) for name in means),
        )  # fmt: skip
    return table


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) and known else None


def _told(answers: Answers, cell: Cell) -> float | None:
    same = [c for c in answers.cells if (c.condition, c.language) == (cell.condition, cell.language)]
    whole = sum(each.served for each in same)
    unknown = sum(each.served for each in same if each.temperature == UNKNOWN_WORD)
    return (whole - unknown) / whole if whole else None
