"""The `kn-bench` command, for the operator's machine; works as the kubectl-style plugin `kn bench` too.

A command's module has `add_<command>`, which adds its flags to a parser and sets `command`, the function that does it
and returns the exit code. Only the module of the command that is typed is loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Sequence
from importlib import import_module

from workload_generator import __version__
from workload_generator.base.errors import BenchError
from workload_generator.base.standard_streams import open_standard_streams

COMMANDS = {
    "quickstart": ("quickstart", "three scenarios on this machine, from functions to a database"),
    "local": ("local", "the embedded platform: functions on this machine, as Knative runs them"),
    "functions": ("functions", "build or test the benchmark's functions"),
    "extract": ("extract", "logs into a SQLite database"),
    "report": ("report", "a database as a page with pictures, and as tables"),
    "compare": ("report", "two databases, or two sets of experiments of one"),
    "top": ("top", "record what nodes, pods and functions do, until Ctrl-C"),
    "combine": ("combine", "metrics of nodes and pods into a benchmark database"),
    "prometheus": ("prometheus", "a snapshot of a cluster's Prometheus, and a local server over it"),
    "scenario": ("scenario", "a scenario's runs, repeated and interleaved, to the report"),
    "deploy": ("deploy", "functions, the generator, eventing into a cluster, until they are ready"),
    "delete": ("deploy", "what deploy made out of a cluster, until it is gone"),
    "patch": ("deploy", "change concurrency, autoscaling, parallelism of what is deployed"),
    "trigger": ("trigger", "an experiment in the cluster, in the generator's pod or several"),
    "extract-logs": ("extract_logs", "logs and receipts out of a cluster's pods, into a folder"),
    "doctor": ("doctor", "whether a cluster is fit for the benchmark, and mend what can be"),
}
"""Each command's module, and the line that describes it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return prepare(argv)()


def prepare(argv: Sequence[str] | None = None) -> Callable[[], int]:
    """Read the flags and load the command that is typed; what is returned runs it, and returns the exit code."""
    open_standard_streams()
    words = sys.argv[1:] if argv is None else argv
    typed = next((word for word in words if not word.startswith("-")), "")
    options = make_parser({typed}).parse_args(words)
    command: Callable[[argparse.Namespace], int] = options.command

    def guarded() -> int:
        try:
            return command(options)
        except BenchError as error:
            sys.stderr.write(f"kn-bench: {error}\n")
            return error.exit_code
        except BrokenPipeError:  # the reader of our output is gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1

    return guarded


def make_parser(loaded: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """All commands, those of `loaded` with their flags."""
    parser = argparse.ArgumentParser(prog="kn-bench", description="Runs, extracts and shows benchmarks of Knative.")
    parser.add_argument("--version", action="version", version=f"kn-bench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in loaded:
            getattr(import_module(f"workload_generator.commands.{module}"), f"add_{name.replace('-', '_')}")(command)
    return parser
