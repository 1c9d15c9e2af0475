"""Servers as child processes: started, waited for, and stopped."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError
from workload_generator.base.no_proxy import open_directly
from workload_generator.base.subprocesses import start_child

ANSWER_S = 10.0

_READY_S = 30.0
_POLL_S = 0.02
_STOP_S = 20.0  # the embedded platform's own: 5 s for requests and 5 s for instances


@contextlib.contextmanager
def run_server(
    name: str,
    command: Sequence[str],
    is_ready: Callable[[subprocess.Popen[bytes]], bool],
    log: Path | None = None,
    **popen: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the context is active, ready from its beginning on. Raises BenchError when it never is.

    A Ctrl-C does not reach it. `log` is named in that error as the place of the server's output; `popen` is Popen's.
    """
    process = start_child(command, process_group=0, **popen)
    try:
        deadline = time.monotonic() + _READY_S
        while not is_ready(process):
            output = "" if log is None else f"; its output is in {log}"
            if process.poll() is not None:
                raise BenchError(f"{name} ended with exit code {process.returncode} before it was ready{output}")
            if time.monotonic() > deadline:
                raise BenchError(f"{name} was not ready within {_READY_S:g} s{output}")
            time.sleep(_POLL_S)
        yield process
    finally:
        stop_process(process)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """End a process by SIGTERM, and by SIGKILL if it does not end."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        with open_directly(url, ANSWER_S):
            return True
    except (OSError, http.client.HTTPException):
        return False
