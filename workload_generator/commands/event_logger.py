"""The `event-logger` program: appends receipts to events.csv."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.commands.service_flags import add_service_flags, listening_of

DESCRIPTION = "Appends receipts to events.csv before it acknowledges them."
_LONGEST_SYNC_S = 60


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The event logger's flags."""
    add_service_flags(parser)
    add, data = parser.add_argument, os.environ.get("DATA_DIR", "/data")
    add("--data", type=Path, metavar="DIR", default=data, help="of the CSV files; default $DATA_DIR, else /data")
    add("--sync-interval", type=float, metavar="S", default=1.0, help="seconds between two fsyncs; default 1")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal. Raises BenchError."""
    if not 0 < options.sync_interval <= _LONGEST_SYNC_S:
        raise UsageError(f"--sync-interval: seconds above 0, at most {_LONGEST_SYNC_S}")
    listening = listening_of(options)
    from workload_generator.eventing import logger
    from workload_generator.eventing.http_workers import serve

    return serve(
        "event_logger",
        listening,
        logger.COUNTED,
        lambda _instance, counters: logger.EventLogger(
            options.data, options.sync_interval, listening.body_timeout_s, counters
        ),
    )
