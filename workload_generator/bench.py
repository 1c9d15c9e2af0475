"""The `kn-bench` command, for the operator's machine; works as the kubectl-style plugin `kn bench` too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from workload_generator import __version__
from workload_generator.combining import add_combine_command
from workload_generator.deploying import add_deploy_commands
from workload_generator.diagnosis import add_doctor
from workload_generator.errors import BenchError, UsageError
from workload_generator.extraction import extract_and_show
from workload_generator.fetching import add_extract_logs_command
from workload_generator.flags import as_in_a_file
from workload_generator.functions import build_or_test
from workload_generator.local.fanout import BROKER, PARALLELISM, RECEIVER, FanOut
from workload_generator.local.gateway import DEFAULT_MAX_INSTANCES, DEFAULT_PORT, Lines, Options, run_platform
from workload_generator.local.settings import whole_seconds
from workload_generator.local.toolchain import Action
from workload_generator.monitoring import add_top_command
from workload_generator.quickstart import quickstart
from workload_generator.reporting import compare_and_show, report_and_show
from workload_generator.scenarios import add_scenario_command
from workload_generator.triggering import add_trigger_command
from workload_generator.snapshots import add_prometheus_command
from workload_generator.values import duration, positive_whole, url, whole


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
    positive = as_in_a_file(positive_whole)
    command.add_argument(
        "--triggers", type=positive, metavar="N", help=f"so many of the broker {BROKER}, all to the receiver"
    )
    command.add_argument(
        "--parallelism", type=positive, metavar="N", help=f"deliveries at a time of each; default {PARALLELISM}"
    )
    command.add_argument("--receiver", type=as_in_a_file(url), metavar="URL", help=f"default: {RECEIVER}")
    command.set_defaults(command=_local)

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

    command = commands.add_parser("report", help="a database as a page with pictures, and as tables")
    command.add_argument("--db", type=Path, required=True, metavar="FILE", help="the database")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page (HTML), made anew")
    command.add_argument("--csv", type=Path, metavar="DIR", help="the tables as CSV files too, in this folder")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")
    command.set_defaults(command=_report)

    command = commands.add_parser("compare", help="two databases, or two sets of experiments of one")
    command.add_argument("databases", type=Path, nargs="+", metavar="FILE", help="A.db and B.db, or one of them")
    command.add_argument(
        "--experiments", type=_ids, nargs=2, metavar="IDS", help="of one database: 1 2, or repeats: 1,2,3,4 5,6,7,8"
    )
    command.add_argument("--force", action="store_true", help="compare also what is not comparable")
    command.add_argument("--include-invalid", action="store_true", help="compare invalid and incomplete runs too")
    command.add_argument("--fail-on", choices=("worse",), help="exit with 3 when anything got worse")
    command.set_defaults(command=_compare)
    add_top_command(commands)
    add_combine_command(commands)
    add_prometheus_command(commands)
    add_scenario_command(commands)
    add_deploy_commands(commands)
    add_trigger_command(commands)
    add_extract_logs_command(commands)
    add_doctor(commands.add_parser("doctor", help="whether a cluster is fit for the benchmark, and mend what can be"))
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
    fan_out = None
    if options.triggers is not None:
        fan_out = FanOut(options.triggers, options.receiver or RECEIVER, options.parallelism or PARALLELISM)
    elif options.parallelism is not None or options.receiver is not None:
        raise UsageError("--parallelism and --receiver are of --triggers, which is not given")
    asked = Options(options.bind, options.port, options.config, options.seed, options.max_instances, fan_out, flags)
    return run_platform(asked, Lines().write)


def _functions(options: argparse.Namespace) -> int:
    return 0 if build_or_test(options.action, options.names, options.all, Console(highlight=False)) else 1


def _extract(options: argparse.Namespace) -> int:
    report = extract_and_show(options.logs, options.db, Console(highlight=False), hours=options.hours)
    return 0 if report.logs or report.receipts else 1


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
