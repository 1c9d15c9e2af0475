"""Counters of all workers of a service in memory that they share, so that any of them can answer for all.

Each worker writes its own column only; a reader may see a column at any moment.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence

_SLOT_BYTES = 8


class Counters:
    """One column for each instance (worker), made before the workers are forked."""

    def __init__(self, service: str, names: Sequence[str], instances: Sequence[str]) -> None:
        self.instances = tuple(instances)
        self._service = service
        self._names = {name: at for at, name in enumerate(names)}
        self._slots = memoryview(mmap.mmap(-1, max(1, len(names) * len(instances)) * _SLOT_BYTES)).cast("Q")

    def of(self, worker: int) -> Column:
        """The column of one worker."""
        return Column(self._slots, self._names, worker * len(self._names))

    def prometheus(self) -> str:
        """Everything in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""
        lines = []
        for name, at in self._names.items():
            metric = f"{self._service}_{name}_total"
            lines.append(f"# TYPE {metric} counter")
            for worker, instance in enumerate(self.instances):
                value = self._slots[worker * len(self._names) + at]
                lines.append(f'{metric}{{instance="{instance}"}} {value}')
        return "\n".join(lines) + "\n"


class Column:
    """The counters of one worker."""

    def __init__(self, slots: memoryview[int], names: dict[str, int], begin: int) -> None:
        self._slots = slots
        self._names = names
        self._begin = begin

    def add(self, name: str, count: int = 1) -> None:
        """Count."""
        self._slots[self._begin + self._names[name]] += count

    def __getitem__(self, name: str) -> int:
        """The count so far."""
        return int(self._slots[self._begin + self._names[name]])
