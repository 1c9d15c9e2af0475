"""What rows of several tables begin with: the run, or the cell."""

from __future__ import annotations

from workload_generator.results.report.runs import Condition, Run
from workload_generator.results.report.table import COUNT, Column, Value

RUN = (Column("run", COUNT), Column("scenario"), Column("rate"), Column("variant", brief=False), Column("language"))
CELL = (Column("scenario"), Column("rate"), Column("variant", brief=False), Column("language"))


def of_condition(condition: Condition) -> tuple[str, str, str]:
    """The columns `scenario`, `rate` and `variant`."""
    return condition.scenario, condition.rate_label, condition.variant


def of_run(run: Run, language: str | None = None) -> tuple[Value, ...]:
    """The columns of `RUN`; without a language of its own, the run's, or all."""
    return run.id, *of_condition(run.condition), language or run.language or "all"
