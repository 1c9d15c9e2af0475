"""The lock for one run at a time: two generators in one pod would disturb each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from workload_generator.base.errors import UsageError
from workload_generator.base.private_folder import open_private_file, private_folder

_NAME = "workload-generator.lock"


def lock_path() -> Path:
    """The path of the lock, the same for all runs of this user, or in this pod."""
    return private_folder() / _NAME


def lock_holder() -> int | None:
    """The id of the process that holds the lock, or None.

    It does not take the lock, so that it never gets in the way of a run. The process in the file must have the file
    open: it may be the one of an earlier run.
    """
    path = lock_path()
    try:
        held = path.lstat()
        text = path.read_text("utf-8", "replace") if S_ISREG(held.st_mode) else ""
        match = re.search(r"process ([0-9]+), since", text)
        if match is None:
            return None
        for each in Path(f"/proc/{match[1]}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(each.stat(), held):
                    return int(match[1])
    except OSError:
        pass
    return None


@contextlib.contextmanager
def run_lock(run: str) -> Iterator[None]:
    """Hold the lock. Raises UsageError with the run that holds it already."""
    fd = take_lock(run)
    try:
        yield
    finally:
        os.close(fd)


def take_lock(run: str) -> int:
    """Take the lock for `run`, which the errors of other runs name; the kernel releases it when the descriptor closes.

    Raises UsageError with the run that holds it already.
    """
    fd = open_private_file(_NAME)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
        os.close(fd)
        raise UsageError(f"another run is in progress ({holder}); one run at a time") from None
    os.ftruncate(fd, 0)
    line = f"{run}, process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
    os.pwrite(fd, line.encode("utf-8", "backslashreplace"), 0)
    return fd
