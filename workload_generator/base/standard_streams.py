"""Standard streams that may be closed, whose reader may have gone, or whose terminal cannot show every sign.

Rules:
- files, pipes and the names of files are UTF-8, in every locale
- a terminal gets the encoding of its locale, and a plain sign for one that this does not have
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Sequence

_PLAIN = {"µ": "u", "μ": "u", "—": "-", "–": "-", "−": "-", "×": "x", "·": ".", "…": ".", "→": ">", "✓": "+", "✗": "x"}
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with control characters as escapes, so that what comes from a file cannot steer a terminal."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def use_utf8() -> None:
    """Start this program again, in UTF-8 mode, if the locale has another encoding, since arguments are decoded already.

    Source: https://docs.python.org/3/library/os.html#python-utf-8-mode
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for child processes, too
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.getfilesystemencoding()}:replace")
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_standard_streams() -> None:
    """Fill closed descriptors 0 to 2, so that no log or socket that is opened later becomes a standard stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free descriptor, which is `fd`
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.reconfigure(errors=_plain.__name__)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_plain.__name__, _plain)


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
