"""Child processes of an event loop, and their end.

asyncio's own `terminate` and `kill` take the exit code of a child that has ended just now. Its watcher then finds none,
and logs "Unknown child process pid".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal


async def end_child(process: asyncio.subprocess.Process, grace_s: float = 0.0) -> None:
    """End a child if it still runs: with `grace_s` by SIGTERM first, then by SIGKILL."""
    if grace_s:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_s)
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with contextlib.suppress(ChildProcessError):  # its exit code is on its way; the pid may be another process's
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(process.pid, number)
