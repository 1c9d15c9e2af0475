"""One instance of a function: a process, from its start to its end.

Rules:
- it is probed every 5 ms until it is ready, so that probing adds no steps to cold-start times (Knative's queue-proxy
  probes aggressively for the same reason: pkg/queue/readiness/probe.go)
- it ends with the platform, by SIGKILL
- one thread that lives as long as the platform starts all processes: a fork takes milliseconds, which the event loop
  would add to the latency of every request in flight
- its observer gets `on_ready` at most once and `on_gone` exactly once
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
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import exit_text, start_child
from workload_generator.emulator.instance_connection import InstanceConnection
from workload_generator.emulator.platform_events import PlatformEvents
from workload_generator.emulator.ports import LOOPBACK, reserve_port
from workload_generator.emulator.proxied_request import ProxiedRequest
from workload_generator.emulator.settings import Settings
from workload_generator.functions.catalog import Function
from workload_generator.log.format import text_of

READY_PATH = "/health/readiness"

_PHASES = ("spawn", "listening", "ready", "first_byte")  # `spawn` is just before the fork
_PROBE_INTERVAL_S = 0.005
_PROBE_TIMEOUT_S = 1.0
_PROBE = f"GET {READY_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
_STOP_S = 10.0
_IDLE_NS = 4 * NS_PER_S  # Node.js and uvicorn close idle connections after 5 s: do not send into that
_OUTPUT_BYTES = 4096
_MOST_READS = 16
_REASON_CHARACTERS = 300


class InstanceState(StrEnum):
    """The life cycle of an instance."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    GONE = "gone"


class InstanceObserver(Protocol):
    """Gets the transitions of an instance."""

    def on_ready(self, instance: Instance) -> None:
        """It can get requests from now on."""

    def on_gone(self, instance: Instance) -> None:
        """Its process has ended or could not be started; `failure` is the reason unless the platform stopped it."""


@dataclass(frozen=True, slots=True)
class SharedResources:
    """What all services of a platform share."""

    events: PlatformEvents
    spawner: Executor
    draw: random.Random
    free_slots: Callable[[], int]
    """How many more instances may be started."""


class Instance:
    """State of one instance. Its service keeps `in_flight`, `served` and `queue`."""

    def __init__(
        self,
        number: int,
        service: str,
        function: Function,
        settings: Settings,
        observer: InstanceObserver,
        resources: SharedResources,
    ) -> None:
        self.name = f"{service}-00001-deployment-{resources.draw.getrandbits(40):010x}-{number}"
        self.number = number
        self.state = InstanceState.STARTING
        self.failure: str | None = None
        self.killed = False  # by an injected fault, which does not count as a failure of the function
        self.in_flight = 0
        self.served = 0
        self.queue: OrderedDict[ProxiedRequest, None] = OrderedDict()
        self.idle: list[InstanceConnection] = []
        self.header = b"x-platform-instance: %s\r\n" % self.name.encode()
        self.port = 0
        self._service = service
        self._function = function
        self._settings = settings
        self._phases: dict[str, int] = {}  # when each was reached, in monotonic nanoseconds
        self._observer = observer
        self._resources = resources
        self._loop = asyncio.get_running_loop()
        self._reserved: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._output_fd = -1
        self._output = b""
        self._exited = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._kill_timer: asyncio.TimerHandle | None = None

    def start(self, slow_start_ns: int) -> None:
        """Start the process; `slow_start_ns` is an injected fault. The observer gets the outcome."""
        self._starting = self._loop.create_task(self._start(slow_start_ns / NS_PER_S))

    def drain(self) -> None:
        """Stop it once the requests in flight are answered."""
        if self.state is InstanceState.READY and self.in_flight:
            self.state = InstanceState.DRAINING
        else:
            self.stop()

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL if it does not end."""
        if self.state in (InstanceState.STOPPING, InstanceState.GONE):
            return
        self.state = InstanceState.STOPPING
        self.close_idle()
        if self._process is not None:
            self._signal(signal.SIGTERM)
            self._kill_timer = self._loop.call_later(_STOP_S, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, as an injected fault."""
        self.killed = True
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """End it at once."""
        self.state = InstanceState.STOPPING
        self._signal(signal.SIGKILL)

    async def gone(self) -> None:
        """Wait for its end."""
        await self._exited.wait()

    def on_first_byte(self, now_ns: int) -> None:
        """The first byte of a response arrived."""
        self._reach("first_byte", now_ns)

    def idle_connection(self) -> InstanceConnection | None:
        """The idle connection that was used last, unless the function may be about to close it."""
        if not self.idle:
            return None
        if monotonic_ns() - self.idle[-1].idle_since_ns < _IDLE_NS:
            return self.idle.pop()
        self.close_idle()
        return None

    def close_idle(self) -> None:
        """Close the connections without a request."""
        connections, self.idle = self.idle, []
        for connection in connections:
            connection.close()

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it. Phases are wall clock, and milliseconds since the spawn."""
        phases: dict[str, Any] = {}
        for name in _PHASES:
            at_ns = self._phases.get(name)
            phases[name] = None if at_ns is None else self._resources.events.wall(at_ns)
            if name != "spawn":
                ms = None if at_ns is None else round((at_ns - self._phases["spawn"]) / NS_PER_MS, 3)
                phases[f"{name}_ms"] = ms
        return {
            "name": self.name,
            "state": self.state,
            "pid": None if self._process is None else self._process.pid,
            "port": self.port,
            "in_flight": self.in_flight,
            "queued": len(self.queue),
            "served": self.served,
            "phases": phases,
        }

    # Starting

    async def _start(self, slow_start_s: float) -> None:
        deadline_s = self._settings.progress_deadline_ns / NS_PER_S
        try:
            self._reserved = reserve_port(self._resources.draw)
            self.port = self._reserved.getsockname()[1]
            await self._spawn()
            async with asyncio.timeout(deadline_s):
                await self._until_ready()
                await asyncio.sleep(slow_start_s)
        except TimeoutError:
            self._fail(f"was not ready within {deadline_s:g} s")
            return
        except (OSError, subprocess.SubprocessError, BenchError) as error:
            self._fail(f"cannot be started: {error}")
            return
        if self.state is InstanceState.STARTING:
            self.state = InstanceState.READY
            self._reach("ready", monotonic_ns())
            self._observer.on_ready(self)

    async def _spawn(self) -> None:
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(read_fd, False)
        self._phases["spawn"] = spawn_ns = monotonic_ns()
        try:
            process, self._pidfd = await self._loop.run_in_executor(self._resources.spawner, self._popen, write_fd)
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        self._process = process
        self._output_fd = read_fd
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._output_fd, self._on_output)
        self._add_event("spawned", f"process {process.pid}, port {self.port}", at_ns=spawn_ns)
        if self.state is not InstanceState.STARTING:  # it was stopped during the fork
            self._signal(signal.SIGKILL)

    def _popen(self, output: int) -> tuple[subprocess.Popen[bytes], int]:
        """The process and its pidfd; both, or neither."""
        environment = {
            "K_SERVICE": self._service,
            "K_CONFIGURATION": self._service,
            "K_REVISION": f"{self._service}-00001",
            **self._settings.env,
            "HOSTNAME": self.name,
            "BIND": LOOPBACK,
            "PORT": str(self.port),
        }
        process = start_child(
            self._function.command,
            end_by=signal.SIGKILL,
            cwd=self._function.folder,
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            process_group=0,  # a Ctrl-C is for the platform, which ends its functions itself
        )
        try:
            return process, os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise

    async def _until_ready(self) -> None:
        while self.state is InstanceState.STARTING and not self._exited.is_set():
            begin_ns = monotonic_ns()
            if await self._probe():
                return
            left_s = _PROBE_INTERVAL_S - (monotonic_ns() - begin_ns) / NS_PER_S
            await asyncio.sleep(max(left_s, 0.001))

    async def _probe(self) -> bool:
        """Whether the readiness probe succeeds, by the kubelet's rule: any status from 200 to 399."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                await self._loop.sock_connect(sock, (LOOPBACK, self.port))
                self._reach("listening", monotonic_ns())
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await self._loop.sock_sendall(sock, _PROBE)
                    answer = await self._loop.sock_recv(sock, 64)
            except (ConnectionError, TimeoutError):
                return False
        return answer.startswith(b"HTTP/1.") and b"200" <= answer[9:12] < b"400"

    def _fail(self, reason: str) -> None:
        """The start failed."""
        if self._exited.is_set():
            return
        self.failure = reason
        if self._process is None:
            self._conclude()
        else:
            self.end()

    # Ending

    def _on_exit(self) -> None:
        assert self._process is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._signal(signal.SIGKILL)  # the rest of its process group, before its number is free again
        code = self._process.wait()
        for _ in range(_MOST_READS):
            if self._output_fd >= 0:
                self._on_output()
        self._close_output()
        ended = exit_text(code)
        if self.state is not InstanceState.STOPPING and not self.killed and self.failure is None:
            when = "" if "ready" in self._phases else " before it was ready"
            self.failure = f"ended with {ended}{when}{_last_line(text_of(self._output))}"
        self._add_event("exited", self.failure or f"{ended}{' (killed by a fault)' if self.killed else ''}")
        self._conclude()

    def _conclude(self) -> None:
        self.state = InstanceState.GONE
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._reserved is not None:
            self._reserved.close()
        self._exited.set()
        self._observer.on_gone(self)

    def _on_output(self) -> None:
        """One read only, so that a function that writes without end does not block the loop."""
        with contextlib.suppress(BlockingIOError):
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

    def _reach(self, phase: str, now_ns: int) -> None:
        if phase not in self._phases:
            self._phases[phase] = now_ns
            self._add_event(phase.replace("_", "-"), at_ns=now_ns)

    def _add_event(self, kind: str, message: str = "", at_ns: int | None = None) -> None:
        self._resources.events.add(kind, self._service, self.name, message, at_ns)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {lines[-1].strip()[:_REASON_CHARACTERS]}" if lines else ""
