"""The `workload-generator` command: flags as the original's users know them, exit codes as README.md lists them."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import orjson
import uvloop

from workload_generator import __version__, values
from workload_generator.arrivals import cold_start_rounds, describe_cold_start, make_schedule
from workload_generator.bundled import find_experiment
from workload_generator.clock import format_duration
from workload_generator.document import Scalar
from workload_generator.errors import BenchError, UsageError
from workload_generator.experiment import Experiment
from workload_generator.load import limits
from workload_generator.load.lock import RunLock
from workload_generator.load.runner import Outcome, Plan, Run
from workload_generator.load.targets import make_endpoints
from workload_generator.load.terminal import Terminal
from workload_generator.loading import load_experiment

T = TypeVar("T")

DEV_URL = "http://localhost:8080"
INVALID = 3

_PIPE_COLUMNS = 160  # nobody wraps the lines of a file

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_LONGEST_PREFIX_BYTES = 200

# Flags of the contract that other parts of the product bring.
_LATER = ("event", "processes", "shard", "start-at", "run-id", "precise", "self-test", "serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except BenchError as error:
        return _complain(str(error), error.exit_code)


def _main(argv: Sequence[str]) -> int:
    options = make_parser().parse_args([_go_style(word) for word in argv])
    experiment = load_experiment(
        find_experiment(options.config), rps=options.rps, duration_ns=options.duration, seed=options.seed
    )
    seed = experiment.seed if experiment.seed is not None else secrets.randbits(63)
    log_dir = Path(options.log_dir or experiment.store.log_dir_path)
    plan = Plan(
        experiment=experiment,
        seed=seed,
        cold_start=options.cold_start,
        ping=options.ping,
        prefix=options.prefix,
        log_dir=log_dir,
        progress=options.progress,
    )
    endpoints = make_endpoints(experiment, options.dev_url or (DEV_URL if options.dev else None))
    if options.check:
        _print_lines(_check_lines(experiment, plan))
        return 0
    limits.check_disk(log_dir, plan.expected_requests)
    run = Run(plan, endpoints)
    with RunLock(experiment.name), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run.execute())
    _print_summary(outcome, options.output)
    if outcome.signal is not None:
        return 128 + outcome.signal
    return 0 if outcome.summary.passed else INVALID


def make_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="workload-generator",
        description="Sends an experiment's requests on schedule and logs what became of each.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", default="config.yaml", help="a path, or the name of a bundled experiment")
    add(
        "--rps",
        type=_as_in_a_file(values.rps),
        metavar="N",
        help="replaces the file's requestsPerSecond; 0 is the closed loop",
    )
    add(
        "--duration",
        type=_as_in_a_file(values.positive_duration),
        metavar="D",
        help="replaces the file's duration (90s, 10m, 1h30m)",
    )
    add("--prefix", type=_prefix, metavar="P", default="workload-generator", help="prefix of the log's name")
    add("--log-dir", metavar="DIR", help="default: the file's store.logDirPath, then /logs")
    _add_bool(parser, "--cold-start", "visit the targets one after the other, a round every 1/rps seconds")
    _add_bool(parser, "--ping", "one request to each target first, with its timings")
    _add_bool(parser, "--dev", f"send everything to {DEV_URL}, with the target's host in the Host header")
    add("--dev-url", type=_as_in_a_file(values.server_url), metavar="URL", help="as --dev, but to this address")
    add(
        "--seed",
        type=_as_in_a_file(values.whole),
        metavar="N",
        help="default: the file's, else drawn; it is in the log",
    )
    add("--progress", choices=("auto", "rich", "plain", "none"), default="auto", help="the live view on stderr")
    add("--output", choices=("text", "json"), default="text", help="the summary on stdout")
    _add_bool(parser, "--check", "validate the experiment and print the resolved schedule; send nothing")
    for name in _LATER:
        add(f"--{name}", nargs="?", action=_NotYet, help=argparse.SUPPRESS)
    add("--version", action="version", version=f"workload-generator {__version__}")
    return parser


class _NotYet(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if values in _FALSE and option_string in ("--event", "--precise", "--self-test", "--serve"):
            return
        raise UsageError(f"{option_string} is not available yet in version {__version__}")


def _add_bool(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, nargs="?", const=True, default=False, type=_go_bool, metavar="true|false", help=text)


def _go_style(word: str) -> str:
    """Go's flag package takes `-config` for `--config`, and so do we."""
    return f"-{word}" if word.startswith("-") and not word.startswith("--") and len(word) > 2 else word


def _go_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _as_in_a_file(read: Callable[[Scalar], T]) -> Callable[[str], T]:
    """Reads a flag as an experiment's file is read."""

    def read_flag(text: str) -> T:
        try:
            return read(Scalar(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_flag


def _prefix(text: str) -> str:
    size = len(os.fsencode(text))
    if not text or "/" in text or "\0" in text or text.startswith(".") or size > _LONGEST_PREFIX_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot begin a file name: no slash, no leading dot, 1 to {_LONGEST_PREFIX_BYTES} bytes"
        )
    return text


def _check_lines(experiment: Experiment, plan: Plan) -> list[str]:
    lines = [f"{experiment.name} ({plan.mode}), sha256 {experiment.sha256}, seed {plan.seed}"]
    lines += [
        f"target {index}: {target.method} {target.url} weight {target.weight}"
        for index, target in enumerate(experiment.targets)
    ]
    if plan.mode == "cold-start":
        lines += describe_cold_start(experiment, cold_start_rounds(experiment))
    elif plan.mode == "closed":
        rate = experiment.rate
        lines.append(
            f"closed loop: {rate.connections} connections for {format_duration(rate.duration_ns)}, "
            "as fast as the target answers"
        )
    else:
        lines += make_schedule(experiment, plan.seed).describe()
    return lines


def _open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, so that no log or socket of ours becomes somebody's standard output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def _print_summary(outcome: Outcome, output: str) -> None:
    if output == "json":
        _print_lines([orjson.dumps(outcome.summary.to_json(), option=orjson.OPT_INDENT_2).decode()])
        return
    try:
        terminal = Terminal(file=sys.stdout, highlight=False)
        if not terminal.is_terminal:
            terminal.width = _PIPE_COLUMNS
        outcome.summary.print(terminal)
        sys.stdout.flush()
    except OSError:
        _forget_stdout()


def _print_lines(lines: Sequence[str]) -> None:
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except OSError:
        _forget_stdout()


def _forget_stdout() -> None:
    """The reader of our output is gone: what it would have read is in the log, and Python must not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(message: str, exit_code: int) -> int:
    try:
        sys.stderr.write(f"workload-generator: {message}\n")
    except OSError:
        pass
    return exit_code
