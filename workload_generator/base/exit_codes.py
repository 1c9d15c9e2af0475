"""The exit codes of all commands (README.md lists them for users)."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, unless a signal ended it: see `of_signal`."""

    OK = 0
    """Everything was done; a run is valid."""
    FAILURE = 1
    """Anything that no other code means; what was logged before is complete."""
    USAGE = 2
    """Bad flags, a bad file or a machine that is not fit for the run: nothing was sent or changed."""
    INVALID = 3
    """A run ended, but its verdict is invalid, a threshold failed or no request was answered; `compare`: worse."""
    UNDECIDABLE = 4
    """`compare`: some groups have too few runs to show any difference, and nothing is worse."""


COMPLETE_RUN = frozenset({ExitCode.OK, ExitCode.INVALID})
"""The codes of a run whose log is complete."""


def of_signal(number: int) -> int:
    """The exit code of a process that a signal ended: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number
