"""`kn-bench combine`: what nodes and pods used, into the benchmark database."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from workload_generator.results.ingest.combine import combine


def add_combine(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the benchmark database")
    command.add_argument("--metrics", type=Path, required=True, metavar="FILE", help="the database of metrics")
    command.set_defaults(command=_combine)


def _combine(options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    for merged in combine(options.db, options.metrics):
        console.print(f"{merged.table}: {merged.rows:,} rows, {merged.new:,} of them new", soft_wrap=True)
    return 0
