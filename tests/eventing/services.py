"""Receivers and event loggers as separate processes, and a sender of events."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests import warm
from tests.ports import free_port
from tests.support import Process

_RUN = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
SOON_S = 30.0


class Started:
    """One running service. `cold` starts a new interpreter, as a user does; else it is forked: see `tests.warm`."""

    def __init__(self, command: str, port: int, *flags: str, cold: bool = False) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._words = [command, f"--port={port}", "--bind=127.0.0.1", *flags]
        self._cold = cold
        self.process: Process | None = None

    async def start(self) -> Started:
        if self._cold:
            command = [sys.executable, "-c", _RUN.format(self._words[0]), *self._words[1:]]
            self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        else:
            self.process = await warm.start(*self._words, environment=os.environ, output=False)
        async with aiohttp.ClientSession() as session:
            while True:
                assert self.process.returncode is None, f"{self._words[0]} has ended"
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
    """Starts services with their files in `folder`; `end` kills those that still run."""

    def __init__(self, folder: Path) -> None:
        self.data, self.spool = folder / "data", folder / "spool"
        self._started: list[Started] = []

    async def logger(self, port: int | None = None, *flags: str, cold: bool = False) -> Started:
        flags = (f"--data={self.data}", *flags)
        return await self._start(Started("event_logger", port or free_port(), *flags, cold=cold))

    async def receiver(self, logger: str | None, *flags: str, spool: bool = True, cold: bool = False) -> Started:
        places = ([f"--logger={logger}"] if logger else []) + ([f"--spool={self.spool}"] if spool else [])
        return await self._start(Started("receiver", free_port(), *places, *flags, cold=cold))

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
        """Wait until all of them are in the file."""
        async with asyncio.timeout(SOON_S):
            while not ids <= self.ids():
                await asyncio.sleep(0.05)


def headers(event_id: str, **extensions: str) -> dict[str, str]:
    own = {"ce-specversion": "1.0", "ce-id": event_id, "ce-type": "t", "ce-source": "/s"}
    return own | {f"ce-{name}": value for name, value in extensions.items()}


class Load:
    """Sends events over some connections until it is stopped, and records the acknowledged ones."""

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
        """Wait until `count` events are acknowledged."""
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
