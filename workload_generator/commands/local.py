"""`kn-bench local`: runs the embedded platform on this machine until a signal."""

from __future__ import annotations

import argparse
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.commands.flags import add_seed, as_in_a_file, value, whole_number
from workload_generator.emulator.gateway import DEFAULT_MAX_INSTANCES, DEFAULT_PORT, PlatformOptions, run_platform
from workload_generator.emulator.receiver_triggers import BROKER, PARALLELISM, RECEIVER, receiver_triggers
from workload_generator.emulator.settings import parallelism, whole_seconds


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add, positive = command.add_argument, value("positive_whole")
    port = f"default: {DEFAULT_PORT}; 0: a free one"
    add("--port", type=whole_number(0, 65535), default=DEFAULT_PORT, metavar="N", help=port)
    add("--bind", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine only")
    add("--config", type=Path, metavar="FILE", help="settings and faults of its services (docs/local.md)")
    of_all, most = "of every service; default", DEFAULT_MAX_INSTANCES
    add("--stable-window", type=as_in_a_file(whole_seconds), metavar="D", help=f"{of_all} 10s (Knative: 60s)")
    add("--scale-to-zero-grace-period", type=value("duration"), metavar="D", help=f"{of_all} 0s (Knative: 30s)")
    add("--max-instances", type=positive, default=most, metavar="N", help=f"most in all services; default {most}")
    add_seed(command, "seed of ports, names and faults; default: the file's, else random")
    number = f"triggers of the broker {BROKER}, all delivering to the receiver"
    add("--triggers", type=positive, metavar="N", help=number)
    each = f"deliveries at a time of each; default {PARALLELISM}"
    add("--parallelism", type=as_in_a_file(parallelism), metavar="N", help=each)
    add("--receiver", type=value("url"), metavar="URL", help=f"default: {RECEIVER}")


def run(options: argparse.Namespace) -> int:
    """Run the platform until a signal; returns the exit code. Raises BenchError."""
    given = {
        "stable_window_ns": options.stable_window,
        "scale_to_zero_grace_period_ns": options.scale_to_zero_grace_period,
    }
    flags = {name: setting for name, setting in given.items() if setting is not None}
    triggers = {}
    if options.triggers is not None:
        triggers = receiver_triggers(options.triggers, options.receiver or RECEIVER, options.parallelism or PARALLELISM)
    elif options.parallelism is not None or options.receiver is not None:
        raise UsageError("--parallelism and --receiver need --triggers")
    platform = PlatformOptions(
        options.bind, options.port, options.config, options.seed, options.max_instances, triggers, flags
    )
    return run_platform(platform)
