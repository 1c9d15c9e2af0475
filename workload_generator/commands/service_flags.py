"""The flags of the eventing services, `receiver` and `event-logger`: where they listen. Pods set environment variables.

The services are loaded after their flags are read.
"""

from __future__ import annotations

import argparse
import os

from workload_generator.commands.flags import seconds, whole_number

_MOST_WORKERS = 256


def add_service_flags(parser: argparse.ArgumentParser) -> None:
    """--port, --bind, --workers and --body-timeout."""
    add, port, bind = parser.add_argument, os.environ.get("PORT", "8080"), os.environ.get("BIND", "0.0.0.0")
    add("--port", type=whole_number(0, 65535), metavar="N", default=port, help="default $PORT, else 8080")
    add("--bind", metavar="ADDRESS", default=bind, help="default $BIND, else all addresses")
    workers = "processes that share the port; default 1"
    add("--workers", type=whole_number(1, _MOST_WORKERS), metavar="N", default=1, help=workers)
    text = "seconds for the arrival of a request's body; default 10"
    add("--body-timeout", type=seconds(0.001, 3600), metavar="S", default=10.0, help=text)
