"""A timer that fires at absolute monotonic deadlines, through the poll of the event loop.

uvloop's timers have a resolution of one millisecond and may fire early; a timerfd does neither. Python has `timerfd`
since 3.13; before that, this module calls libc.

Rules:
- it never fires early: the rest of the time to the deadline is spent reading the clock
- the kernel takes some 20 to 40 µs to wake the process: the timer is set earlier by the typical delay, which it learns
  from each wake-up. So half of the wake-ups are a few microseconds early, the others a few late
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Protocol

from workload_generator.base.clock import NS_PER_S, monotonic_ns

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1

_LEAD_NS, _MOST_LEAD_NS = 20_000, 50_000  # at first, and at most, since it costs CPU time
_STEP_NS = 500

_SPIN_NS = 250_000
_ROOM_NS = 60_000  # with more time than this left, another task may have the core
_AWAY_NS = 5_000  # a longer gap between two readings is not spinning: another task had the core


class Spinner(Protocol):
    """Adds up the time for which a timer kept the core busy."""

    spun_ns: int


class DeadlineTimer:
    """Calls `callback` once, at or after the deadline that `arm` sets; a new `arm` replaces the earlier one.

    With `precise` it wakes 250 µs early and reads the clock until the deadline, which takes most of a core; while there
    is time, other tasks (mostly the recorder) may have it. The time spent reading the clock is added to `spinner`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[], None],
        spinner: Spinner | None = None,
        *,
        precise: bool = False,
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._spinner = spinner
        self._precise = precise
        self._deadline_ns = 0
        self._lead_ns = _LEAD_NS
        self._sleeps = False
        self._fd = _create()
        loop.add_reader(self._fd, self._on_readable)

    def arm(self, deadline_ns: int) -> None:
        """Fire at `deadline_ns` on the monotonic clock, or at once when that has passed."""
        self._deadline_ns = deadline_ns
        wake_ns = deadline_ns - (_SPIN_NS if self._precise else self._lead_ns)
        self._sleeps = wake_ns > monotonic_ns()
        _set(self._fd, max(wake_ns, 1))

    def close(self) -> None:
        """Never fire again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return  # armed again between the poll and this read
        now_ns = monotonic_ns()
        if now_ns < self._deadline_ns:
            spun_ns = self._spin(now_ns)
            if self._spinner is not None:
                self._spinner.spun_ns += spun_ns
            if not self._precise:
                self._lead_ns = max(0, self._lead_ns - _STEP_NS)
        elif self._sleeps:
            self._lead_ns = min(_MOST_LEAD_NS, self._lead_ns + _STEP_NS)
        self._callback()

    def _spin(self, now_ns: int) -> int:
        """Read the clock until the deadline; returns how long that kept the core busy, in ns."""
        began_ns, away_ns = now_ns, 0
        while now_ns < self._deadline_ns:
            before_ns = now_ns
            if self._deadline_ns - now_ns > _ROOM_NS:
                os.sched_yield()
            now_ns = monotonic_ns()
            if now_ns - before_ns > _AWAY_NS:
                away_ns += now_ns - before_ns
        return now_ns - began_ns - away_ns


if sys.version_info >= (3, 13):

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _set(fd: int, deadline_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline_ns)

else:
    _libc = ctypes.CDLL(None, use_errno=True)
    _SPEC = struct.Struct("@4l")  # itimerspec: the interval, then the deadline, each in seconds and nanoseconds

    def _checked(code: int) -> int:
        if code < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return code

    def _create() -> int:
        return _checked(_libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS))

    def _set(fd: int, deadline_ns: int) -> None:
        spec = _SPEC.pack(0, 0, *divmod(deadline_ns, NS_PER_S))
        if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, spec, None):
            _checked(-1)
