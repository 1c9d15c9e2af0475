"""`kn-bench report`: a database's answers as a page, as tables on a terminal, and as CSV.

Rules:
- rows are read once and never shipped; the page has what was aggregated, and stays below `MOST_BYTES`
- when it would be larger, the pictures over time get coarser; the figures never do
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workload_generator.base.errors import BenchError
from workload_generator.results.report import page
from workload_generator.results.report.answer_tables import make_tables
from workload_generator.results.report.answers import Answers, Progress, ask
from workload_generator.results.report.charts import make_charts
from workload_generator.results.report.datasets import Detail, make_datasets
from workload_generator.results.report.findings import Summary, summarise
from workload_generator.results.report.table import Table, write_csv

MOST_BYTES = 5 * 1024 * 1024

_DETAILS = (Detail(120, 100), Detail(60, 60), Detail(30, 40, 80), Detail(15, 20, 40), Detail(6, 10, 20))


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, and what it says."""

    page: Path
    size: int
    csv: list[Path]
    summary: Summary
    tables: list[Table]
    answers: Answers


def write_report(
    db: Path,
    out: Path,
    *,
    csv: Path | None = None,
    include_invalid: bool = False,
    experiments: Iterable[int] | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Report:
    """Write the page to `out` and, when asked for, the tables to the folder `csv`. Raises BenchError."""
    if not out.parent.is_dir():
        raise BenchError(f"cannot write the report to {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise BenchError(f"cannot write the report to {out}: it is a folder")
    if out.exists() and db.exists() and out.samefile(db):
        raise BenchError(f"the report would take the place of the database {db}: choose another --out")
    answers = ask(db, include_invalid=include_invalid, experiments=experiments, progress=progress)
    summary, tables = summarise(answers), make_tables(answers)
    library = page.library()
    for detail in _DETAILS:
        datasets = make_datasets(answers, detail)
        charts = make_charts(answers, datasets)
        text = page.render(f"Knative benchmark: {db.stem}", summary, tables, charts, datasets, library)
        if len(text) < MOST_BYTES:
            break
    page.save(out, text)
    files = write_csv(tables, csv) if csv is not None else []
    return Report(out, len(text), files, summary, tables, answers)
