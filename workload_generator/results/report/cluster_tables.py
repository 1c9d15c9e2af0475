"""The tables of a report about what a run met around it: deliveries of events, nodes and pods, autoscaling."""

from __future__ import annotations

import numpy as np

from workload_generator.results.report.answers import Answers
from workload_generator.results.report.row_heads import RUN, of_run
from workload_generator.results.report.table import COUNT, MS, NUMBER, Column, Table

_ACCOUNT = (
    "copies", "sent", "acknowledged", "once", "lost", "lost_deliveries", "duplicated", "extra_deliveries", "reordered",
    "unaccounted", "delay_p50", "delay_p90", "delay_p99", "delay_max", "delay_error", "drain",
)  # fmt: skip


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
            RUN[0],
            *(column._replace(brief=False) for column in RUN[1:-1]),  # a run's triggers fill a line each as it is
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
            *(Column(name, MS, brief=name != "p90") for name in ("p50", "p90", "p99", "max")),
            Column("±", MS, brief=False),
            Column("drain", MS, brief=False),
        ),
    )
    for each in answers.deliveries:
        values = (each.account[name] for name in _ACCOUNT)
        table.add(*of_run(each.run)[:-1], each.trigger or None, *values, beyond="lost")
    return table


def machines_table(answers: Answers) -> Table:
    """CPU, memory and replicas while each run went on."""
    table = Table(
        "machines",
        "Nodes and pods during the runs",
        "From half a minute before a run to half a minute after it.",
        (*RUN, Column("measured"), Column("of"), Column("mean", NUMBER), Column("max", NUMBER)),
        on_terminal=False,
    )
    for each in answers.data:
        for line in answers.machines.get(each.run.id, ()):
            table.add(*of_run(each.run), line.metric, line.name, float(line.value.mean()), float(line.value.max()))
    return table


def scaling_table(answers: Answers) -> Table:
    """What was wanted and there of each service while each run went on."""
    table = Table(
        "scaling",
        "Autoscaling during the runs",
        "From half a minute before a run to half a minute after it; means over time. Desired and actual are Knative's, "
        "the others count pods, running ones that are not ready yet.",
        (*RUN, Column("of"), Column("what"), *(Column(name, NUMBER) for name in ("min", "mean", "max", "at first"))),
        on_terminal=False,
    )
    for each in answers.data:
        for line in answers.scaling.get(each.run.id, ()):
            held = np.diff(line.at_s)
            mean = float((line.value[:-1] * held).sum() / held.sum()) if held.sum() else float(line.value[0])
            low, high = float(line.value.min()), float(line.value.max())
            service = line.metric.removeprefix("replicas of ")
            table.add(*of_run(each.run), service, line.name, low, mean, high, float(line.value[0]))
    return table


def conditions_table(answers: Answers) -> Table:
    """Conditions of Revisions and PodAutoscalers that changed while each run went on."""
    table = Table(
        "conditions",
        "Conditions that changed during the runs",
        "Of Revisions and PodAutoscalers, by seconds since the measure phase began.",
        (
            *RUN,
            Column("s", NUMBER),
            *(Column(name) for name in ("kind", "name", "condition", "status", "reason")),
        ),
        on_terminal=False,
    )
    for each in answers.data:
        for at_s, change in answers.conditions.get(each.run.id, ()):
            table.add(*of_run(each.run), at_s, *(word or None for word in change))
    return table
