"""Embedded platforms in the process of the test, with functions for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import yaml

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.control_token import token_file
from workload_generator.base.listening import BACKLOG, listen
from workload_generator.emulator import autoscaler, service
from workload_generator.emulator.platform import EmbeddedPlatform
from workload_generator.emulator.platform_events import PlatformEvent
from workload_generator.emulator.settings import load_config
from workload_generator.functions.catalog import Entry, Function

DOMAIN = "functions.svc.cluster.local"
FUNCTION = "odd-python-http"
SOON: dict[str, Any] = {"window_s": 0.1, "tick-interval": "20ms"}
"""Settings for scale to zero within a fifth of a second."""
CALMLY: dict[str, Any] = {"window_s": 0.5, "tick-interval": "20ms"}
"""The same for tests in which a pause of a busy machine must not cause scale to zero."""


def functions() -> dict[str, Function]:
    """`function.py`, and a function that is not built."""
    entry = Entry(name=FUNCTION, language="python", framework="none", image="odd", run=f"{sys.executable} function.py")
    unbuilt = replace(entry, name="empty-cobol-http", produces=("program",))
    return {each.name: Function(each, Path(__file__).parent) for each in (entry, unbuilt)}


def catalog_of(folder: Path, *names: str) -> Path:
    """A functions folder with `function.py` under these names; it starts five times as fast as uvicorn."""
    if not folder.exists():
        common = {"language": "python", "framework": "none", "image": "odd"}
        run = f"{sys.executable} {Path(__file__).parent / 'function.py'}"
        folder.mkdir()
        for name in names:
            (folder / name).mkdir()
        entries = [{"name": name, "run": run, **common} for name in names]
        (folder / "catalog.yaml").write_text(yaml.safe_dump({"functions": entries}))
    return folder


class Local:
    """A running platform, and requests to it."""

    def __init__(self, platform: EmbeddedPlatform, port: int, token: str, events: list[PlatformEvent]) -> None:
        self.platform = platform
        self.port = port
        self.token = token
        self.url = f"http://127.0.0.1:{port}"
        self.events = events

    async def raw(self, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection on which these bytes were sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for piece in pieces:
            writer.write(piece)
        return reader, writer

    async def all(self, *pieces: bytes) -> bytes:
        """Everything that comes back until the end of the connection."""
        reader, writer = await self.raw(*pieces)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def ask(
        self, path: str = "/", service: str = f"{FUNCTION}-0", method: str = "GET", body: bytes = b"", extra: str = ""
    ) -> Answer:
        """One request on a connection of its own."""
        host = service if service == "localhost" else f"{service}.{DOMAIN}"
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}"
        head += f"Content-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        return Answer(await self.all(head.encode() + body))

    async def own(self, path: str = "", method: str = "GET", body: Any = None) -> Answer:
        """A request to the control interface."""
        data = b"" if body is None else body.encode() if isinstance(body, str) else orjson.dumps(body)
        extra = f"Authorization: Bearer {self.token}\r\n"
        return await self.ask(f"/_platform{path}", "localhost", method, data, extra)

    async def state(self, service: str = f"{FUNCTION}-0") -> dict[str, Any]:
        """The service as `/_platform` shows it."""
        services: dict[str, dict[str, Any]] = (await self.own()).json()["services"]
        return services[service]

    def kinds(self, service: str = f"{FUNCTION}-0") -> list[str]:
        """What happened to the service, in order."""
        return [event.kind for event in self.events if event.service == service]


class Answer:
    """A parsed response."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1]) if raw else 0
        self.pairs = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines[1:])]
        self.headers = dict(self.pairs)
        self.text = self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def ms(self) -> tuple[float, float, float]:
        """Queue, start and function time."""
        queue, start, function = (
            float(self.headers[f"x-platform-{name}-ms"]) for name in ("queue", "start", "function")
        )
        return queue, start, function


@contextlib.asynccontextmanager
async def local(
    folder: Path,
    services: Mapping[str, Mapping[str, Any]] | None = None,
    max_instances: int = 20,
    brokers: Mapping[str, Any] | None = None,
    window_s: float | None = None,
    **defaults: Any,
) -> AsyncIterator[Local]:
    """A platform with `defaults` (Knative's names, `_` for `-`) and services; every process has ended afterwards.

    With `window_s`, the autoscaler's sample and stable window are both that many seconds.
    """
    path = folder / "platform.yaml"
    settings = {
        name.replace("_", "-") if name[0].islower() and "_" in name else name: v for name, v in defaults.items()
    }
    path.write_text(yaml.safe_dump({"defaults": settings, "services": services or {}, "brokers": brokers or {}}))
    events: list[PlatformEvent] = []
    known = functions()
    sample_ns = autoscaler.SAMPLE_NS if window_s is None else round(window_s * NS_PER_S)
    flags = {} if window_s is None else {"stable_window_ns": sample_ns}
    with patch.object(autoscaler, "SAMPLE_NS", sample_ns), patch.object(service, "SAMPLE_NS", sample_ns):
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        with patch.dict(os.environ, {"TMPDIR": str(folder)}), token_file(port) as token:
            config = load_config(path, known, flags)
            platform = EmbeddedPlatform(config, known, 1, max_instances, events.append, token)
            loop = asyncio.get_running_loop()
            server = await loop.create_server(platform.connection, sock=listener, backlog=BACKLOG)
            try:
                yield Local(platform, port, token, events)
            finally:
                server.close()
                hurry = asyncio.Event()
                hurry.set()
                await platform.stop(0, hurry)


async def until(condition: Callable[[], bool], within_s: float = 20) -> None:
    """Wait for the condition."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
