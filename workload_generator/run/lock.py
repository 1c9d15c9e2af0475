"""The lock for one run at a time: two generators in one pod would disturb each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from workload_generator.base.errors import UsageError


def lock_path() -> Path:
    """The path of the lock, the same for all runs on this machine or in this pod."""
    return Path(tempfile.gettempdir()) / "workload-generator.lock"


def lock_holder() -> int | None:
    """The id of the process that holds the lock, or None.

    It does not take the lock, so that it never gets in the way of a run. The process in the file must have the file
    open: it may be the one of an earlier run.
    """
    path = lock_path()
    try:
        match = re.search(r"process ([0-9]+), since", path.read_text("utf-8", "replace"))
        held = path.stat()
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
    path = lock_path()
    try:
        fd = _open(path)
    except OSError as error:
        raise UsageError(f"cannot open the lock {path}: {error.strerror}") from None
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


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)  # O_CREAT fails in /tmp for another user's file
    except FileNotFoundError:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.fchmod(fd, 0o666)  # for the runs of other users, despite the umask
        return fd
