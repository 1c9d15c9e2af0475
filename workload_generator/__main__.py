"""Where the commands begin: signals first, since loading the rest takes a while.

While modules load nothing has begun that would have to be cleaned up, and an exception can be lost in the import
system's own callbacks: a signal ends the process at once. Later it raises SystemExit, so that contexts are left.
So `prepare` reads the flags and loads what they ask for; what it returns does it, and loads nothing more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType


def workload_generator() -> int:
    """`workload-generator`, and `python -m workload_generator`. A lost terminal never ends a run."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _on_signals(_end)
    from workload_generator.commands.workload_generator import prepare

    command = prepare()
    _on_signals(_exit)
    return command()


def kn_bench() -> int:
    """`kn-bench`."""
    _on_signals(_end)
    from workload_generator.commands.kn_bench import prepare

    command = prepare()
    _on_signals(_exit)
    return command()


def receiver() -> int:
    """`receiver`."""
    _on_signals(_end)
    from workload_generator.commands.receiver import receiver_main

    return receiver_main()


def event_logger() -> int:
    """`event-logger`."""
    _on_signals(_end)
    from workload_generator.commands.receiver import event_logger_main

    return event_logger_main()


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)


def _exit(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # what is being cleaned up now is not to be interrupted again
        signal.signal(each, _ignore)  # not SIG_IGN: Python says of one that came meanwhile that it is a race
    sys.exit(128 + number)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(workload_generator())
