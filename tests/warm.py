"""Commands as processes that need not load their modules.

Most of what a short run of ours costs is the loading of modules. A server loads them once and forks for each command.
The fork is a process of its own: its environment, streams, signals, limits and exit code are as the user has them, and
it runs what the console script runs. Only its start is missing: a test of that starts `python -m workload_generator`.

Rules:
- the server has one thread and no event loop, so that it may fork
- beside each command there is a keeper, which waits for it and tells its id and its exit code
- the server ends with the process of the tests; keepers and commands are killed when it does
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.subprocesses import die_with_parent

_MOST_BYTES = 1 << 18


class Process:
    """A command that was started, with what the tests use of `asyncio.subprocess.Process`."""

    def __init__(
        self, pid: int, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader, told: asyncio.StreamReader
    ) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self._told = told
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
        self.returncode = int(await self._told.read())
        return self.returncode


async def start(*arguments: str, environment: Mapping[str, str], constants: Mapping[str, Any] | None = None) -> Process:
    """Start `workload-generator` in this folder, with pipes for its output.

    `constants` replace those of its modules, each under a name such as `run.runner._GRACE_S`.
    """
    readers, ends = [], []
    for _ in range(3):
        ours, theirs = os.pipe()
        ends.append(theirs)
        readers.append(await _reader(ours))
    command = {
        "arguments": arguments,
        "environment": dict(environment),
        "folder": os.getcwd(),
        "constants": constants or {},
    }
    socket.send_fds(_server(), [orjson.dumps(command)], ends)
    for each in ends:
        os.close(each)
    stdout, stderr, told = readers
    pid = await told.readline()
    assert pid, "the server of tests/warm.py has ended: its standard error says why"
    return Process(int(pid), stdout, stderr, told)


class _Pipe(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # there is no other direction to keep the transport for


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = _Pipe(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb"))
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
            start_new_session=True,  # a Ctrl-C is for the tests, which end it
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# In the server


def _serve(requests: socket.socket) -> None:
    """Return in the process of a command, ready to run it."""
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


def _keep(request: bytes, descriptors: list[int]) -> None:
    stdout, stderr, tell = descriptors
    arrange = die_with_parent(signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        arrange()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for each in descriptors:
            os.close(each)
        command = orjson.loads(request)
        os.environ.clear()
        os.environ.update(command["environment"])
        os.chdir(command["folder"])
        for name, value in command["constants"].items():
            module, _, constant = name.rpartition(".")
            where = sys.modules[f"workload_generator.{module}"]
            assert hasattr(where, constant), name
            setattr(where, constant, value)
        sys.argv[1:] = command["arguments"]
        return
    os.close(stdout)
    os.close(stderr)
    with contextlib.suppress(BrokenPipeError):  # the test is over
        os.write(tell, b"%d\n" % pid)
        os.write(tell, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


if __name__ == "__main__":
    import cloudevents.core.bindings.http  # noqa: F401 - these are what takes the time

    import workload_generator.coldstart.connect
    import workload_generator.commands.workload_generator
    import workload_generator.run.execute
    import workload_generator.run.serve  # noqa: F401
    from workload_generator.__main__ import workload_generator as run

    _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.exit(run())
