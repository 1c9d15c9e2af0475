"""The commands `receiver` and `event-logger`. What is not said by flags comes from the environment, as pods have it.

The services are loaded when their flags are read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from workload_generator import __version__
from workload_generator.base.errors import BenchError, UsageError

if TYPE_CHECKING:
    from workload_generator.eventing.http_service import Listening

BODY_TIMEOUT_S = 10.0
_MOST_WORKERS = 256


def receiver_main(argv: Sequence[str] | None = None) -> int:
    """`receiver`; returns the exit code."""
    return _guarded("receiver", lambda: _receive(receiver_parser().parse_args(argv)))


def event_logger_main(argv: Sequence[str] | None = None) -> int:
    """`event-logger`; returns the exit code."""
    return _guarded("event-logger", lambda: _log(event_logger_parser().parse_args(argv)))


def receiver_parser() -> argparse.ArgumentParser:
    """The receiver's flags."""
    parser = _parser("receiver", "Takes CloudEvents at / and /t/<trigger>, and hands receipts to the event logger.")
    parser.add_argument(
        "--logger", metavar="URL", default=os.environ.get("EVENT_LOGGER_URL"),
        help="the event logger; default $EVENT_LOGGER_URL",
    )  # fmt: skip
    parser.add_argument(
        "--spool", type=Path, metavar="DIR", default=os.environ.get("SPOOL_DIR"),
        help="where receipts wait while the logger cannot be reached; default $SPOOL_DIR, else events are refused then",
    )  # fmt: skip
    return parser


def event_logger_parser() -> argparse.ArgumentParser:
    """The event logger's flags."""
    parser = _parser("event-logger", "Appends receipts to events.csv before it acknowledges them.")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=os.environ.get("DATA_DIR", "/data"),
        help="the folder of events.csv and instances.csv; default $DATA_DIR, else /data",
    )  # fmt: skip
    parser.add_argument(
        "--sync-interval", type=float, metavar="S", default=1.0, help="seconds between two fsyncs; default 1"
    )
    return parser


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    parser.add_argument(
        "--port", type=int, metavar="N", default=os.environ.get("PORT", "8080"), help="default $PORT, else 8080"
    )
    parser.add_argument(
        "--bind", metavar="ADDRESS", default=os.environ.get("BIND", "0.0.0.0"), help="default $BIND, else all"
    )
    parser.add_argument("--workers", type=int, metavar="N", default=1, help="processes that share the port; default 1")
    parser.add_argument(
        "--body-timeout", type=float, metavar="S", default=BODY_TIMEOUT_S,
        help=f"seconds in which a request's body has to come; default {BODY_TIMEOUT_S:g}",
    )  # fmt: skip
    return parser


def _receive(options: argparse.Namespace) -> int:
    if not options.logger and not options.spool:
        raise UsageError("receipts have nowhere to go: set --logger or --spool (EVENT_LOGGER_URL, SPOOL_DIR)")
    if options.logger and urlsplit(options.logger).scheme not in ("http", "https"):
        raise UsageError(f"--logger {options.logger!r} is not a URL that begins with http:// or https://")
    from workload_generator.eventing import receiver
    from workload_generator.eventing.http_service import serve

    listening = _listening(options)
    return serve(
        "receiver",
        listening,
        receiver.COUNTED,
        lambda instance, counters: receiver.Receiver(
            instance, options.logger, options.spool, listening.body_timeout_s, counters
        ),
        counters_in=options.spool,
    )


def _log(options: argparse.Namespace) -> int:
    if not 0 < options.sync_interval <= 60:
        raise UsageError("--sync-interval: seconds above 0, at most 60")
    from workload_generator.eventing import logger
    from workload_generator.eventing.http_service import serve

    listening = _listening(options)
    return serve(
        "event_logger",
        listening,
        logger.COUNTED,
        lambda _instance, counters: logger.EventLogger(
            options.data, options.sync_interval, listening.body_timeout_s, counters
        ),
    )


def _listening(options: argparse.Namespace) -> Listening:
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: a number from 0 to 65535")
    if not 1 <= options.workers <= _MOST_WORKERS:
        raise UsageError(f"--workers {options.workers}: a number from 1 to {_MOST_WORKERS}")
    if options.body_timeout <= 0:
        raise UsageError("--body-timeout: seconds above 0")
    from workload_generator.eventing.http_service import Listening

    return Listening(options.bind, options.port, options.workers, options.body_timeout)


def _guarded(name: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except BenchError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return error.exit_code
