"""The `event-logger` program: appends receipts to events.csv."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from workload_generator.commands.flags import seconds
from workload_generator.commands.service_flags import add_service_flags

DESCRIPTION = "Appends receipts to events.csv before it acknowledges them."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The event logger's flags."""
    add_service_flags(parser)
    add, data = parser.add_argument, os.environ.get("DATA_DIR", "/data")
    add("--data", type=Path, metavar="DIR", default=data, help="of the CSV files; default $DATA_DIR, else /data")
    add(
        "--sync-interval",
        type=seconds(0.001, 60),
        metavar="S",
        default=1.0,
        help="seconds between two fsyncs; default 1",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal. Raises BenchError."""
    from workload_generator.eventing.http_workers import serve
    from workload_generator.eventing.logger import EventLogger

    def make(_instance: str) -> EventLogger:
        return EventLogger(options.data, options.sync_interval)

    return serve("event_logger", make, options.bind, options.port, options.workers, options.body_timeout)
