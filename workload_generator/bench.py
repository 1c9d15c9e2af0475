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
from workload_generator.flags import as_in_a_file
from workload_generator.local.gateway import DEFAULT_MAX_INSTANCES, DEFAULT_PORT, Lines, Options, run_platform
from workload_generator.local.settings import whole_seconds
from workload_generator.quickstart import quickstart
from workload_generator.values import duration, positive_whole, whole


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

    command = commands.add_parser("quickstart", help="three scenarios on this machine, from functions to a database")
    command.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    command.add_argument("--port", type=int, metavar="N", help="the platform's; default: a free one")
    command.set_defaults(command=_quickstart)

    command = commands.add_parser(
        "local", help="the embedded platform: functions on this machine, as Knative runs them"
    )
    command.add_argument(
        "--port", type=int, default=DEFAULT_PORT, metavar="N", help=f"default: {DEFAULT_PORT}; 0: a free one"
    )
    command.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine only")
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="settings and faults of its services (docs/local.md)"
    )
    command.add_argument(
        "--stable-window",
        type=as_in_a_file(whole_seconds),
        metavar="D",
        help="of every service; default 10s, Knative's 60s",
    )
    command.add_argument(
        "--scale-to-zero-grace-period",
        type=as_in_a_file(duration),
        metavar="D",
        help="of every service; default 0s, Knative's 30s",
    )
    command.add_argument(
        "--max-instances",
        type=as_in_a_file(positive_whole),
        default=DEFAULT_MAX_INSTANCES,
        metavar="N",
        help=f"processes at a time, of all services; default {DEFAULT_MAX_INSTANCES}",
    )
    command.add_argument(
        "--seed",
        type=as_in_a_file(whole),
        metavar="N",
        help="of ports, names and faults; default: the file's, else drawn",
    )
    command.set_defaults(command=_local)

    command = commands.add_parser("extract", help="logs into a SQLite database")
    command.add_argument("--logs", type=Path, required=True, metavar="DIR", help="the folder of the logs")
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the database; made when absent")
    command.add_argument("--hours", type=float, metavar="N", help="only files at most this old, by name; default: all")
    command.set_defaults(command=_extract)
    return parser


def _quickstart(options: argparse.Namespace) -> int:
    quickstart(options.data, options.port, Console(highlight=False))
    return 0


def _local(options: argparse.Namespace) -> int:
    given = {
        "stable_window_ns": options.stable_window,
        "scale_to_zero_grace_period_ns": options.scale_to_zero_grace_period,
    }
    flags = {name: value for name, value in given.items() if value is not None}
    return run_platform(
        Options(options.bind, options.port, options.config, options.seed, options.max_instances, flags), Lines().write
    )


def _extract(options: argparse.Namespace) -> int:
    report = extract_and_show(options.logs, options.db, Console(highlight=False), hours=options.hours)
    return 0 if report.logs or report.receipts else 1
