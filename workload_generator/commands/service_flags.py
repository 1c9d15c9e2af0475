"""The flags of the eventing services, `receiver` and `event-logger`: where they listen. Pods set environment variables.

The services are loaded after their flags are read.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from workload_generator.base.errors import UsageError

if TYPE_CHECKING:
    from workload_generator.eventing.http_workers import ListenOptions

BODY_TIMEOUT_S = 10.0
_MOST_WORKERS = 256


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """--port, --bind, --workers and --body-timeout."""
    add, port, bind = parser.add_argument, os.environ.get("PORT", "8080"), os.environ.get("BIND", "0.0.0.0")
    add("--port", type=int, metavar="N", default=port, help="default $PORT, else 8080")
    add("--bind", metavar="ADDRESS", default=bind, help="default $BIND, else all addresses")
    add("--workers", type=int, metavar="N", default=1, help="processes that share the port; default 1")
    most = f"seconds for the arrival of a request's body; default {BODY_TIMEOUT_S:g}"
    add("--body-timeout", type=float, metavar="S", default=BODY_TIMEOUT_S, help=most)


def listening_of(options: argparse.Namespace) -> ListenOptions:
    """Where to listen. Raises UsageError for a number out of range."""
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: a number from 0 to 65535")
    if not 1 <= options.workers <= _MOST_WORKERS:
        raise UsageError(f"--workers {options.workers}: a number from 1 to {_MOST_WORKERS}")
    if options.body_timeout <= 0:
        raise UsageError("--body-timeout: seconds above 0")
    from workload_generator.eventing.http_workers import ListenOptions

    return ListenOptions(options.bind, options.port, options.workers, options.body_timeout)
