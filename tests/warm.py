"""Commands as processes whose modules are already loaded.

Loading modules takes most of the time of a short run. A server loads them once and forks for each command. The fork is
a separate process with the user's environment, streams, signals, limits and exit code, and runs the function of the
console script. It does not cover the interpreter's start: tests of the start run `python -m workload_generator`.

Rules:
- the server has one thread and no event loop, so that it can fork safely
- each command has a keeper process, which waits for it and reports its process id and its exit code
- the server ends with the test process; keepers and commands are killed when the server ends
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.subprocesses import die_with_parent

_MOST_BYTES = 1 << 18


class Process:
    """A started command: the part of `asyncio.subprocess.Process` that tests use."""

    def __init__(
        self, pid: int, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader, status: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = status
        self._ended = asyncio.ensure_future(self._end())

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        stdout, stderr, _ = await asyncio.gather(self.stdout.read(), self.stderr.read(), self.wait())
        return stdout, stderr

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def _end(self) -> int:
        self.returncode = int(await self._status.read())
        return self.returncode


async def start(
    command: str,
    *arguments: str,
    environment: Mapping[str, str],
    constants: Mapping[str, Any] | None = None,
    output: bool = True,
) -> Process:
    """Start a command in this folder; `command` is its function in `workload_generator.__main__`.

    `constants` replace those of its modules, each under a name such as `run.signals.GRACE_S`. Standard output and error
    are pipes, or /dev/null without `output`.
    """
    status, *streams = [os.pipe() for _ in range(3 if output else 1)]
    request = {
        "command": command,
        "arguments": arguments,
        "environment": dict(environment),
        "folder": os.getcwd(),
        "constants": constants or {},
    }
    socket.send_fds(_server(), [orjson.dumps(request)], [theirs for _, theirs in (status, *streams)])
    for _, theirs in (status, *streams):
        os.close(theirs)
    reader = await _reader(status[0])
    stdout, stderr = [await _reader(ours) for ours, _ in streams] if output else (_empty(), _empty())
    pid = await reader.readline()
    assert pid, "the server of tests/warm.py has ended: see its standard error"
    return Process(int(pid), stdout, stderr, reader)


class _Pipe(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # closes the transport: a pipe has no other direction


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = _Pipe(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb"))
    return reader


def _empty() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_eof()
    return reader


@functools.cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C interrupts the tests only; they end the server
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# In the server


def _serve(requests: socket.socket) -> Callable[[], int]:
    """Fork for each request. Returns only in the process of a command, with its function."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not request:
            sys.exit()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        arrange = die_with_parent(signal.SIGKILL)
        if os.fork() == 0:
            requests.close()
            arrange()
            return _keep(request, descriptors)
        for each in descriptors:
            os.close(each)


def _keep(request: bytes, descriptors: list[int]) -> Callable[[], int]:
    """Fork the command and wait for it. Returns only in the process of the command."""
    status, *streams = descriptors
    arrange = die_with_parent(signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        arrange()
        stdout, stderr = streams or (1, 1)  # the server's own standard output is /dev/null
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
        for each in descriptors:
            os.close(each)
        return _command(orjson.loads(request))
    for each in streams:
        os.close(each)
    with contextlib.suppress(BrokenPipeError):  # the test has ended
        os.write(status, b"%d\n" % pid)
        os.write(status, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def _command(request: dict[str, Any]) -> Callable[[], int]:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    for name, value in request["constants"].items():
        module, _, constant = name.rpartition(".")
        where = sys.modules[f"workload_generator.{module}"]
        assert hasattr(where, constant), name
        setattr(where, constant, value)
    sys.argv[1:] = request["arguments"]
    function: Callable[[], int] = getattr(workload_generator.__main__, request["command"])
    return function


if __name__ == "__main__":
    import cloudevents.core.bindings.http  # noqa: F401 - slow to load, and loaded late by the commands

    import workload_generator.__main__
    import workload_generator.coldstart.connect
    import workload_generator.commands.receiver
    import workload_generator.commands.workload_generator
    import workload_generator.eventing.logger
    import workload_generator.eventing.receiver
    import workload_generator.run.execute
    import workload_generator.run.serve

    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1])))())
