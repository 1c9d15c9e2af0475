"""`kn-bench extract`: logs into the database, with a progress bar, then what was left out and the tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from workload_generator.results.extract import Report, extract
from workload_generator.results.tables import print_tables


def extract_and_show(logs: Path, db: Path, console: Console, hours: float | None = None) -> Report:
    """Extract, and say on `console` what was read, what was not and why, and what the runs show. Raises BenchError."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("extracting")

        def show(done: int, whole: int, name: str) -> None:
            progress.update(task, completed=done, total=whole, description=escape(name))

        report = extract(logs, db, hours, show)
    for skip in report.skipped:
        console.print(f"[yellow]skipped[/] {escape(str(skip))}", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
    console.print(
        f"{report.read:,} of {report.logs:,} logs had something new: {report.rows:,} results into {db}", soft_wrap=True
    )
    if report.receipts:
        console.print(f"{report.receipts:,} receipts of events")
    if report.experiments:
        print_tables(db, console, report.experiments)
    return report
