"""Running the workload generator in tests and reading its log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests import warm
from tests.listener import Listener
from workload_generator.log import format as log_format

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Process = warm.Process | asyncio.subprocess.Process
BRIEF = {"requestsPerSecond": 500, "duration": "200ms"}
"""A hundred arrivals in a short run."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-instance: pod-1\r\n\r\nfalse"


@contextlib.asynccontextmanager
async def target(answer: Answer) -> AsyncIterator[str]:
    """Run a server on loopback that calls `answer` for each request head; yields its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
        writer.close()

    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener = Listener(sock, lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), serve))
    try:
        yield f"{listener.url}/"
    finally:
        await listener.close()
        await listener.abort()


async def at_once(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


def after(seconds: float) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        writer.write(OK)

    return answer


@dataclass(frozen=True)
class Ran:
    """A finished run: exit code, output, and the decoded lines of its log."""

    code: int
    stdout: str
    stderr: str
    lines: list[dict[str, Any]]

    def requests(self, phase: str | None = None) -> list[dict[str, Any]]:
        return [doc for doc in self.lines if doc["event"] == "request" and phase in (None, doc["phase"])]

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = orjson.loads(self.stdout)
        return summary

    @property
    def trailer(self) -> dict[str, Any]:
        assert self.lines[-1]["event"] == "run_finished", self.lines[-1]
        return self.lines[-1]


class Generator:
    """Runs `workload-generator` as a process with its experiment and logs in `folder`.

    `start`, and the methods that use it, fork with loaded modules and replace their `constants`: see `tests.warm`.
    `start_cold` starts a new interpreter.
    """

    def __init__(self, folder: Path, **constants: Any) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._constants = constants

    def experiment(self, urls: str | list[str], **keys: Any) -> Path:
        """Write an experiment with these YAML keys. Its lag limit is an hour, since the machine is shared."""
        targets = [{"url": url} for url in ([urls] if isinstance(urls, str) else urls)]
        rate = {"requestsPerSecond": 100, "duration": "1s", "rampUp": "0s"} | keys.pop("rate", {})
        path = self.folder / "experiment.yaml"
        path.write_text(yaml.safe_dump({"targets": targets, "rate": rate, "limits": {"lag": "1h"}} | keys))
        return path

    async def start(self, *flags: str) -> warm.Process:
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        words = ["workload_generator", f"--log-dir={self.logs}", *flags]
        return await warm.start(*words, environment=environment, constants=self._constants)

    async def start_cold(self, *flags: str, **options: Any) -> asyncio.subprocess.Process:
        """Start it as a user does; `options` are those of the subprocess."""
        command = [sys.executable, "-m", "workload_generator", f"--log-dir={self.logs}", *flags]
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        pipes = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE} | options
        return await asyncio.create_subprocess_exec(*command, env=environment, **pipes)

    async def finish(self, process: Process) -> Ran:
        stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, (stdout or b"").decode(), (stderr or b"").decode(), self.read_log())

    async def run(self, *flags: str) -> Ran:
        return await self.finish(await self.start("--output=json", "--progress=none", *flags))

    async def run_cold(self, *flags: str, **options: Any) -> Ran:
        return await self.finish(await self.start_cold("--output=json", "--progress=none", *flags, **options))

    async def run_until_sending(self, *flags: str, requests: int = 20) -> warm.Process:
        """Start and wait until the log has this number of requests."""
        process = await self.start("--output=json", "--progress=none", *flags)
        while sum(doc["event"] == "request" for doc in self.read_log()) < requests:
            assert process.returncode is None, await self.finish(process)
            await asyncio.sleep(0.05)
        return process

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the only log, without an incomplete last line."""
        files = list(self.logs.glob("*.log"))
        assert len(files) <= 1, files
        data = files[0].read_bytes() if files else b""
        return [log_format.decode(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    async def wait_for_recorder(self) -> None:
        """After a SIGKILL: wait until no process has the log open, so that the recorder has written all its results."""
        (log,) = self.logs.glob("*.log")
        while any(_has_open(Path(f"/proc/{pid}/fd"), log) for pid in os.listdir("/proc") if pid.isdigit()):
            await asyncio.sleep(0.02)


def one_result_each(ran: Ran) -> None:
    """Assert that every arrival has exactly one result, and that the trailer's counts are those of the log."""
    seqs = Counter(doc["seq"] for doc in ran.requests())
    assert max(seqs.values()) == 1, seqs.most_common(3)
    for phase in ("ping", "ramp", "measure"):
        rows, counts = ran.requests(phase), ran.trailer["counts"][phase]
        assert counts["planned"] == len(rows) == counts["sent"] + counts["dropped"], (phase, counts, len(rows))
        assert counts["sent"] == counts["ok"] + counts["failed"]


_OF_THE_MACHINE = re.compile(
    "event loop stalled|waited for a CPU|hypervisor took|CPU limit|event loop used|clock was set"
)


def held_against(ran: Ran) -> list[str]:
    """The reasons of an invalid verdict, without those that a shared machine causes."""
    assert ran.trailer["verdict"] == ("invalid" if ran.trailer["reasons"] else "valid")
    return [why for why in ran.trailer["reasons"] if not _OF_THE_MACHINE.search(why)]


def valid_but_for_the_machine(ran: Ran) -> None:
    """Assert that the run is valid, or invalid only for reasons that a shared machine causes."""
    assert not held_against(ran) and ran.code == (3 if ran.trailer["reasons"] else 0), ran


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal."""
    return _has_bit(pid, "SigCgt", number)


def awaits(pid: int, number: signal.Signals) -> bool:
    """Whether the signal is pending for the process."""
    return _has_bit(pid, "ShdPnd", number)


def _has_bit(pid: int, mask: str, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    (bits,) = (line.split()[1] for line in status.splitlines() if line.startswith(f"{mask}:"))
    return bool(int(bits, 16) >> (number - 1) & 1)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _has_open(descriptors: Path, log: Path) -> bool:
    try:
        return any(os.readlink(each) == str(log) for each in descriptors.iterdir())
    except OSError:
        return False
