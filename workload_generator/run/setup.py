"""From the flags of `workload-generator` to the run that they ask for, and `--check`, which prints it."""

from __future__ import annotations

import argparse
import hashlib
import secrets
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import yaml  # noqa: F401 - otherwise loaded with the first file, when a signal raises already

from workload_generator.base.clock import format_duration
from workload_generator.base.errors import UsageError
from workload_generator.base.standard_streams import print_lines
from workload_generator.engine.endpoint import Endpoint
from workload_generator.experiment.bundled import find_experiment
from workload_generator.experiment.load import load_experiment
from workload_generator.experiment.model import Experiment
from workload_generator.experiment.schedule import WHOLE, Shard, cold_start_rounds, describe_cold_start
from workload_generator.run import resources
from workload_generator.run.plan import RunPlan
from workload_generator.run.sink import draft_of, for_events, overrides, sink_url
from workload_generator.run.targets import make_endpoints, make_event_endpoint

Random("")  # from Python 3.13 on, the first seed that is a text loads a module


def make_plan(options: argparse.Namespace) -> tuple[RunPlan, list[Endpoint]]:
    """The run that the flags ask for, and its endpoints. Raises BenchError."""
    experiment = load_experiment(
        find_experiment(options.config),
        event=options.event,
        rps=options.rps,
        duration_ns=options.duration,
        seed=options.seed,
    )
    if options.event:
        experiment = for_events(experiment, sink_url())
    shard: Shard = options.shard or WHOLE
    if shard[1] > 1 and options.run_id is None:
        raise UsageError("--shard: all shards of a run need the same --run-id")
    run_id = options.run_id or secrets.token_hex(8)
    plan = RunPlan(
        experiment=experiment,
        seed=_seed(experiment, run_id, shared=shard != WHOLE),
        cold_start=options.cold_start,
        ping=options.ping,
        prefix=options.prefix,
        log_dir=Path(options.log_dir or experiment.store.log_dir_path),
        progress=options.progress,
        run_id=run_id,
        started=datetime.now(UTC),
        shard=shard,
        start_wall_ns=options.start_at,
        precise=options.precise,
        event=options.event,
        processes=resources.auto_processes() if options.processes is None else options.processes,
        elsewhere=options.dev_url,
    )
    if options.event:
        endpoints = [make_event_endpoint(experiment, run_id, options.dev_url)]
    else:
        endpoints = make_endpoints(experiment, options.dev_url)
    plan.expected_requests()  # raises when the schedule cannot be shared
    return plan, endpoints


def check(options: argparse.Namespace) -> int:
    """Print the run that the flags ask for, and send nothing; returns the exit code. Raises BenchError."""
    plan, _ = make_plan(options)
    experiment = plan.experiment
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
    elif plan.schedule is not None:
        lines += plan.schedule.describe()
    else:
        rate = experiment.rate
        lines.append(
            f"closed loop: {rate.connections} connections for {format_duration(rate.duration_ns)}, "
            "as fast as the target answers"
        )
    print_lines(lines)
    return 0


def _seed(experiment: Experiment, run_id: str, shared: bool) -> int:
    """The experiment's seed, else a drawn one. The pods of one run derive it from the run's id."""
    if experiment.seed is not None:
        return experiment.seed
    if shared:
        return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:8]) >> 1
    return secrets.randbits(63)
