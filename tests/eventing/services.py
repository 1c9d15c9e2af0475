"""Receivers and event loggers as processes of their own, and who sends to them.

They are forked from a process that has loaded their code and done nothing else: loading takes longer than most tests.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import csv
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from tests.ports import free_port

_RUN = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
SOON_S = 30.0
ROOT = Path(__file__).parents[2]


class Process(Protocol):
    """What is needed of `asyncio.subprocess.Process`."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    async def wait(self) -> int: ...


_FORKING = """
import json, os, sys
from workload_generator import __main__ as commands
from workload_generator.commands import receiver as _

for line in sys.stdin:
    asked = json.loads(line)
    if "run" in asked:
        pid = os.fork()
        if pid == 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            code = 1
            try:
                sys.argv = asked["run"]
                code = getattr(commands, asked["run"][0])()
            except SystemExit as stopped:
                code = stopped.code
            finally:
                os._exit(code)
        print(pid, flush=True)
    else:
        pid, status = os.waitpid(asked["ended"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if pid else None, flush=True)
"""


@functools.cache
def _parent() -> subprocess.Popen[str]:
    """Forks services and tells how they ended; one for each worker, which ends with it."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )

    @atexit.register
    def end() -> None:
        process.communicate()

    return process


def _ask(**what: Any) -> int | None:
    parent = _parent()
    assert parent.stdin is not None and parent.stdout is not None
    parent.stdin.write(json.dumps(what) + "\n")
    parent.stdin.flush()
    answer = parent.stdout.readline().strip()
    return None if answer == "None" else int(answer)


class Forked:
    """As `Process`. Its parent keeps it as a zombie until it was asked how it ended, so that its pid stays its own."""

    def __init__(self, *words: str) -> None:
        pid = _ask(run=words)
        assert pid is not None
        self.pid = pid
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        if self._code is None:
            self._code = _ask(ended=self.pid)
        return self._code

    def send_signal(self, number: int) -> None:
        if self._code is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        while (code := self.returncode) is None:
            await asyncio.sleep(0.01)
        return code


class Started:
    """One service while it runs; `loaded` says that it has an interpreter of its own, as a user's."""

    def __init__(self, command: str, port: int, *flags: str, loaded: bool = False) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._words = [command, f"--port={port}", "--bind=127.0.0.1", *flags]
        self._loaded = loaded
        self.process: Process | None = None

    async def start(self) -> Started:
        if self._loaded:
            command = [sys.executable, "-c", _RUN.format(self._words[0]), *self._words[1:]]
            self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        else:
            self.process = Forked(*self._words)
        async with aiohttp.ClientSession() as session:
            while True:
                assert self.process.returncode is None, "it ended"
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/healthz") as response:
                        assert response.status == 200
                        return self
                await asyncio.sleep(0.02)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()


class Services:
    """Starts services with their files in `folder`; `end` ends what is left."""

    def __init__(self, folder: Path) -> None:
        self.data, self.spool = folder / "data", folder / "spool"
        self._started: list[Started] = []

    async def logger(self, port: int | None = None, *flags: str, loaded: bool = False) -> Started:
        flags = (f"--data={self.data}", *flags)
        return await self._start(Started("event_logger", port or free_port(), *flags, loaded=loaded))

    async def receiver(self, logger: str | None, *flags: str, spool: bool = True, loaded: bool = False) -> Started:
        places = ([f"--logger={logger}"] if logger else []) + ([f"--spool={self.spool}"] if spool else [])
        return await self._start(Started("receiver", free_port(), *places, *flags, loaded=loaded))

    async def _start(self, service: Started) -> Started:
        self._started.append(service)
        return await service.start()

    async def end(self) -> None:
        for service in self._started:
            if service.process is not None and service.process.returncode is None:
                await service.end(signal.SIGKILL)

    def rows(self, name: str = "events.csv") -> list[dict[str, str]]:
        path = self.data / name
        return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []

    def ids(self) -> set[str]:
        return {row["event_id"] for row in self.rows()}

    async def wait_for(self, ids: set[str]) -> None:
        """Until all of them are in the file."""
        async with asyncio.timeout(SOON_S):
            while not ids <= self.ids():
                await asyncio.sleep(0.05)


def headers(event_id: str, **extensions: str) -> dict[str, str]:
    own = {"ce-specversion": "1.0", "ce-id": event_id, "ce-type": "t", "ce-source": "/s"}
    return own | {f"ce-{name}": value for name, value in extensions.items()}


class Load:
    """Sends events over some connections until it is stopped; knows which were acknowledged."""

    def __init__(self, url: str, prefix: str = "e", connections: int = 8) -> None:
        self.url = url
        self.acknowledged: set[str] = set()
        self.statuses: dict[int, int] = {}
        self._prefix = prefix
        self._next = 0
        self._connections = connections
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession()
        self._tasks = [asyncio.create_task(self._send()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_: Any) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def until(self, count: int) -> None:
        """So many are acknowledged."""
        async with asyncio.timeout(SOON_S):
            while len(self.acknowledged) < count:
                await asyncio.sleep(0.01)

    async def _send(self) -> None:
        while True:
            event_id = f"{self._prefix}-{self._next}"
            self._next += 1
            try:
                async with self._session.post(self.url, headers=headers(event_id), data=b"{}") as response:
                    self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
                    if response.status // 100 == 2:
                        self.acknowledged.add(event_id)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(0.01)
