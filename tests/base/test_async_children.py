"""Child processes of an event loop end, and their exit codes are left to the loop's watcher.

They run on asyncio's own loop, as `kn-bench` does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from workload_generator.base.async_children import end_child


@pytest.mark.parametrize("grace_s", [0.0, 30.0])
def test_the_exit_code_of_a_child_that_ended_just_now_is_left_to_its_watcher(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, grace_s: float
) -> None:
    ending = threading.Event()
    waitpid = os.waitpid

    def late(pid: int, options: int) -> tuple[int, int]:
        ending.wait(60)
        return waitpid(pid, options)

    async def ended() -> int | None:
        process = await asyncio.create_subprocess_exec("true")
        await asyncio.to_thread(os.waitid, os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        asyncio.get_running_loop().call_soon(ending.set)
        await end_child(process, grace_s)
        return process.returncode

    monkeypatch.setattr(os, "waitpid", late)  # the watcher's: it comes last
    assert asyncio.run(ended()) == 0
    assert [record.getMessage() for record in caplog.records] == []


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    async def ended() -> int | None:
        script = "trap '' TERM; echo ready; exec sleep 600"
        process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None and await process.stdout.readline() == b"ready\n"
        await end_child(process, 0.1)
        return process.returncode

    assert asyncio.run(ended()) == -signal.SIGKILL
