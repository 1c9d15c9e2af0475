"""Asynchronous work for callers that are not, which signals end in an orderly way.

Python's own handlers raise wherever the program is, also in the middle of the event loop, which then forgets what it
was about. Here a signal cancels the work; what that cleans up is waited for, and the exit comes when it is done.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from workload_generator.base.exit_codes import of_signal

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_to_end(work: Coroutine[Any, Any, T], told: Callable[[str], None] | None = None) -> T:
    """Its result. SIGINT and SIGTERM cancel it once and then exit with 128 + their number (SystemExit).

    With `told`, the first signal is only answered by it, with the signal's name: what is done has to be done. Signals
    that are ignored stay ignored.
    """
    before = {name: each for name in _SIGNALS if (each := signal.getsignal(name)) is not signal.SIG_IGN}
    caught: list[signal.Signals] = []
    patient = told is not None

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def on_signal(name: signal.Signals) -> None:
            nonlocal patient
            if patient and told is not None:
                patient = False
                told(name.name)
                return
            if not caught:
                task.cancel()
            caught.append(name)

        for name in before:
            loop.add_signal_handler(name, on_signal, name)
        try:
            return await work
        finally:
            for name in before:
                loop.remove_signal_handler(name)
                # What is cleaned up from here on is not to be interrupted again.
                signal.signal(name, signal.SIG_IGN if caught else before[name])

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if caught:
            sys.exit(of_signal(caught[0]))
        raise
