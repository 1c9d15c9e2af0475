"""`kn-bench local`: the embedded platform on this machine, until a signal."""

from __future__ import annotations

import argparse
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.commands.flags import as_in_a_file
from workload_generator.emulator.fanout import BROKER, PARALLELISM, RECEIVER, FanOut
from workload_generator.emulator.gateway import DEFAULT_MAX_INSTANCES, DEFAULT_PORT, Lines, Options, run_platform
from workload_generator.emulator.settings import whole_seconds
from workload_generator.experiment.field_kinds import duration, positive_whole, url, whole


def add_local(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
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
