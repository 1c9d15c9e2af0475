"""The entry points of the four programs. They set signal handlers first, since loading the rest takes a while.

- While modules load, a signal ends the process at once: nothing needs cleaning up yet, and an exception can be lost in
  callbacks of the import system.
- Later a signal raises SystemExit, so that contexts are left.
- During a run `run.signals` replaces both: that module says what happens on SIGTERM in mid-run.

So a program's `prepare` reads the flags and loads what they ask for; what it returns runs the command and loads nothing
more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from workload_generator.base.exit_codes import of_signal
from workload_generator.base.standard_streams import use_utf8


def workload_generator() -> int:
    """`workload-generator`, and `python -m workload_generator`. A lost terminal never ends a run."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _begin()
    from workload_generator.commands.workload_generator import prepare

    command = prepare()
    _on_signals(_exit)
    return command()


def kn_bench() -> int:
    """`kn-bench`."""
    _begin()
    from workload_generator.commands.kn_bench import prepare

    command = prepare()
    _on_signals(_exit)
    return command()


def receiver() -> int:
    """`receiver`."""
    _begin()
    from workload_generator.commands.program import main

    return main("receiver")


def event_logger() -> int:
    """`event-logger`."""
    _begin()
    from workload_generator.commands.program import main

    return main("event-logger")


def _begin() -> None:
    use_utf8()
    _on_signals(_end)


def _on_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(of_signal(number))


def _exit(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # a second signal must not interrupt the clean-up
        signal.signal(each, _ignore)  # not SIG_IGN: Python reports a signal that came meanwhile as a race
    sys.exit(of_signal(number))


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


if __name__ == "__main__":
    sys.exit(workload_generator())
