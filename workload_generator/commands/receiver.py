"""The `receiver` program: takes events from the brokers, and sends receipts to the event logger."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.commands.flags import value
from workload_generator.commands.service_flags import add_service_flags

DESCRIPTION = "Takes CloudEvents at / and /t/<trigger>, and sends receipts to the event logger."


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The receiver's flags."""
    add_service_flags(parser)
    add, logger, spool = parser.add_argument, os.environ.get("EVENT_LOGGER_URL") or None, os.environ.get("SPOOL_DIR")
    add(
        "--logger", type=value("url"), metavar="URL", default=logger, help="the event logger; default $EVENT_LOGGER_URL"
    )
    add("--spool", type=Path, metavar="DIR", default=spool, help="for receipts without a logger; default $SPOOL_DIR")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal. Raises BenchError."""
    if not options.logger and not options.spool:
        raise UsageError("no destination for receipts: set --logger (EVENT_LOGGER_URL), --spool (SPOOL_DIR), or both")
    from workload_generator.eventing.http_workers import serve
    from workload_generator.eventing.receiver import Receiver

    def make(instance: str) -> Receiver:
        return Receiver(instance, options.logger, options.spool)

    return serve("receiver", make, options.bind, options.port, options.workers, options.body_timeout)
