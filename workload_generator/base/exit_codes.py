"""The exit codes of all commands, as README.md lists them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended. A signal's code is 128 plus its number: see `of_signal`."""

    OK = 0
    """The command did what was asked; a run is valid."""
    FAILURE = 1
    """Anything that no other code names."""
    USAGE = 2
    """Bad flags, a bad experiment or a machine that cannot run it: nothing was sent or changed."""
    INVALID = 3
    """The run ended, but its verdict is invalid, a threshold failed, or no request was answered. `compare`: worse."""
    UNDECIDABLE = 4
    """`compare`: these runs cannot show it."""


def of_signal(number: int) -> int:
    """The code of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number
