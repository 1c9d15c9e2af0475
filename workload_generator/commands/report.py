"""`kn-bench report`: writes a database's report as an HTML page and CSV files, and prints its tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import escape
from workload_generator.commands.flags import add_db
from workload_generator.commands.results_extra import results_extra
from workload_generator.results.report.table import rich_table

_MOST_ROWS = 40
_STYLES = {"good": ("green", "✓"), "warn": ("yellow", "!"), "bad": ("red", "✗"), "plain": ("default", "·")}


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_db(command)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML page; replaced if it exists")
    command.add_argument("--csv", type=Path, metavar="DIR", help="write the tables as CSV files to this folder too")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")


def run(options: argparse.Namespace) -> int:
    """Write and print the report; returns the exit code. Raises BenchError."""
    report_and_show(options.db, options.out, csv=options.csv, include_invalid=options.include_invalid)
    return ExitCode.OK


def report_and_show(
    db: Path, out: Path, *, csv: Path | None = None, include_invalid: bool = False, tables: bool = True
) -> None:
    """Write the report of all runs to `out`, print its tables if asked for, and its findings. Raises BenchError."""
    with results_extra():
        from workload_generator.results.report.report import write_report
    console = Console(highlight=False, emoji=False)
    columns = (TextColumn("reading runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        report = write_report(
            db,
            out,
            csv=csv,
            include_invalid=include_invalid,
            progress=lambda done, whole: bar.update(task, completed=done, total=whole),
        )
    if tables:
        for table in report.tables:
            if table.on_terminal:
                console.print(rich_table(table, _MOST_ROWS))
    colour, _ = _STYLES[report.summary.kind]
    console.print(f"\n[bold {colour}]{escape(report.summary.headline)}[/]", soft_wrap=True)
    for each in report.summary.conclusions:
        colour, mark = _STYLES[each.kind]
        console.print(f"[{colour}]{mark}[/] {escape(each.text)}", soft_wrap=True)
    if report.csv:
        console.print(f"{len(report.csv)} tables as CSV in {escape(str(csv))}", soft_wrap=True)
    console.print(f"report: {escape(str(out.resolve()))} ({report.size / 1e6:.1f} MB)", soft_wrap=True)
