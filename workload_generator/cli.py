"""The `workload-generator` command: flags as the original's users know them, exit codes as README.md lists them."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import uvloop

from workload_generator import __version__, values
from workload_generator.arrivals import WHOLE, Shard, cold_start_rounds, describe_cold_start
from workload_generator.bundled import find_experiment
from workload_generator.clock import NS_PER_S, NS_PER_US, format_duration
from workload_generator.coldstarts import Watcher
from workload_generator.errors import BenchError, UsageError
from workload_generator.experiment import Experiment
from workload_generator.flags import MOST_PROCESSES, as_in_a_file, go_bool, log_prefix
from workload_generator.load import limits
from workload_generator.load.clocks import measured_clock
from workload_generator.load.crew import Crew
from workload_generator.load.lock import RunLock
from workload_generator.load.plan import Plan
from workload_generator.load.platforms import LOCAL, platform_of
from workload_generator.load.runner import Outcome, Run
from workload_generator.load.selftest import self_test
from workload_generator.load.sink import draft_of, for_events, overrides, sink_url
from workload_generator.load.targets import make_endpoints, make_event_endpoint
from workload_generator.load.terminal import Terminal
from workload_generator.loading import load_experiment

DEV_URL = "http://localhost:8080"
LOG_DIR = "/logs"
INVALID = 3
AUTO = "auto"

_MOST_SHARDS = 100_000

_PIPE_COLUMNS = 160  # nobody wraps the lines of a file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except BenchError as error:
        return _complain(str(error), error.exit_code)


def _main(argv: Sequence[str]) -> int:
    options = make_parser().parse_args([_go_style(word) for word in argv])
    if options.serve:
        return _serve(options)
    if options.self_test:
        return _self_test(options.output)
    experiment = load_experiment(
        find_experiment(options.config),
        event=options.event,
        rps=options.rps,
        duration_ns=options.duration,
        seed=options.seed,
    )
    if options.event:
        experiment = for_events(experiment, sink_url())
    elsewhere = options.dev_url or (DEV_URL if options.dev else None)
    processes = limits.auto_processes() if options.processes == AUTO else options.processes
    run_id, shard = _identity(options)
    plan = Plan(
        experiment=experiment,
        seed=_seed(experiment, run_id, shared=shard != WHOLE),
        cold_start=options.cold_start,
        ping=options.ping,
        prefix=options.prefix,
        log_dir=Path(options.log_dir or experiment.store.log_dir_path),
        progress=options.progress,
        run_id=run_id,
        stamp=f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}",
        shard=shard,
        start_wall_ns=options.start_at,
        precise=options.precise,
        event=options.event,
    )
    if options.event:
        endpoints = [make_event_endpoint(experiment, run_id, elsewhere)]
    else:
        endpoints = make_endpoints(experiment, elsewhere)
    last = replace(plan, shard=(shard[0] + shard[1] * (processes - 1), shard[1] * processes))
    expected = last.expected_requests * processes  # and a complaint when it cannot be shared
    if plan.mode == "closed":
        last.connections  # noqa: B018 - the same
    if options.check:
        _print_lines(_check_lines(experiment, plan))
        return 0
    limits.check_disk(plan.log_dir, expected)
    sink = experiment.targets[0].url if options.event else None
    clock = measured_clock() if options.event else None
    plan = replace(plan, platform=platform_of(elsewhere or sink or experiment.base_url or None), clock=clock)
    with RunLock(experiment.name):
        if processes > 1:
            outcome = Crew(plan, endpoints, processes).execute()
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                run = Run(plan, endpoints, watcher=_watcher(plan, elsewhere))
                outcome = runner.run(run.execute())
            if run.unknown is not None:
                _complain(f"whether the cold starts were cold is unknown: {run.unknown}", 0)
    _print_summary(outcome, options.output)
    if outcome.signal is not None:
        return 128 + outcome.signal
    return 0 if outcome.summary.passed else INVALID


def _watcher(plan: Plan, elsewhere: str | None) -> Watcher | None:
    """Who sees the instances of the platform that the run goes to."""
    if plan.mode != "cold-start":
        return None
    from workload_generator.watching import watcher_of_cluster, watcher_of_local  # other runs do not pay for this

    url = elsewhere or plan.experiment.base_url
    if plan.platform == LOCAL:
        return watcher_of_local(url) if url else None
    return watcher_of_cluster([urlsplit(target.url).hostname or "" for target in plan.experiment.targets])


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
        type=as_in_a_file(values.rps),
        metavar="N",
        help="replaces the file's requestsPerSecond; 0 is the closed loop",
    )
    add(
        "--duration",
        type=as_in_a_file(values.positive_duration),
        metavar="D",
        help="replaces the file's duration (90s, 10m, 1h30m)",
    )
    add("--prefix", type=log_prefix, metavar="P", default="workload-generator", help="prefix of the log's name")
    add("--log-dir", metavar="DIR", help="default: the file's store.logDirPath, then /logs")
    _add_bool(parser, "--cold-start", "visit the targets one after the other, a round every 1/rps seconds")
    _add_bool(parser, "--event", "send CloudEvents to $K_SINK, each with an id of its own")
    _add_bool(parser, "--ping", "one request to each target first, with its timings")
    _add_bool(parser, "--dev", f"send everything to {DEV_URL}, with the target's host in the Host header")
    add("--dev-url", type=as_in_a_file(values.server_url), metavar="URL", help="as --dev, but to this address")
    add(
        "--seed",
        type=as_in_a_file(values.whole),
        metavar="N",
        help="default: the file's, else drawn; it is in the log",
    )
    add("--processes", type=_processes, metavar="N|auto", default=1, help="worker processes, each with a shard")
    add("--shard", type=_shard, metavar="I/N", help="this pod's share of a run; I defaults to $JOB_COMPLETION_INDEX")
    add("--start-at", type=_moment, metavar="TIME", help="when all shards begin: RFC 3339, or seconds since the epoch")
    add("--run-id", type=_run_id, metavar="ID", help="the same for all shards of a run; default: drawn")
    _add_bool(parser, "--precise", "spin for the last 250 µs before each deadline: takes up to a whole core")
    add("--progress", choices=("auto", "rich", "plain", "none"), default="auto", help="the live view on stderr")
    add("--output", choices=("text", "json"), default="text", help="the summary on stdout")
    _add_bool(parser, "--check", "validate the experiment and print the resolved schedule; send nothing")
    _add_bool(parser, "--serve", "stay up for runs that exec triggers: /healthz, /readyz, /metrics on $PORT (8080)")
    _add_bool(parser, "--self-test", "ten seconds against a server of our own: what this machine can be trusted with")
    add("--version", action="version", version=f"workload-generator {__version__}")
    return parser


def _identity(options: argparse.Namespace) -> tuple[str, Shard]:
    """The run's id and this process's shard of it."""
    run_id, shard = options.run_id, options.shard
    if shard is None:
        return run_id or secrets.token_hex(8), WHOLE
    if shard[1] > 1 and run_id is None:
        raise UsageError("--shard: the shards of one run need the same --run-id, or nobody knows that they are one")
    return run_id or secrets.token_hex(8), shard


def _seed(experiment: Experiment, run_id: str, shared: bool) -> int:
    """The experiment's, else a drawn one. What several pods share follows from what they all know."""
    if experiment.seed is not None:
        return experiment.seed
    if shared:
        return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8]) >> 1
    return secrets.randbits(63)


def _add_bool(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, nargs="?", const=True, default=False, type=go_bool, metavar="true|false", help=text)


def _go_style(word: str) -> str:
    """Go's flag package takes `-config` for `--config`, and so do we."""
    return f"-{word}" if word.startswith("-") and not word.startswith("--") and len(word) > 2 else word


def _processes(text: str) -> int | str:
    if text == AUTO:
        return AUTO
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r} is neither {AUTO} nor a number from 1 to {MOST_PROCESSES}")
    return int(text)


def _shard(text: str) -> Shard:
    index, slash, count = text.rpartition("/")
    if not index:
        index = os.environ.get("JOB_COMPLETION_INDEX", "")
        if not index:
            raise argparse.ArgumentTypeError(f"{text!r} names no shard, and JOB_COMPLETION_INDEX is not set: write I/N")
    numbers = [int(word) if word.isascii() and word.isdigit() else -1 for word in (index, count)]
    if not 0 <= numbers[0] < numbers[1] <= _MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"{index}/{count} is no shard: I/N with 0 <= I < N, such as 0/3")
    return numbers[0], numbers[1]


def _moment(text: str) -> int:
    try:
        return int(Fraction(text) * NS_PER_S)
    except (ValueError, ZeroDivisionError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-11-25T08:00:00Z, or seconds since the epoch"
        ) from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone: write Z behind it for UTC")
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * NS_PER_US


def _run_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r}: letters, digits, dots, hyphens and underscores, 63 at most")
    return text


def _self_test(output: str) -> int:
    with RunLock("self-test"):
        report = self_test()
    if output == "json":
        _print_lines([orjson.dumps(report.to_json(), option=orjson.OPT_INDENT_2).decode()])
    else:
        _print_lines(report.lines())
    return 0


def _serve(options: argparse.Namespace) -> int:
    from workload_generator.load.serve import serve  # a run does not pay for a server that it does not use

    return serve(Path(options.log_dir or LOG_DIR), options.event)


def _check_lines(experiment: Experiment, plan: Plan) -> list[str]:
    lines = [f"{experiment.name} ({plan.mode}), sha256 {experiment.sha256}, seed {plan.seed}"]
    lines += [
        f"target {index}: {target.method} {target.url} weight {target.weight}"
        for index, target in enumerate(experiment.targets)
    ]
    if plan.event:
        draft = draft_of(experiment, overrides())
        lines.append(f"events: {draft.mode}, type {draft.type}, source {draft.source}, ids {plan.event_prefix}<seq>")
    if plan.mode == "cold-start":
        lines += describe_cold_start(experiment, cold_start_rounds(experiment), plan.seed)
    elif plan.mode == "closed":
        rate = experiment.rate
        lines.append(
            f"closed loop: {rate.connections} connections for {format_duration(rate.duration_ns)}, "
            "as fast as the target answers"
        )
    else:
        schedule = plan.schedule
        assert schedule is not None
        lines += schedule.describe()
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
