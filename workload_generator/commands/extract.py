"""`kn-bench extract`: reads logs into the database, with a progress bar, and prints tables of the runs.

rich is loaded when there is something to print. Signals wait meanwhile: an exception of a handler can be lost while
modules load (see `__main__`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
from pathlib import Path

from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.standard_streams import complain, print_lines
from workload_generator.base.subprocesses import signals_held
from workload_generator.commands.flags import add_db
from workload_generator.results.ingest.extract import ExtractionReport, OnProgress, extract


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--logs", type=Path, required=True, metavar="DIR", help="the folder of the logs")
    add_db(command, text="the benchmark database; created if it does not exist")
    command.add_argument(
        "--hours", type=float, metavar="N", help="skip files that are older, by their names; default: none"
    )
    command.add_argument("--strict", action="store_true", help="exit code 1 if a file or a line could not be read")


def run(options: argparse.Namespace) -> int:
    """Extract; returns the exit code. Raises BenchError."""
    report = extract_and_show(options.logs, options.db, options.hours)
    is_strict_failure = options.strict and not all(skip.wanted for skip in report.skipped)
    return ExitCode.FAILURE if is_strict_failure or not report.files else ExitCode.OK


def extract_and_show(logs: Path, db: Path, hours: float | None = None) -> ExtractionReport:
    """Extract, and print what was read, what was skipped and why, and tables of the runs. Raises BenchError."""
    with contextlib.ExitStack() as stack:
        report = extract(logs, db, hours, _progress_bar(stack), functools.partial(complain, "kn-bench"))
    counts = f"{report.read:,} of {report.logs:,} logs had new lines: {report.rows:,} new results in {db}"
    if not report.files:
        print_lines([f"no logs and no events.csv in {logs}: nothing to extract"])
        return report
    with signals_held():
        import hdrh.histogram  # noqa: F401 - else the tables load it, when signals no longer wait
        from rich.console import Console

        from workload_generator.base.terminal import escape
        from workload_generator.results.extract_summary import print_tables
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(escape(counts))
    if report.receipts:
        console.print(f"{report.receipts:,} receipts of events")
    if report.experiments:
        print_tables(db, Console(highlight=False), report.experiments)
    for skip in report.skipped:
        console.print(f"[yellow]skipped[/] {escape(str(skip))}")
    for warning in report.warnings:
        console.print(f"[yellow]warning[/] {escape(warning)}")
    return report


def _progress_bar(stack: contextlib.ExitStack) -> OnProgress:
    """Draws a bar on standard error, from the first file on until the end of `stack`."""
    drawn = functools.cache(lambda: _drawn(stack))
    return lambda *values: drawn()(*values)


def _drawn(stack: contextlib.ExitStack) -> OnProgress:
    with signals_held():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        from workload_generator.base.terminal import escape
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = progress.add_task("extracting")
    return lambda done, whole, name: progress.update(task, completed=done, total=whole, description=escape(name))
