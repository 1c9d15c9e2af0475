"""What the machine did to the generator during a run: its own CPU, stalls, throttling, waits, steal, clock steps.

Sources: Linux, Documentation/scheduler/sched-stats.rst (schedstat), Documentation/admin-guide/cgroup-v2.rst and
Documentation/scheduler/sched-bwc.rst (cpu.stat), proc_stat(5).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import sys
import time
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Throttling:
    """How often and for how long a cgroup has been kept off its CPUs for having used up its quota."""

    periods: int
    ns: int


def read_throttling(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> Throttling | None:
    """Of this process's cgroup, v2 or v1; None when there is none to be read.

    In a container the cgroup's own folder is what is mounted; on a host it lies at the path that `membership` names.
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
                return Throttling(int(words["nr_throttled"]), int(length) * unit)
            except (OSError, ValueError, KeyError):
                continue
    return None


def read_waited_ns(schedstat: Path = _SCHEDSTAT) -> int | None:
    """How long the event loop's thread has been ready to run without a CPU; None where the kernel does not tell."""
    try:
        return int(schedstat.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None


def read_steal(stat: Path = _STAT) -> tuple[int, int] | None:
    """Ticks that the hypervisor took from this machine, and all ticks; None where the kernel does not tell."""
    try:
        ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else None


def ask_for_short_slices() -> bool:
    """Have the scheduler run this thread soon after it woke, in short slices; False where it does not know such a wish.

    Since Linux 6.12 a task that asks for shorter slices than the one that runs may take its place when it wakes; that
    takes no privilege. Source: sched_setattr(2), kernel/sched/fair.c (EEVDF, PREEMPT_SHORT).
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or not sys.platform.startswith("linux"):
        return False
    attributes = struct.pack("<IIQiIQQQ", 48, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, _SLICE_NS, 0, 0)
    return bool(_libc.syscall(number, 0, attributes, 0) == 0)


class Monitor:
    """Watches the loop from `start` to `stop`. `spun_ns` is for whoever spins on purpose to add to."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: ReceiveClock) -> None:
        self.spun_ns = 0
        self._loop = loop
        self._clock = clock
        self._stalls = 0
        self._longest_ns = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._readings = (read_throttling(), read_waited_ns(), read_steal())
        self._cpu_ns, self._began_ns = time.thread_time_ns(), monotonic_ns()
        self._steps, self._stepped_ns = self._clock.steps, self._clock.stepped_ns
        self._ticked_ns = self._began_ns
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def stop(self) -> Strain:
        """End; what there was, nothing when it never began."""
        if self._timer is None:
            return Strain(elapsed_ns=0, cpu_ns=0)
        self._timer.cancel()
        self._look()
        self._clock.check()
        throttled, waited_ns, steal = self._readings
        throttled_now, waited_now_ns, steal_now = read_throttling(), read_waited_ns(), read_steal()
        ticks = steal_now[1] - steal[1] if steal and steal_now else 0
        return Strain(
            elapsed_ns=monotonic_ns() - self._began_ns,
            cpu_ns=time.thread_time_ns() - self._cpu_ns,
            spun_ns=self.spun_ns,
            stalls=self._stalls,
            longest_stall_ns=self._longest_ns,
            throttled_periods=throttled_now.periods - throttled.periods if throttled and throttled_now else None,
            throttled_ns=throttled_now.ns - throttled.ns if throttled and throttled_now else None,
            waited_ns=waited_now_ns - waited_ns if waited_ns is not None and waited_now_ns is not None else None,
            steal_share=(steal_now[0] - steal[0]) / ticks if steal and steal_now and ticks > 0 else None,
            clock_steps=self._clock.steps - self._steps,
            clock_stepped_ns=self._clock.stepped_ns - self._stepped_ns,
        )

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._look()

    def _look(self) -> None:
        now_ns = monotonic_ns()
        stalled_ns = (
            now_ns - self._ticked_ns - int(_TICK_S * NS_PER_S) - NS_PER_MS
        )  # the loop's timers have a 1 ms grid
        self._longest_ns = max(self._longest_ns, stalled_ns)
        self._stalls += stalled_ns > STALL_NS
        self._ticked_ns = now_ns
