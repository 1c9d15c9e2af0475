"""SIGTERM, SIGINT and SIGHUP in mid-run.

- The first SIGTERM or SIGINT stops the schedule. Requests in flight have `GRACE_S` to finish; then they are cancelled.
  The run drains, writes its trailer with the verdict `invalid: stopped by …`, prints its summary, and the command exits
  with 128 + the number of the signal.
- The second one cancels the requests in flight at once.
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

STOPPING = (signal.SIGINT, signal.SIGTERM)


class RunSignals:
    """The signal handlers of one run. `received` is the first signal.

    `stop` is called at the first signal, `cancel` with the reason at the end of the grace time or the second signal.
    `give_up` may be set later: from then on a signal calls it, and nothing else.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None], cancel: Callable[[str], None]
    ) -> None:
        self.received: signal.Signals | None = None
        self.give_up: Callable[[], object] | None = None
        self._loop = loop
        self._stop = stop
        self._cancel = cancel
        self._grace: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle signals in this context."""
        for name in STOPPING:
            self._loop.add_signal_handler(name, self._on_signal, name)
        try:
            yield
        finally:
            self.end_grace()
            for name in STOPPING:
                self._loop.remove_signal_handler(name)

    def end_grace(self) -> None:
        """Cancel nothing any more: no request is in flight."""
        if self._grace is not None:
            self._grace.cancel()

    def _on_signal(self, name: signal.Signals) -> None:
        message = f"the run was stopped by {name.name}"
        if self.give_up is not None:
            self.give_up()
        elif self.received is None:
            self.received = name
            self._stop()
            self._grace = self._loop.call_later(GRACE_S, self._cancel, message)
        else:
            self._cancel(message)
