"""`kn-bench extract`: logs into the database, with a progress bar, then what was left out and the tables.

What draws is loaded when there is something to draw. Signals wait while it loads: an exception that a handler raises
there can be lost (see `__main__`).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workload_generator.base.standard_streams import print_lines
from workload_generator.base.subprocesses import signals_held
from workload_generator.results.ingest.extract import OnProgress, Report, extract

if TYPE_CHECKING:
    from rich.console import Console


def add_extract(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--logs", type=Path, required=True, metavar="DIR", help="the folder of the logs")
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the database; made when absent")
    command.add_argument("--hours", type=float, metavar="N", help="only files at most this old, by name; default: all")
    command.set_defaults(command=_extract)


def _extract(options: argparse.Namespace) -> int:
    report = extract_and_show(options.logs, options.db, hours=options.hours)
    return 0 if report.logs or report.receipts else 1


def extract_and_show(logs: Path, db: Path, console: Console | None = None, hours: float | None = None) -> Report:
    """Extract, and say what was read, what was not and why, and what the runs show. Raises BenchError.

    It is said on `console`, or on standard output.
    """
    with _progress_bar() as show:
        report = extract(logs, db, hours, show)
    counts = f"{report.read:,} of {report.logs:,} logs had something new: {report.rows:,} results into {db}"
    if console is None and not (report.logs or report.receipts or report.skipped or report.warnings):
        print_lines([f"no logs and no events.csv in {logs}: nothing to extract"])
        return report
    with signals_held():
        import hdrh.histogram  # noqa: F401 - the tables load it with the first histogram
        from rich.console import Console
        from rich.markup import escape

        from workload_generator.results.report.extracted import print_tables
    console = console or Console(highlight=False)
    for skip in report.skipped:
        console.print(f"[yellow]skipped[/] {escape(str(skip))}", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)
    console.print(escape(counts), soft_wrap=True)
    if report.receipts:
        console.print(f"{report.receipts:,} receipts of events")
    if report.experiments:
        print_tables(db, console, report.experiments)
    return report


@contextlib.contextmanager
def _progress_bar() -> Iterator[OnProgress]:
    """A bar on standard error, from the first file on."""
    with contextlib.ExitStack() as stack:
        update: OnProgress | None = None

        def show(done: int, whole: int, name: str) -> None:
            nonlocal update
            update = update or stack.enter_context(_drawn())
            update(done, whole, name)

        yield show


@contextlib.contextmanager
def _drawn() -> Iterator[OnProgress]:
    with signals_held():
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("extracting")
        yield lambda done, whole, name: progress.update(task, completed=done, total=whole, description=escape(name))
