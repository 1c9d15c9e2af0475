"""A timer that fires at absolute monotonic deadlines, through the event loop's own poll.

uvloop's timers stand on a grid of one millisecond and may fire early; a timerfd does neither. Python has
`timerfd` since 3.13; before that we call libc.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

from workload_generator.clock import NS_PER_S, monotonic_ns

_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


_SPIN_NS = 250_000


class Spinner(Protocol):
    """Who wants to know how long a timer spun."""

    spun_ns: int


class DeadlineTimer:
    """Calls `callback` once at or after the deadline that `arm` sets; a new `arm` replaces the one before.

    With a `spinner` it wakes 250 µs early and reads the clock until the deadline: for those who have a core to spare.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None], spinner: Spinner | None = None
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._spinner = spinner
        self._deadline_ns = 0
        self._fd = _create()
        loop.add_reader(self._fd, self._on_readable)

    def arm(self, deadline_ns: int) -> None:
        """Fire at `deadline_ns` on the monotonic clock; at once when that has passed."""
        if self._spinner is not None:
            self._deadline_ns = deadline_ns
            deadline_ns -= _SPIN_NS
        _set(self._fd, max(deadline_ns, 1))

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
            return  # re-armed between the poll and this read
        if self._spinner is not None:
            began_ns = now_ns = monotonic_ns()
            while now_ns < self._deadline_ns:
                now_ns = monotonic_ns()
            self._spinner.spun_ns += now_ns - began_ns
        self._callback()


if sys.version_info >= (3, 13):

    def _create() -> int:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def _set(fd: int, deadline_ns: int) -> None:
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=deadline_ns)

else:

    class _TimeSpec(ctypes.Structure):
        _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))

    class _TimerSpec(ctypes.Structure):
        _fields_ = (("it_interval", _TimeSpec), ("it_value", _TimeSpec))

    _libc = ctypes.CDLL(None, use_errno=True)

    def _create() -> int:
        fd: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_FLAGS)
        if fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return fd

    def _set(fd: int, deadline_ns: int) -> None:
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(*divmod(deadline_ns, NS_PER_S)))
        if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
