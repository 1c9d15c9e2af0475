"""One instance of a function: a real process, from its start to its end.

Rules:
- it is probed every 5 ms until it is ready, so that cold starts are not cut into steps by the probing (Knative's
  queue-proxy probes aggressively for the same reason: pkg/queue/readiness/probe.go)
- it dies with the platform, by SIGKILL: when that is gone nobody waits for answers
- processes are started by one thread that lives as long as the platform: a fork takes milliseconds, which would be
  latency of every request in flight
- whoever waits for it is told exactly once that it is ready, if it ever is, and exactly once that it is gone
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import start_child
from workload_generator.emulator.exchange import Exchange
from workload_generator.emulator.journal import Journal
from workload_generator.emulator.ports import Port, reserve_port
from workload_generator.emulator.process import READY_PATH
from workload_generator.emulator.upstream import Upstream
from workload_generator.functions.catalog import Function
from workload_generator.log.format import text_of

HOST = "127.0.0.1"

_PROBE_INTERVAL_S = 0.005
_PROBE_TIMEOUT_S = 1.0
_PROBE = f"GET {READY_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
_STOP_S = 10.0
_IDLE_NS = 4 * NS_PER_S  # Node.js and uvicorn close idle connections after 5 s: never send into that
_OUTPUT_BYTES = 4096
_MOST_READS = 16
_REASON_CHARACTERS = 300


class State(StrEnum):
    """Where an instance is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    GONE = "gone"


class Owner(Protocol):
    """Who is told what becomes of an instance."""

    def on_ready(self, instance: Instance) -> None:
        """It may have requests from now on."""

    def on_gone(self, instance: Instance) -> None:
        """Its process has ended, or never began; `failure` says why when nobody asked it to."""


@dataclass(slots=True)
class Phases:
    """Monotonic readings of a start; None was not reached. `spawn` is just before the fork."""

    spawn_ns: int | None = None
    listening_ns: int | None = None
    ready_ns: int | None = None
    first_byte_ns: int | None = None

    def to_json(self, journal: Journal) -> dict[str, Any]:
        """Each as wall clock, and as milliseconds since the spawn."""
        result: dict[str, Any] = {}
        for name in self.__slots__:
            at_ns: int | None = getattr(self, name)
            label = name.removesuffix("_ns")
            result[label] = None if at_ns is None else journal.wall(at_ns)
            if label != "spawn":
                since = None if at_ns is None or self.spawn_ns is None else (at_ns - self.spawn_ns) / NS_PER_MS
                result[f"{label}_ms"] = None if since is None else round(since, 3)
        return result


class Instance:
    """State of one instance. `in_flight` and `queue` are its service's business."""

    def __init__(
        self,
        name: str,
        number: int,
        service: str,
        function: Function,
        environment: Mapping[str, str],
        owner: Owner,
        journal: Journal,
    ) -> None:
        self.name = name
        self.number = number
        self.state = State.STARTING
        self.phases = Phases()
        self.failure: str | None = None
        self.killed = False  # by a fault: its end is no failure of the function
        self.in_flight = 0
        self.served = 0
        self.queue: OrderedDict[Exchange, None] = OrderedDict()
        self.idle: list[Upstream] = []
        self.header = b"x-platform-instance: %s\r\n" % name.encode()
        self.pid: int | None = None
        self.port = 0
        self._service = service
        self._function = function
        self._reserved: Port | None = None
        self._environment = environment
        self._owner = owner
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._output_fd = -1
        self._output = b""
        self._exited = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._kill_timer: asyncio.TimerHandle | None = None

    def start(self, draw: random.Random, spawner: Executor, deadline_ns: int, slow_start_ns: int) -> None:
        """Begin: the owner is told the rest. The port is drawn; `slow_start_ns` is a fault."""
        deadline_s, slow_start_s = deadline_ns / NS_PER_S, slow_start_ns / NS_PER_S
        self._starting = self._loop.create_task(self._start(draw, spawner, deadline_s, slow_start_s))

    def drain(self) -> None:
        """No new requests; it is stopped when those in flight are answered."""
        if self.state is State.READY and self.in_flight:
            self.state = State.DRAINING
        else:
            self.stop()

    def stop(self) -> None:
        """End it: politely first, then for certain."""
        if self.state in (State.STOPPING, State.GONE):
            return
        self.state = State.STOPPING
        self.close_idle()
        if self._process is not None:
            self._signal(signal.SIGTERM)
            self._kill_timer = self._loop.call_later(_STOP_S, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, as a fault."""
        self.killed = True
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """End it at once, as the platform ends."""
        self.state = State.STOPPING
        self._signal(signal.SIGKILL)

    async def gone(self) -> None:
        """Wait for its end."""
        await self._exited.wait()

    def first_byte(self, now_ns: int) -> None:
        """The first byte of a response arrived. The first of all is an event."""
        if self.phases.first_byte_ns is None:
            self.phases.first_byte_ns = now_ns
            self._note("first-byte", at_ns=now_ns)

    def idle_connection(self) -> Upstream | None:
        """A connection that can be used at once: the last that was. Functions close what is idle for long."""
        if not self.idle:
            return None
        connection = self.idle.pop()
        if monotonic_ns() - connection.idle_since_ns < _IDLE_NS:
            return connection
        self.idle.append(connection)
        self.close_idle()
        return None

    def close_idle(self) -> None:
        """Close the connections that no request uses."""
        connections, self.idle = self.idle, []
        for connection in connections:
            connection.close()

    @property
    def output(self) -> str:
        """The end of what it wrote to its standard output and error."""
        return text_of(self._output)

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it."""
        return {
            "name": self.name,
            "state": self.state,
            "pid": self.pid,
            "port": self.port,
            "in_flight": self.in_flight,
            "queued": len(self.queue),
            "served": self.served,
            "phases": self.phases.to_json(self._journal),
        }

    # Starting

    async def _start(self, draw: random.Random, spawner: Executor, deadline_s: float, slow_start_s: float) -> None:
        try:
            self._reserved = reserve_port(draw)
            self.port = self._reserved.number
            await self._spawn(spawner)
            async with asyncio.timeout(deadline_s):
                await self._until_ready()
                await asyncio.sleep(slow_start_s)
        except TimeoutError:
            self._fail(f"was not ready within {deadline_s:g} s")
            return
        except (OSError, subprocess.SubprocessError, BenchError) as error:
            self._fail(f"cannot be started: {error}")
            return
        if self.state is State.STARTING:
            self.state = State.READY
            self.phases.ready_ns = monotonic_ns()
            self._note("ready", at_ns=self.phases.ready_ns)
            self._owner.on_ready(self)

    async def _spawn(self, spawner: Executor) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        self.phases.spawn_ns = monotonic_ns()
        try:
            process, self._pidfd = await self._loop.run_in_executor(spawner, self._popen, write_fd)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self._process = process
        self.pid = process.pid
        self._output_fd = read_fd
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._output_fd, self._on_output)
        self._note("spawned", f"process {self.pid}, port {self.port}", at_ns=self.phases.spawn_ns)
        if self.state is not State.STARTING:  # it was stopped before it began
            self._signal(signal.SIGKILL)

    def _popen(self, output: int) -> tuple[subprocess.Popen[bytes], int]:
        """The process and its pidfd; both, or neither."""
        process = start_child(
            self._function.command,
            end_by=signal.SIGKILL,
            cwd=self._function.folder,
            env={**os.environ, **self._environment, "PORT": str(self.port)},
            stdout=output,
            stderr=output,
            process_group=0,  # a Ctrl-C is for the platform; it ends its functions itself
        )
        try:
            return process, os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise

    async def _until_ready(self) -> None:
        while self.state is State.STARTING and not self._exited.is_set():
            begin_ns = monotonic_ns()
            if await self._probe():
                return
            left_s = _PROBE_INTERVAL_S - (monotonic_ns() - begin_ns) / NS_PER_S
            await asyncio.sleep(max(left_s, 0.001))

    async def _probe(self) -> bool:
        """Whether it says that it is ready."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                await self._loop.sock_connect(sock, (HOST, self.port))
                if self.phases.listening_ns is None:
                    self.phases.listening_ns = monotonic_ns()
                    self._note("listening", at_ns=self.phases.listening_ns)
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await self._loop.sock_sendall(sock, _PROBE)
                    answer = await self._loop.sock_recv(sock, 64)
            except ConnectionError:
                return False
            except TimeoutError:
                return False
        return answer.startswith(b"HTTP/1.") and b"200" <= answer[9:12] < b"400"  # as the kubelet sees it

    def _fail(self, reason: str) -> None:
        """The start has come to nothing."""
        if self._exited.is_set():
            return
        self.failure = reason
        if self._process is None:
            self._conclude()
        else:
            self.state = State.STOPPING
            self._signal(signal.SIGKILL)

    # Ending

    def _on_exit(self) -> None:
        assert self._process is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._signal(signal.SIGKILL)  # whatever is left of its process group, while its number is still ours
        code = self._process.wait()
        for _ in range(_MOST_READS):
            if self._output_fd >= 0:
                self._on_output()
        self._close_output()
        if self.state is not State.STOPPING and not self.killed and self.failure is None:
            when = "" if self.phases.ready_ns is not None else " before it was ready"
            self.failure = f"ended with {_exit_text(code)}{when}{_last_line(self.output)}"
        self._journal_exit(code)
        self._conclude()

    def _journal_exit(self, code: int) -> None:
        why = " (killed by a fault)" if self.killed else ""
        self._note("exited", self.failure or f"{_exit_text(code)}{why}")

    def _conclude(self) -> None:
        self.state = State.GONE
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._reserved is not None:
            self._reserved.release()
        self._exited.set()
        self._owner.on_gone(self)

    def _on_output(self) -> None:
        """One read, so that a function that never stops talking cannot keep the loop."""
        with contextlib.suppress(BlockingIOError):  # that was all for now
            data = os.read(self._output_fd, 65536)
            if data:
                self._output = (self._output + data)[-_OUTPUT_BYTES:]
            else:
                self._close_output()

    def _close_output(self) -> None:
        fd, self._output_fd = self._output_fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _note(self, kind: str, message: str = "", at_ns: int | None = None) -> None:
        self._journal.add(kind, self._service, self.name, message, at_ns)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {lines[-1].strip()[:_REASON_CHARACTERS]}" if lines else ""
