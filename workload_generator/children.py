"""Processes that end with the one that made them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(by: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """What a child has to call first, so that it does not outlive this process, even when that is killed.

    It is the thread that starts the child whose end counts: one that ends earlier takes the child with it.
    """
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # it died between the fork and the call
            os.kill(os.getpid(), by)

    return arrange
