"""Receipts on the receiver's own disk, for as long as the logger cannot be reached.

A spool belongs to one worker, which holds a lock on it. A worker that starts takes over the spools of those that are
gone: what they acknowledged still reaches the logger.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from workload_generator.base.errors import UsageError

_SUFFIX = ".spool"


class Spool:
    """One file of batches, a line each. A new one has another name until it is locked, so that it is no orphan."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        self.path = path
        self._offset = 0
        begun = path.with_name(f"{path.name}.begun") if new else path
        try:
            self._fd = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if new:
                begun.rename(path)
        except OSError as error:
            raise UsageError(f"cannot use the spool {path}: {error.strerror}; choose a folder with --spool") from None
        self._size = os.fstat(self._fd).st_size

    @property
    def is_empty(self) -> bool:
        """Whether everything in it has reached the logger."""
        return self._offset >= self._size

    def append(self, batch: bytes) -> None:
        """Write a batch, and have it on the disk. Raises OSError; nothing of it stays then."""
        line = batch + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(line)

    def first(self) -> bytes | None:
        """The first batch that is left; a torn one was never acknowledged."""
        while not self.is_empty:
            line = self._line()
            if line.endswith(b"\n"):
                return line[:-1]
            self._offset = self._size
        return None

    def drop_first(self) -> None:
        """The first batch has reached the logger."""
        self._offset += len(self._line())
        if self.is_empty:
            os.ftruncate(self._fd, 0)
            self._offset = self._size = 0

    def close(self) -> None:
        """Close it; an empty one is removed."""
        if self.is_empty:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)

    def _line(self) -> bytes:
        data = b""
        while b"\n" not in data:
            piece = os.pread(self._fd, 1 << 20, self._offset + len(data))
            if not piece:
                return data
            data += piece
        return data[: data.index(b"\n") + 1]


def open_spool(folder: Path, instance: str) -> Spool:
    """The spool of a worker. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use the spool {folder}: {error.strerror}; choose a folder with --spool") from None
    return Spool(folder / f"{instance}{_SUFFIX}", new=True)


def orphans(folder: Path) -> Iterator[Spool]:
    """Spools that nobody holds any more."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            spool = Spool(path)
        except UsageError:  # somebody does
            continue
        yield spool
