"""Runs a coroutine to its end, also when a signal arrives.

Python's own handlers raise wherever the program is, which may be inside the event loop. Here a signal cancels the
coroutine, its clean-up is awaited, and then the process exits.
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


def run_to_end(work: Coroutine[Any, Any, T], on_signal: Callable[[str], None] | None = None) -> T:
    """The result of `work`. SIGINT and SIGTERM cancel it once, and exit with 128 + their number (SystemExit).

    With `on_signal`, the first signal only calls that, with the signal's name, for work that should not be interrupted.
    Ignored signals stay ignored.
    """
    before = {name: each for name in _SIGNALS if (each := signal.getsignal(name)) is not signal.SIG_IGN}
    caught: list[signal.Signals] = []
    first = [on_signal] if on_signal is not None else []

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def handle(name: signal.Signals) -> None:
            if first:
                first.pop()(name.name)
                return
            if not caught:
                task.cancel()
            caught.append(name)

        for name in before:
            loop.add_signal_handler(name, handle, name)
        try:
            return await work
        finally:
            for name in before:
                loop.remove_signal_handler(name)
                # The caller's clean-up is not interrupted again.
                signal.signal(name, signal.SIG_IGN if caught else before[name])

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        if caught:
            sys.exit(of_signal(caught[0]))
        raise
