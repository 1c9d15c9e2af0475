"""`kn-bench compare`: two databases, or two sets of experiments of one, against each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.terminal import escape
from workload_generator.commands.results_extra import results_extra

_MOST_LABELS = 5


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("databases", type=Path, nargs="+", metavar="FILE", help="A.db and B.db, or one of them")
    text = "experiments of one database: 1 2, or repeats: 1,2,3,4 5,6,7,8"
    command.add_argument("--experiments", type=_ids, nargs=2, metavar="IDS", help=text)
    command.add_argument("--force", action="store_true", help="compare runs that are not comparable too")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")
    command.add_argument("--fail-on", choices=("worse",), help="exit with 3 when anything got worse")


def run(options: argparse.Namespace) -> int:
    """Compare; returns the exit code. Raises BenchError."""
    with results_extra():
        from workload_generator.results.compare import Side, compare, comparison_tables
    if len(options.databases) != (1 if options.experiments else 2):
        raise UsageError("compare takes two databases, or one and --experiments IDS IDS")
    if options.experiments:
        db = options.databases[0]
        sides = [Side(f"experiments {', '.join(map(str, ids))}", db, ids) for ids in options.experiments]
    else:
        sides = [Side(str(db), db) for db in options.databases]
    comparison = compare(*sides, force=options.force, include_invalid=options.include_invalid)

    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(f"A: {escape(sides[0].name)}\nB: {escape(sides[1].name)}")
    for reason in comparison.against:
        console.print(f"[red]not comparable, forced[/] {escape(reason)}")
    lists = {"only in A": comparison.only_a, "only in B": comparison.only_b, "left out": comparison.left_out}
    for name, labels in lists.items():
        for label in labels[:_MOST_LABELS]:
            console.print(f"[yellow]{name}[/] {escape(label)}")
        if len(labels) > _MOST_LABELS:
            console.print(f"[yellow]{name}[/] {len(labels) - _MOST_LABELS} more")
    for table in comparison_tables(comparison):
        console.print()
        console.print(table, soft_wrap=False)
    worse, better = (sum(change.verdict == word for change in comparison.changes) for word in ("worse", "better"))
    rest = len(comparison.changes) - worse - better
    console.print(f"\n{worse} worse, {better} better, {rest} without a difference shown")
    if comparison.too_few:
        console.print("[yellow]some groups have too few runs to show any difference: each side needs at least four[/]")
    if options.fail_on and comparison.worse:
        return ExitCode.INVALID
    return ExitCode.UNDECIDABLE if comparison.too_few else ExitCode.OK


def _ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a list of experiment ids, such as 1 or 1,2,3") from None
