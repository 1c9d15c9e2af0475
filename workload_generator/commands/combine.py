"""`kn-bench combine`: copies recorded usage of nodes and pods into the benchmark database."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from workload_generator.base.exit_codes import ExitCode
from workload_generator.commands.flags import add_db
from workload_generator.results.ingest.combine import combine


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add_db(command)
    command.add_argument("--metrics", type=Path, required=True, metavar="FILE", help="the database that top wrote")


def run(options: argparse.Namespace) -> int:
    """Combine; returns the exit code. Raises BenchError."""
    console = Console(highlight=False)
    for merged in combine(options.db, options.metrics):
        console.print(f"{merged.table}: {merged.rows:,} rows, {merged.new:,} of them new", soft_wrap=True)
    return ExitCode.OK
