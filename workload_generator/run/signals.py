"""SIGTERM, SIGINT and SIGHUP in mid-run.

- The first SIGTERM or SIGINT stops the schedule. Requests in flight have `GRACE_S` to finish; then they are cancelled.
  The run drains, writes its trailer with the verdict `invalid: stopped by …`, prints its summary, and the command exits
  with 128 + the number of the signal.
- The second one cancels the requests in flight at once.
- A log that cannot be written then holds nothing up: it is given up `LAST_S` after requests in flight are cancelled.
- After a fault of the generator, a signal gives up the trailer that the run still tries to write.
- SIGHUP is ignored from the first instruction of the command: a lost terminal never ends a run.

With `--processes` the command passes signals on to its workers (`shards`). With `--serve` the server passes them on to
the run in progress (`serve`). Before the run the handlers of `__main__` apply, after it those of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

GRACE_S = 5.0
"""Seconds for the requests in flight after a signal, and for the trailer after a fault of the generator."""

LAST_S = 1.3
"""Seconds for the log after the last request."""

STOPPING = (signal.SIGINT, signal.SIGTERM)


class RunSignals:
    """The signal handlers of one run. `received` is the first signal.

    `stop` is called at the first signal, `cancel` with the reason at the end of the grace time or the second signal,
    `abandon` with the reason `LAST_S` later. `give_up` may be set later: from then on a signal calls it before these.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], None],
        cancel: Callable[[str], None],
        abandon: Callable[[str], None],
    ) -> None:
        self.received: signal.Signals | None = None
        self.give_up: Callable[[], object] | None = None
        self._loop = loop
        self._stop = stop
        self._cancel = cancel
        self._abandon = abandon
        self._timers: list[asyncio.TimerHandle] = []

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals in this context."""
        before = {name: signal.getsignal(name) for name in STOPPING}
        for name in STOPPING:
            self._loop.add_signal_handler(name, self._on_signal, name)
        try:
            yield
        finally:
            for timer in self._timers:
                timer.cancel()
            for name, handler in before.items():
                self._loop.remove_signal_handler(name)
                signal.signal(name, handler)

    def _on_signal(self, name: signal.Signals) -> None:
        message = f"the run was stopped by {name.name}"
        grace_s = 0.0 if self.received or self.give_up else GRACE_S
        if self.give_up is not None:
            self.give_up()
        elif self.received is None:
            self.received = name
            self._stop()
        self._timers.append(self._loop.call_later(grace_s, self._cancel, message))
        self._timers.append(self._loop.call_later(grace_s + LAST_S, self._abandon, message))
