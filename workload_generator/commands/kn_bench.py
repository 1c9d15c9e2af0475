"""The `kn-bench` program, for the operator's machine; works as the plugin `kn bench` of `kn` too.

The command `some-name` is the module `some_name` of this package, with `add_flags(parser)` and `run(options)`, which
returns the exit code. Only the module of the command that is typed is loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence

from workload_generator.base.standard_streams import open_standard_streams
from workload_generator.commands import program

DESCRIPTION = "Runs, extracts and reports benchmarks of Knative."
COMMANDS = {
    "quickstart": "run three scenarios on this machine, from functions to a report",
    "local": "run the embedded platform: functions on this machine, scaled as Knative scales them",
    "functions": "build or test the benchmark's functions",
    "extract": "read logs into a SQLite database",
    "report": "write a database's report as an HTML page and print its tables",
    "compare": "compare two databases, or two sets of experiments of one",
    "top": "record the usage of nodes, pods and functions until Ctrl-C",
    "combine": "copy recorded usage of nodes and pods into a benchmark database",
    "prometheus": "fetch a snapshot of a cluster's Prometheus, or serve one locally",
    "scenario": "run a scenario's cells, repeated and interleaved, up to the report",
    "deploy": "deploy functions, the generator or eventing to a cluster and wait until they are ready",
    "delete": "delete what deploy created and wait until it is gone",
    "patch": "change concurrency, autoscaling or parallelism of what is deployed",
    "trigger": "run an experiment in the cluster, in the generator's pod or in several",
    "extract-logs": "fetch logs and receipts from a cluster's pods",
    "doctor": "check whether a cluster is fit for the benchmark, and repair what can be repaired",
}
"""Each command with its line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return prepare(argv)()


def prepare(argv: Sequence[str] | None = None) -> Callable[[], int]:
    """Read the flags and load the command that is typed; what is returned runs it, and returns the exit code."""
    open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    typed = next((word for word in words if not word.startswith("-")), "")
    options = make_parser({typed}).parse_args(words)
    return program.guarded("kn-bench", lambda: run(options))


def make_parser(loaded: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """A parser of all commands; those of `loaded` have their flags."""
    return program.make_parser("kn-bench", loaded)


def add_flags(parser: argparse.ArgumentParser, loaded: Collection[str] = COMMANDS.keys()) -> None:
    """All commands; those of `loaded` with their flags."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.set_defaults(command=name)
        if name in loaded:
            program.module_of(name).add_flags(command)


def run(options: argparse.Namespace) -> int:
    """Run the command that is typed; returns the exit code. Raises BenchError."""
    exit_code: int = program.module_of(options.command).run(options)
    return exit_code
