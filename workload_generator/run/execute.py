"""A run of `workload-generator`, and its `--self-test`: from what is planned to the summary and the exit code.

Importing this module loads what a run needs, so that nothing has to be loaded while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import encodings.idna  # noqa: F401 - what is connected to a name needs it
import sys
from dataclasses import replace
from urllib.parse import urlsplit

import hdrh.histogram  # noqa: F401 - `stats` loads it with the first histogram
import orjson
import uvloop

from workload_generator.base.exit_codes import ExitCode, of_signal
from workload_generator.base.standard_streams import complain, forget_stdout, print_lines
from workload_generator.base.terminal import Terminal
from workload_generator.coldstart.proof import Watcher
from workload_generator.emulator.detect import platform_of
from workload_generator.log.format import LOCAL
from workload_generator.run import machine_limits
from workload_generator.run.job import Job, make_job
from workload_generator.run.lock import RunLock
from workload_generator.run.logger_clock import measured_clock
from workload_generator.run.plan import Plan
from workload_generator.run.runner import Outcome, Run
from workload_generator.run.self_test import self_test
from workload_generator.run.shards import Crew

_PIPE_COLUMNS = 160  # nobody wraps the lines of a file


def run(options: argparse.Namespace, elsewhere: str | None) -> int:
    """Do what the flags ask for; returns the exit code. Raises BenchError."""
    outcome = _execute(make_job(options, elsewhere))
    _print_summary(outcome, options.output)
    if outcome.signal is not None:
        return of_signal(outcome.signal)
    return ExitCode.OK if outcome.summary.passed else ExitCode.INVALID


def show_self_test(output: str) -> int:
    """Run it and print what was found; returns the exit code. Raises BenchError."""
    with RunLock("self-test"):
        report = self_test()
    print_lines([_json(report.to_json())] if output == "json" else report.lines())
    return ExitCode.OK


def _execute(job: Job) -> Outcome:
    experiment, elsewhere = job.plan.experiment, job.elsewhere
    machine_limits.check_disk(job.plan.log_dir, job.expected)
    sink = experiment.targets[0].url if job.plan.event else None
    clock = measured_clock() if job.plan.event else None
    plan = replace(job.plan, platform=platform_of(elsewhere or sink or experiment.base_url or None), clock=clock)
    with RunLock(experiment.name):
        if job.processes > 1:
            return Crew(plan, job.endpoints, job.processes).execute()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            run = Run(plan, job.endpoints, watcher=_watcher(plan, elsewhere))
            outcome = runner.run(run.execute())
        if run.unknown is not None:
            complain("workload-generator", f"whether the cold starts were cold is unknown: {run.unknown}")
        return outcome


def _watcher(plan: Plan, elsewhere: str | None) -> Watcher | None:
    """Who sees the instances of the platform that the run goes to."""
    if plan.mode != "cold-start":
        return None
    # `cli.prepare` has loaded it
    from workload_generator.coldstart.connect import watcher_of_cluster, watcher_of_local

    url = elsewhere or plan.experiment.base_url
    if plan.platform == LOCAL:
        return watcher_of_local(url) if url else None
    return watcher_of_cluster([urlsplit(target.url).hostname or "" for target in plan.experiment.targets])


def _print_summary(outcome: Outcome, output: str) -> None:
    if output == "json":
        print_lines([_json(outcome.summary.to_json())])
        return
    try:
        terminal = Terminal(file=sys.stdout, highlight=False, emoji=False)
        if not terminal.is_terminal:
            terminal.width = _PIPE_COLUMNS
        outcome.summary.print(terminal)
        sys.stdout.flush()
    except OSError:
        forget_stdout()


def _json(document: object) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
