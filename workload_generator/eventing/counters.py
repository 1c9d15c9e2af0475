"""Counters of all workers of a service, in shared memory, so that each worker can report those of all.

Each worker writes only its own counters. With a folder they are in a file there, which outlives a worker that is
killed: the next process reads them (`left_behind`).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson

from workload_generator.eventing.locked_files import create_locked, take_orphans

_SLOT_BYTES = 8
_HEAD_BYTES = 1024  # of a file: the counters' names as JSON, padded
_SUFFIX = ".counters"


class Counters:
    """The counters of each instance (worker), made before the workers are forked. Raises UsageError for the folder."""

    def __init__(
        self, service: str, names: Sequence[str], instances: Sequence[str], folder: Path | None = None
    ) -> None:
        self.instances = tuple(instances)
        self._service = service
        self._names = {name: at for at, name in enumerate(names)}
        self._memory = [self._allocate(folder, instance) for instance in instances]

    def of(self, worker: int) -> WorkerCounters:
        """The counters of one worker."""
        return WorkerCounters(self._memory[worker], self._names)

    def prometheus(self) -> str:
        """All counters in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        lines = []
        for name, at in self._names.items():
            metric = f"{self._service}_{name}_total"
            lines.append(f"# TYPE {metric} counter")
            for instance, memory in zip(self.instances, self._memory, strict=True):
                lines.append(f'{metric}{{instance="{instance}"}} {memory[at]}')
        return "\n".join(lines) + "\n"

    def _allocate(self, folder: Path | None, instance: str) -> memoryview[int]:
        size = len(self._names) * _SLOT_BYTES
        if folder is None:
            return memoryview(mmap.mmap(-1, size)).cast("Q")
        head = orjson.dumps(list(self._names)).ljust(_HEAD_BYTES)
        # Written, not truncated to its size: on a disk that is full later, the first count in a hole would be a SIGBUS.
        fd = create_locked(counters_path(folder, instance), head + bytes(size))
        try:
            return memoryview(mmap.mmap(fd, 0))[_HEAD_BYTES:].cast("Q")  # the map keeps the file open, and its lock
        finally:
            os.close(fd)


class WorkerCounters:
    """The counters of one worker."""

    def __init__(self, slots: memoryview[int], names: dict[str, int]) -> None:
        self._slots = slots
        self._names = names

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        self._slots[self._names[name]] += count

    def __getitem__(self, name: str) -> int:
        """The value of a counter."""
        return int(self._slots[self._names[name]])


class LeftBehind:
    """The counters of an instance that ended before it reported them. The file is locked until `close`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.instance = path.name.removesuffix(_SUFFIX)
        self._path = path
        self._fd = fd
        data = os.pread(fd, _HEAD_BYTES + mmap.PAGESIZE, 0)
        names = orjson.loads(data[:_HEAD_BYTES])
        slots = memoryview(data)[_HEAD_BYTES:].cast("Q")
        self.counts: Mapping[str, int] = dict(zip(names, slots, strict=True))

    def close(self, *, reported: bool) -> None:
        """Remove the file when its counters are reported, else leave it to the next process."""
        if reported:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)


def counters_path(folder: Path, instance: str) -> Path:
    """The file of an instance."""
    return folder / f"{instance}{_SUFFIX}"


def left_behind(folder: Path) -> Iterator[LeftBehind]:
    """The counters of instances that have ended."""
    for path, fd in take_orphans(folder, _SUFFIX):
        try:
            yield LeftBehind(path, fd)
        except (ValueError, TypeError):  # not a file of counters
            os.close(fd)
