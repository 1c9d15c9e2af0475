"""Skips waiting time: a timer fires as soon as nothing else happens.

`with hasty(api, 60):` affects event loops that are created inside it, such as those of commands. Nothing happens when
the loop has no event and the fake server, in its own thread, is idle. So a deadline that would expire does so at once,
and a deadline that an event precedes never expires, however slow the machine is. Skipping more than the given number
of seconds is an error: no deadline of that length was expected. Do not use it for loops that wait for another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kube.fake_api import FakeApi

_QUIET_S = 0.03
_LOOKS = 3


@contextlib.contextmanager
def hasty(api: FakeApi, deadline_s: float) -> Iterator[None]:
    """See above; `api` has to run already, in a thread of its own."""
    left_out_s = 0.0

    class Selector(selectors.DefaultSelector):
        skipped_s = 0.0

        def select(self, timeout: float | None = None) -> list[Any]:
            if timeout is None or timeout <= _QUIET_S:
                return super().select(timeout)
            for _ in range(_LOOKS):
                if events := super().select(_QUIET_S):
                    return events
                api.run(lambda: None)
            if events := super().select(0):
                return events
            nonlocal left_out_s
            left_out_s += timeout
            self.skipped_s += timeout
            return []

    def now(loop: Any) -> float:
        return time.monotonic() + getattr(loop._selector, "skipped_s", 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "DefaultSelector", Selector)
        patch.setattr(asyncio.BaseEventLoop, "time", now)
        yield
    assert 0 < left_out_s <= deadline_s, f"{left_out_s:.1f} s were skipped"
