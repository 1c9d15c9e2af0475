"""The `workload-generator` program: the flags of the original, and its exit codes as README.md lists them.

Modules are loaded after the flags are read, as these need them: `--help` loads no models, `--check` no engine.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction

from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.base.standard_streams import open_standard_streams
from workload_generator.commands import program
from workload_generator.commands.flags import (
    MOST_PROCESSES,
    add_bool,
    add_output,
    add_prefix,
    add_progress,
    add_seed,
    value,
)

DEV_URL = "http://localhost:8080"
DESCRIPTION = "Sends an experiment's requests on schedule and logs their results."

_AUTO = "auto"
_MOST_SHARDS = 100_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return prepare(argv)()


def prepare(argv: Sequence[str] | None = None) -> Callable[[], int]:
    """Read the flags and load everything that they ask for; what is returned runs it, and returns the exit code.

    A signal between the two finds nothing that still has to be loaded or cleaned up.
    """
    open_standard_streams()
    options = make_parser().parse_args([_go_style(word) for word in (sys.argv[1:] if argv is None else argv)])
    return program.guarded("workload-generator", load(options))


def run(options: argparse.Namespace) -> int:
    """Run what the flags ask for; returns the exit code. Raises BenchError."""
    return load(options)()


def load(options: argparse.Namespace) -> Callable[[], int]:
    """What the flags ask for, with every module loaded that it needs."""
    options.dev_url = options.dev_url or (DEV_URL if options.dev else None)
    if options.event and not options.serve:  # else the run loads it, when a signal can be lost
        import cloudevents.core.bindings.http  # noqa: F401
    if options.serve:
        from workload_generator.run.serve import serve as command
    elif options.self_test:
        from workload_generator.run.execute import show_self_test as command
    elif options.check:
        from workload_generator.run.setup import check as command
    else:
        if options.cold_start:
            import workload_generator.coldstart.connect  # noqa: F401
        from workload_generator.run.execute import run as command
    return lambda: command(options)


def make_parser() -> argparse.ArgumentParser:
    """The program's parser."""
    return program.make_parser("workload-generator")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("--config", metavar="FILE", default="config.yaml", help="a path, or the name of a bundled experiment")
    add("--rps", type=value("rps"), metavar="N", help="replaces the file's requestsPerSecond; 0 is the closed loop")
    add("--duration", type=value("positive_duration"), metavar="D", help="replaces the file's duration (90s, 1h30m)")
    add_prefix(parser)
    add("--log-dir", metavar="DIR", help="default: the file's store.logDirPath, then /logs")
    add_bool(parser, "--cold-start", "visit the targets one after the other, a round every 1/rps seconds")
    add_bool(parser, "--event", "send CloudEvents, each with its own id, to $K_SINK")
    add_bool(parser, "--ping", "send one request to each target first, and log its timings")
    add_bool(parser, "--dev", f"send everything to {DEV_URL}, with the target's host in the Host header")
    add("--dev-url", type=value("server_url"), metavar="URL", help="as --dev, but to this address")
    add_seed(parser, "default: the file's, else random; it is in the log")
    add("--processes", type=_processes, metavar="N|auto", default=1, help="worker processes, each with a shard")
    add("--shard", type=_shard, metavar="I/N", help="this pod's share of a run; I defaults to $JOB_COMPLETION_INDEX")
    add("--start-at", type=_moment, metavar="TIME", help="start of all shards: RFC 3339, or seconds since the epoch")
    add("--run-id", type=_run_id, metavar="ID", help="the same for all shards of a run; default: random")
    add_bool(parser, "--precise", "spin for the last 250 µs before each deadline: uses up to a whole core")
    add_progress(parser, "the live view on stderr")
    add_output(parser, "the summary on stdout")
    add_bool(parser, "--check", "validate the experiment and print the resolved schedule; send nothing")
    add_bool(parser, "--serve", "stay up for runs started by exec: /healthz, /readyz, /metrics on $PORT (8080)")
    add_bool(parser, "--self-test", "measure this machine's limits for ten seconds, against a server on it")


def _go_style(word: str) -> str:
    """Go's flag package takes `-config` for `--config`, and so do we."""
    return f"-{word}" if word.startswith("-") and not word.startswith("--") and len(word) > 2 else word


def _processes(text: str) -> int | None:
    if text == _AUTO:
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {_AUTO} nor a number from 1 to {MOST_PROCESSES}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.rpartition("/")
    if not index:
        index = os.environ.get("JOB_COMPLETION_INDEX", "")
        if not index:
            raise argparse.ArgumentTypeError(f"{text!r} names no shard, and JOB_COMPLETION_INDEX is not set: write I/N")
    numbers = [int(word) if word.isascii() and word.isdigit() else -1 for word in (index, count)]
    if not 0 <= numbers[0] < numbers[1] <= _MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"{index}/{count} is not a valid shard: I/N with 0 <= I < N, such as 0/3")
    return numbers[0], numbers[1]


def _moment(text: str) -> int:
    try:
        return int(Fraction(text) * NS_PER_S)
    except (ValueError, ZeroDivisionError):
        pass
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a valid time or has no time zone: write 2026-11-25T08:00:00Z, or seconds since the epoch"
        ) from None


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, dots, hyphens and underscores, 63 at most")
    return text
