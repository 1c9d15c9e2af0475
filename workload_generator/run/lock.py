"""One run at a time: two generators in one pod would measure each other."""

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
    """Where the lock is: one for all runs of this machine, or pod."""
    return Path(tempfile.gettempdir()) / "workload-generator.lock"


def lock_holder() -> int | None:
    """The process that holds the lock, or None.

    Looking takes no lock, so that no run is ever refused because somebody looked. What the file says of an earlier run
    does not count: the process has to have the file open.
    """
    path = lock_path()
    try:
        found = re.search(r"process ([0-9]+), since", path.read_text("utf-8", "replace"))
        held = path.stat()
        if found is None:
            return None
        for each in Path(f"/proc/{found[1]}/fd").iterdir():
            try:
                opened = each.stat()
            except OSError:
                continue
            if (opened.st_dev, opened.st_ino) == (held.st_dev, held.st_ino):
                return int(found[1])
    except OSError:
        pass
    return None


class RunLock:
    """Held as a context; the kernel releases it when the process ends, however it ends. `run` is told to others."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._path = lock_path()
        self._fd = -1

    def __enter__(self) -> RunLock:
        """Take the lock. Raises UsageError that says which run holds it."""
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
            return os.open(self._path, os.O_RDWR | os.O_CLOEXEC)  # in /tmp, O_CREAT is refused on another user's file
        except FileNotFoundError:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.fchmod(fd, 0o666)  # whatever the umask says: other users' runs have to wait too
            return fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
