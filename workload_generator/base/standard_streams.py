"""Standard streams as a command finds them: closed, or with a reader who has gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, so that no log or socket of ours becomes somebody's standard output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it takes the lowest that is free: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def print_lines(lines: Sequence[str]) -> None:
    """To standard output."""
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except OSError:
        forget_stdout()


def forget_stdout() -> None:
    """The reader of our output is gone: what it would have read is in the log, and Python must not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(command: str, message: str) -> None:
    """A line on standard error, if that is there."""
    try:
        sys.stderr.write(f"{command}: {message}\n")
    except OSError:
        pass
