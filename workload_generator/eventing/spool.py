"""Receipts on the receiver's own disk, while the event logger is unreachable, and the counters of a worker.

Rules:
- each worker has a spool, and holds a lock on it. A worker that starts takes over those of workers that have ended,
  so that the receipts of acknowledged events, and the counters of a killed worker, reach the logger
- a file gets its name once it is locked and written, so that no other process takes it for that of an ended worker
- it begins with the counters `COUNTED`, in shared memory, in this order; then follow batches, a line each
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.eventing.counters import SLOT_BYTES, Counters

COUNTED = (
    "received", "acknowledged", "refused", "rejected", "spooled", "batches", "failed_batches", "dropped_connections",
)  # fmt: skip
"""Of events: accepted, answered with 2xx, answered with 429 or 503. Of requests: without a valid event. Of receipts."""

_HEAD_BYTES = SLOT_BYTES * len(COUNTED)
_SUFFIX = ".spool"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class Spool:
    """The file of one worker. Raises ValueError if it is too short for the counters."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.counters = Counters(COUNTED, mmap.mmap(fd, _HEAD_BYTES))
        self._fd = fd
        self._offset = _HEAD_BYTES
        self._size = os.fstat(fd).st_size

    @property
    def instance(self) -> str:
        """The name of its worker."""
        return self.path.name.removesuffix(_SUFFIX)

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
            os.ftruncate(self._fd, _HEAD_BYTES)
            self._offset = self._size = _HEAD_BYTES

    def close(self, *, reported: bool) -> None:
        """Close the file; remove it when it is empty, and its counters are reported."""
        if self.is_empty and reported:
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
    """A new spool for a worker. Raises UsageError that names --spool."""
    path = folder / f"{instance}{_SUFFIX}"
    unnamed = path.with_name(f"{path.name}.begun")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(unnamed, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Written, not truncated to its size: on a disk that is full later, the first count in a hole would be a SIGBUS.
        os.write(fd, bytes(_HEAD_BYTES))
        unnamed.rename(path)
    except OSError as error:
        raise UsageError(f"cannot use the spool {folder}: {error.strerror}; choose another with --spool") from None
    return Spool(path, fd)


def orphans(folder: Path) -> Iterator[Spool]:
    """The spools of workers that have ended, each locked for this process until it is closed."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            fd = os.open(path, _FLAGS)
        except OSError:  # another process was faster, and has removed it
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Spool(path, fd)
        except (OSError, ValueError):  # its process is alive, or it is not a spool
            os.close(fd)
