"""`kn-bench report` and `kn-bench compare`: the page and the CSV tables, and what both say on the terminal.

The libraries that this needs come with the extra `results`; without them extraction still works.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.subprocesses import signals_held
from workload_generator.results.report.table import rich_table

WORSE_EXIT = 3

_MOST_ROWS = 40
_MOST_LABELS = 5
_COLOURS = {"good": "green", "warn": "yellow", "bad": "red", "plain": "default"}
_MARKS = {"good": "✓", "warn": "!", "bad": "✗", "plain": "·"}


def add_report(command: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the database")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page (HTML), made anew")
    command.add_argument("--csv", type=Path, metavar="DIR", help="the tables as CSV files too, in this folder")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")
    command.set_defaults(command=_report)


def add_compare(command: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    command.add_argument("databases", type=Path, nargs="+", metavar="FILE", help="A.db and B.db, or one of them")
    command.add_argument(
        "--experiments", type=_ids, nargs=2, metavar="IDS", help="of one database: 1 2, or repeats: 1,2,3,4 5,6,7,8"
    )
    command.add_argument("--force", action="store_true", help="compare also what is not comparable")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")
    command.add_argument("--fail-on", choices=("worse",), help="exit with 3 when anything got worse")
    command.set_defaults(command=_compare)


def _report(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    report_and_show(options.db, options.out, console, csv=options.csv, include_invalid=options.include_invalid)
    return 0


def _compare(options: argparse.Namespace) -> int:
    return compare_and_show(
        options.databases,
        Console(highlight=False),
        experiments=options.experiments,
        force=options.force,
        include_invalid=options.include_invalid,
        fail_on_worse=options.fail_on == "worse",
    )


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of experiments, such as 1 or 1,2,3") from None


def report_and_show(
    db: Path,
    out: Path,
    console: Console,
    *,
    csv: Path | None = None,
    include_invalid: bool = False,
    experiments: Iterable[int] | None = None,
    tables: bool = True,
) -> Path:
    """Write the report of the runs with the ids `experiments`, or of all, to `out`, and say on `console` what it says.

    Returns the page's path. Raises BenchError. `tables` False leaves the tables out of the terminal, not of the page.
    """
    with _extra():
        from workload_generator.results.report.report import write_report
    columns = (TextColumn("reading runs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        found = write_report(
            db,
            out,
            csv=csv,
            include_invalid=include_invalid,
            experiments=experiments,
            progress=lambda done, whole: progress.update(task, completed=done, total=whole),
        )
    if tables:
        for table in found.tables:
            if table.on_terminal:
                console.print(rich_table(table, _MOST_ROWS))
    console.print(f"\n[bold {_COLOURS[found.summary.kind]}]{escape(found.summary.headline)}[/]", soft_wrap=True)
    for finding in found.summary.findings:
        colour = _COLOURS[finding.kind]
        console.print(f"[{colour}]{_MARKS[finding.kind]}[/] {escape(finding.text)}", soft_wrap=True)
    if found.csv:
        console.print(f"{len(found.csv)} tables as CSV in {escape(str(csv))}", soft_wrap=True)
    console.print(f"report: {escape(str(out.resolve()))} ({found.size / 1e6:.1f} MB)", soft_wrap=True)
    return out


def compare_and_show(
    databases: Sequence[Path],
    console: Console,
    *,
    experiments: Sequence[tuple[int, ...]] | None = None,
    force: bool = False,
    include_invalid: bool = False,
    fail_on_worse: bool = False,
) -> int:
    """Compare two databases, or two sets of experiments of one; returns the exit code. Raises BenchError."""
    with _extra():
        from workload_generator.results.compare import Side, compare, tables_of
    if len(databases) != (1 if experiments else 2):
        raise UsageError("compare takes two databases, or one and --experiments IDS IDS")
    if experiments:
        names = [f"experiments {', '.join(map(str, ids))}" for ids in experiments]
        sides = [Side(name, databases[0], ids) for name, ids in zip(names, experiments, strict=True)]
    else:
        sides = [Side(str(db), db) for db in databases]
    found = compare(*sides, force=force, include_invalid=include_invalid)
    console.print(f"A: {escape(sides[0].name)}\nB: {escape(sides[1].name)}", soft_wrap=True)
    for reason in found.against:
        console.print(f"[red]not comparable, forced[/] {escape(reason)}", soft_wrap=True)
    for what, labels in (("only in A", found.only_a), ("only in B", found.only_b), ("left out", found.left_out)):
        for label in labels[:_MOST_LABELS]:
            console.print(f"[yellow]{what}[/] {escape(label)}", soft_wrap=True)
        if len(labels) > _MOST_LABELS:
            console.print(f"[yellow]{what}[/] {len(labels) - _MOST_LABELS} more")
    for table in tables_of(found):
        console.print()
        console.print(rich_table(table))
    counts = {word: sum(change.verdict == word for change in found.changes) for word in ("worse", "better")}
    shown = len(found.changes) - sum(counts.values())
    console.print(f"\n{counts['worse']} worse, {counts['better']} better, {shown} without a difference shown")
    if found.too_few:
        console.print(
            "[yellow]some have too few runs to show any difference: four on each side are the least[/]", soft_wrap=True
        )
    return WORSE_EXIT if fail_on_worse and found.worse else 0


class MissingExtra(BenchError):
    """The libraries of the extra `results` are not installed."""


@contextmanager
def _extra() -> Iterator[None]:
    """Around the import of what needs the extra. Signals wait: what a handler raises there can be lost."""
    try:
        with signals_held():
            yield
    except ImportError as error:
        raise MissingExtra(
            f"this needs the libraries of the extra `results` ({error.name} is missing): "
            "uv sync --extra results, or pip install 'knative-bench[results]'"
        ) from None
