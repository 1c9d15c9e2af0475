"""The strain on the generator during a run: CPU time, stalls, throttling, waits for a CPU, steal, clock steps.

Sources: Linux, Documentation/scheduler/sched-stats.rst (schedstat), Documentation/admin-guide/cgroup-v2.rst and
Documentation/scheduler/sched-bwc.rst (cpu.stat), proc_stat(5).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import time
from pathlib import Path

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, NS_PER_US, monotonic_ns
from workload_generator.base.verdict import STALL_NS, Strain
from workload_generator.engine.timestamps import ReceiveClock

_TICK_S = 0.01
_SLICE_NS = 100_000
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274}
_libc = ctypes.CDLL(None, use_errno=True)
_CGROUP = Path("/sys/fs/cgroup")
_SCHEDSTAT = Path("/proc/self/schedstat")  # of the main thread, on which the event loop runs
_STAT = Path("/proc/stat")


def read_throttling(
    root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")
) -> tuple[int, int] | tuple[None, None]:
    """Throttled periods of this process's cgroup, v2 or v1, and their time in ns; None when unknown.

    In a container the mounted folder is the cgroup's own; on a host it lies at the path in `membership`.
    """
    paths = {"": "/"}
    try:
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
    except (OSError, ValueError):
        pass
    for base, controller, unit in ((root, "", NS_PER_US), (root / "cpu", "cpu", 1), (root / "cpu,cpuacct", "cpu", 1)):
        for folder in (base / paths.get(controller, "/").lstrip("/"), base):
            try:
                words = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
                length = words.get("throttled_usec") or words["throttled_time"]
                return int(words["nr_throttled"]), int(length) * unit
            except (OSError, ValueError, KeyError):
                continue
    return None, None


def read_waited_ns(schedstat: Path = _SCHEDSTAT) -> int | None:
    """The time for which the event loop's thread was ready to run but had no CPU, in ns; None when unknown."""
    try:
        return int(schedstat.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def read_steal(stat: Path = _STAT) -> tuple[int, int] | tuple[None, None]:
    """Ticks that the hypervisor took from this machine, and all ticks; None when unknown."""
    try:
        ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None, None
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (None, None)


def ask_for_short_slices() -> bool:
    """Have the scheduler run this thread soon after it wakes, in short slices; returns whether it does.

    Since Linux 6.12 a waking task with shorter slices may preempt the running one. That takes no privilege.
    Source: sched_setattr(2), kernel/sched/fair.c (EEVDF, PREEMPT_SHORT).
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        return False
    attributes = struct.pack("<IIQiIQQQ", 48, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, _SLICE_NS, 0, 0)
    return bool(_libc.syscall(number, 0, attributes, 0) == 0)


class Monitor:
    """Measures the strain on the event loop from `start` to `stop`. Timers add the time of spinning to `spun_ns`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: ReceiveClock) -> None:
        self.spun_ns = 0
        self._loop = loop
        self._clock = clock
        self._stalls = 0
        self._longest_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._readings = (*read_throttling(), read_waited_ns(), *read_steal())
        self._cpu_ns, self._began_ns = time.thread_time_ns(), monotonic_ns()
        self._steps, self._stepped_ns = self._clock.steps, self._clock.stepped_ns
        self._ticked_ns = self._began_ns
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def stop(self) -> Strain:
        """Stop; returns the strain, which is empty when `start` was not called."""
        if self._timer is None:
            return Strain(elapsed_ns=0, cpu_ns=0)
        self._timer.cancel()
        self._look()
        self._clock.check()
        now = (*read_throttling(), read_waited_ns(), *read_steal())
        periods, throttled_ns, waited_ns, stolen, ticks = map(_difference, now, self._readings)
        return Strain(
            elapsed_ns=monotonic_ns() - self._began_ns,
            cpu_ns=time.thread_time_ns() - self._cpu_ns,
            spun_ns=self.spun_ns,
            stalls=self._stalls,
            longest_stall_ns=self._longest_ns,
            throttled_periods=periods,
            throttled_ns=throttled_ns,
            waited_ns=waited_ns,
            steal_share=stolen / ticks if stolen is not None and ticks else None,
            clock_steps=self._clock.steps - self._steps,
            clock_stepped_ns=self._clock.stepped_ns - self._stepped_ns,
        )

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._look()

    def _look(self) -> None:
        now_ns = monotonic_ns()
        late_ns = now_ns - self._ticked_ns - int(_TICK_S * NS_PER_S)
        stalled_ns = late_ns - NS_PER_MS  # the timers of the loop have a resolution of 1 ms
        self._longest_ns = max(self._longest_ns, stalled_ns)
        self._stalls += stalled_ns > STALL_NS
        self._ticked_ns = now_ns


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before
