"""Receipts on the receiver's own disk, while the event logger is unreachable.

Each worker has a spool, and holds a lock on it. A worker that starts takes over the spools of workers that have ended,
so that the receipts of acknowledged events reach the logger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from workload_generator.eventing.locked_files import create_locked, take_orphans

_SUFFIX = ".spool"


class Spool:
    """One file of batches, a line each."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._offset = 0
        self._size = os.fstat(fd).st_size

    @property
    def is_empty(self) -> bool:
        """Whether all of its batches have reached the logger."""
        return self._offset >= self._size

    def append(self, batch: bytes) -> None:
        """Write a batch and sync it to the disk. Raises OSError, and then keeps nothing of the batch."""
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
        """The first batch. A torn one is skipped: its events were not acknowledged."""
        while not self.is_empty:
            line = self._line()
            if line.endswith(b"\n"):
                return line[:-1]
            self._offset = self._size
        return None

    def drop_first(self) -> None:
        """Drop the first batch, which has reached the logger."""
        self._offset += len(self._line())
        if self.is_empty:
            os.ftruncate(self._fd, 0)
            self._offset = self._size = 0

    def close(self) -> None:
        """Close the file; remove it when it is empty."""
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
    """A new spool for a worker. Raises UsageError."""
    path = folder / f"{instance}{_SUFFIX}"
    return Spool(path, create_locked(path))


def orphans(folder: Path) -> Iterator[Spool]:
    """The spools of workers that have ended."""
    return (Spool(path, fd) for path, fd in take_orphans(folder, _SUFFIX))
