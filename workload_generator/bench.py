"""The `kn-bench` command, for the operator's machine; works as the kubectl-style plugin `kn bench` too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from workload_generator import __version__
from workload_generator.errors import BenchError
from workload_generator.extraction import extract_and_show
from workload_generator.functions import build_or_test
from workload_generator.local.toolchain import Action
from workload_generator.quickstart import quickstart


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = make_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except BenchError as error:
        sys.stderr.write(f"kn-bench: {error}\n")
        return error.exit_code
    except BrokenPipeError:  # the reader of our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(prog="kn-bench", description="Runs, extracts and shows benchmarks of Knative.")
    parser.add_argument("--version", action="version", version=f"kn-bench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("quickstart", help="a short run on this machine, from a function to a database")
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    command.add_argument("--port", type=int, metavar="N", help="the function's; default: a free one")
    command.set_defaults(command=_quickstart)

    command = commands.add_parser("functions", help="build or test the benchmark's functions")
    actions = command.add_subparsers(required=True, metavar="build|test")
    for action in Action:
        command = actions.add_parser(action, help=f"{action} those whose toolchain is on this machine")
        command.add_argument("names", nargs="*", metavar="NAME", help="default: every function of the catalog")
        command.add_argument("--all", action="store_true", help="a function that is skipped is a failure")
        command.set_defaults(command=_functions, action=action)

    command = commands.add_parser("extract", help="logs into a SQLite database")
    command.add_argument("--logs", type=Path, required=True, metavar="DIR", help="the folder of the logs")
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the database; made when absent")
    command.add_argument("--hours", type=float, metavar="N", help="only files at most this old, by name; default: all")
    command.set_defaults(command=_extract)
    return parser


def _quickstart(options: argparse.Namespace) -> int:
    quickstart(options.data, options.port, Console(highlight=False))
    return 0


def _functions(options: argparse.Namespace) -> int:
    return 0 if build_or_test(options.action, options.names, options.all, Console(highlight=False)) else 1


def _extract(options: argparse.Namespace) -> int:
    report = extract_and_show(options.logs, options.db, Console(highlight=False), hours=options.hours)
    return 0 if report.logs else 1
