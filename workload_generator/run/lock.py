"""The lock for one run at a time: two generators in one pod would disturb each other."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

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
            try:
                opened = each.stat()
            except OSError:
                continue
            if (opened.st_dev, opened.st_ino) == (held.st_dev, held.st_ino):
                return int(match[1])
    except OSError:
        pass
    return None


class RunLock:
    """Held as a context; the kernel releases it when the process ends. The errors of other runs name `run`."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._path = lock_path()
        self._fd = -1

    def __enter__(self) -> RunLock:
        """Take the lock. Raises UsageError with the run that holds it."""
        try:
            self._fd = self._open()
        except OSError as error:
            raise UsageError(f"cannot open the lock {self._path}: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip()
            os.close(self._fd)
            raise UsageError(f"another run is in progress ({holder}); one run at a time") from None
        os.ftruncate(self._fd, 0)
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        os.pwrite(
            self._fd, f"{self._run}, process {os.getpid()}, since {since}\n".encode("utf-8", "backslashreplace"), 0
        )
        return self

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)  # O_CREAT fails in /tmp for another user's file
        except FileNotFoundError:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.fchmod(fd, 0o666)  # for the runs of other users, despite the umask
            return fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
