"""A run of `workload-generator`, and its `--self-test`: from the flags to the summary and the exit code.

Importing this module loads everything that a run needs, so that a run loads nothing.
"""

from __future__ import annotations

import argparse
import encodings.idna  # noqa: F401 - connecting to a host name needs it
import sys
from dataclasses import asdict, replace
from urllib.parse import urlsplit

import hdrh.histogram  # noqa: F401 - otherwise loaded with the first histogram
import orjson
import uvloop

from workload_generator.base.exit_codes import ExitCode, of_signal
from workload_generator.base.standard_streams import complain, forget_stdout, print_lines
from workload_generator.base.terminal import Terminal
from workload_generator.coldstart.watcher import Watcher
from workload_generator.emulator.detect import platform_of
from workload_generator.engine.endpoint import Endpoint
from workload_generator.log.format import LOCAL
from workload_generator.run import resources
from workload_generator.run.lock import run_lock
from workload_generator.run.logger_clock import measured_clock
from workload_generator.run.plan import RunPlan
from workload_generator.run.runner import LoadRun
from workload_generator.run.self_test import self_test
from workload_generator.run.setup import make_plan
from workload_generator.run.shards import ShardedRun
from workload_generator.run.summary import RunSummary

_PIPE_COLUMNS = 160  # of a file or a pipe, which do not wrap lines


def run(options: argparse.Namespace) -> int:
    """Run what the flags ask for; returns the exit code. Raises BenchError."""
    summary = _execute(*make_plan(options))
    _print_summary(summary, options.output)
    if summary.silence is not None:
        complain("workload-generator", summary.silence)
    if summary.stopped_by is not None:
        return of_signal(summary.stopped_by)
    return ExitCode.OK if summary.passed else ExitCode.INVALID


def show_self_test(options: argparse.Namespace) -> int:
    """Run the self-test and print its report; returns the exit code. Raises BenchError."""
    with run_lock("self-test"):
        report = self_test()
    print_lines([_json(asdict(report))] if options.output == "json" else report.lines())
    return 0


def _execute(plan: RunPlan, endpoints: list[Endpoint]) -> RunSummary:
    experiment = plan.experiment
    resources.check_disk(plan.log_dir, plan.expected_requests())
    url = plan.elsewhere or (experiment.targets[0].url if plan.event else experiment.base_url) or None
    plan = replace(plan, platform=platform_of(url), clock=measured_clock() if plan.event else None)
    with run_lock(experiment.name):
        if plan.processes > 1:
            return ShardedRun(plan, endpoints).execute()
        return uvloop.run(LoadRun(plan, endpoints, watcher=_watcher(plan)).execute())


def _watcher(plan: RunPlan) -> Watcher | None:
    """The watcher for the platform of a cold-start run."""
    if plan.mode != "cold-start":
        return None
    from workload_generator.coldstart.connect import watcher_of_cluster, watcher_of_local  # loaded with the flags

    url = plan.elsewhere or plan.experiment.base_url
    if plan.platform == LOCAL:
        return watcher_of_local(url) if url else None
    return watcher_of_cluster([urlsplit(target.url).hostname or "" for target in plan.experiment.targets])


def _print_summary(summary: RunSummary, output: str) -> None:
    if output == "json":
        print_lines([_json(summary.to_json())])
        return
    try:
        terminal = Terminal(file=sys.stdout, highlight=False, emoji=False)
        if not terminal.is_terminal:
            terminal.width = _PIPE_COLUMNS
        summary.print(terminal)
        sys.stdout.flush()
    except OSError:
        forget_stdout()


def _json(document: object) -> str:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
