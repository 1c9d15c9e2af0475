"""Files of one process that outlive it: a lock says whether the process is alive.

A file gets its name once it is locked and written, so that no other process takes it for an orphan.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from workload_generator.base.errors import UsageError

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


def create_locked(path: Path, content: bytes = b"") -> int:
    """A new file, locked until its descriptor is closed. Raises UsageError that names --spool."""
    unnamed = path.with_name(f"{path.name}.begun")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(unnamed, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, content)
            unnamed.rename(path)
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise UsageError(
            f"cannot use the spool {path.parent}: {error.strerror}; choose another folder with --spool"
        ) from None
    return fd


def take_orphans(folder: Path, suffix: str) -> Iterator[tuple[Path, int]]:
    """The files whose processes have ended, each locked for this process until its descriptor is closed."""
    for path in sorted(folder.glob(f"*{suffix}")):
        try:
            fd = os.open(path, _FLAGS)
        except OSError:  # another process was faster, and has removed it
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its process is alive
            os.close(fd)
            continue
        yield path, fd
