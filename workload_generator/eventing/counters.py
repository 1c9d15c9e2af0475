"""Counters of all workers of a service in memory that they share, so that any of them can answer for all.

Each worker writes its own column only; a reader may see a column at any moment. With a folder a column is a file there:
it outlives a worker that is killed, and whoever starts next reads what the dead one had counted (`left_behind`). A file
is locked for as long as somebody counts in it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from workload_generator.base.errors import UsageError

_SLOT_BYTES = 8
_HEAD_BYTES = 1024  # of a file: the counters' names as JSON, padded
_SUFFIX = ".counters"


class Counters:
    """One column for each instance (worker), made before the workers are forked. Raises UsageError for the folder."""

    def __init__(
        self, service: str, names: Sequence[str], instances: Sequence[str], folder: Path | None = None
    ) -> None:
        self.instances = tuple(instances)
        self._service = service
        self._names = {name: at for at, name in enumerate(names)}
        self._columns = [self._memory(folder, instance) for instance in instances]

    def of(self, worker: int) -> Column:
        """The column of one worker."""
        return Column(self._columns[worker], self._names)

    def prometheus(self) -> str:
        """Everything in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        lines = []
        for name, at in self._names.items():
            metric = f"{self._service}_{name}_total"
            lines.append(f"# TYPE {metric} counter")
            for instance, column in zip(self.instances, self._columns, strict=True):
                lines.append(f'{metric}{{instance="{instance}"}} {column[at]}')
        return "\n".join(lines) + "\n"

    def _memory(self, folder: Path | None, instance: str) -> memoryview[int]:
        if folder is None:
            return memoryview(mmap.mmap(-1, len(self._names) * _SLOT_BYTES)).cast("Q")
        head = orjson.dumps(list(self._names)).ljust(_HEAD_BYTES)
        path = counters_path(folder, instance)
        begun = path.with_name(f"{path.name}.begun")  # no one looks for it until it is locked and whole
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Written, not truncated to size: a disk that is full later must not end us at a page of a hole.
                os.write(fd, head + bytes(len(self._names) * _SLOT_BYTES))
                begun.rename(path)
                return memoryview(mmap.mmap(fd, 0))[_HEAD_BYTES:].cast("Q")  # it keeps the file open, and the lock
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UsageError(f"cannot use the spool {folder}: {reason}; choose a folder with --spool") from None


class Column:
    """The counters of one worker."""

    def __init__(self, slots: memoryview[int], names: dict[str, int]) -> None:
        self._slots = slots
        self._names = names

    def add(self, name: str, count: int = 1) -> None:
        """Count."""
        self._slots[self._names[name]] += count

    def __getitem__(self, name: str) -> int:
        """The count so far."""
        return int(self._slots[self._names[name]])


class LeftBehind:
    """What an instance had counted when it ended without having told the logger. Its file is ours until `close`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.instance = path.name.removesuffix(_SUFFIX)
        self._path = path
        self._fd = fd
        data = os.pread(fd, _HEAD_BYTES + mmap.PAGESIZE, 0)
        names = orjson.loads(data[:_HEAD_BYTES])
        slots = memoryview(data)[_HEAD_BYTES:].cast("Q")
        self.counts: Mapping[str, int] = dict(zip(names, slots, strict=True))

    def close(self, *, told: bool) -> None:
        """Leave it to the next one; when the logger was told, to nobody."""
        if told:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)


def counters_path(folder: Path, instance: str) -> Path:
    """The file of an instance."""
    return folder / f"{instance}{_SUFFIX}"


def left_behind(folder: Path) -> Iterator[LeftBehind]:
    """Counters of instances that are gone."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another one was faster
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield LeftBehind(path, fd)
        except (OSError, ValueError, TypeError):  # somebody counts in it, or it is no such file
            os.close(fd)
