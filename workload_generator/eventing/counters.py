"""The counters of a service's workers, in memory that all of them share, so that each can report those of all."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence

SLOT_BYTES = 8


class Counters:
    """The counters of one worker, made before the workers are forked; only their worker adds to them.

    `memory` has a slot for each name, in this order.
    """

    def __init__(self, names: Sequence[str], memory: mmap.mmap | None = None) -> None:
        self.names = tuple(names)
        self._slots = memoryview(memory or mmap.mmap(-1, SLOT_BYTES * len(names))).cast("Q")
        self._at = {name: at for at, name in enumerate(names)}

    def add(self, name: str, count: int = 1) -> None:
        """Add to a counter."""
        self._slots[self._at[name]] += count

    def __getitem__(self, name: str) -> int:
        """The value of a counter."""
        return int(self._slots[self._at[name]])


def prometheus(service: str, workers: Mapping[str, Counters]) -> str:
    """The counters of each instance in Prometheus' text format.

    https://prometheus.io/docs/instrumenting/exposition_formats/
    """
    lines = []
    for name in next(iter(workers.values())).names:
        metric = f"{service}_{name}_total"
        lines.append(f"# TYPE {metric} counter")
        lines += [f'{metric}{{instance="{instance}"}} {counters[name]}' for instance, counters in workers.items()]
    return "\n".join(lines) + "\n"
