"""Standard streams that may be closed, or whose reader may have gone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with control characters as escapes, so that what comes from a file cannot steer a terminal."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, so that no log or socket that is opened later becomes a standard stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor, which is `fd`
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


def print_lines(lines: Sequence[str]) -> None:
    """Write lines to standard output."""
    try:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    except OSError:
        forget_stdout()


def forget_stdout() -> None:
    """Discard further output after the reader has gone, so that Python does not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(command: str, message: str) -> None:
    """Write lines to standard error, if it is open, with control characters as escapes."""
    try:
        sys.stderr.write("".join(f"{printable(line)}\n" for line in f"{command}: {message}".split("\n")))
    except OSError:
        pass
