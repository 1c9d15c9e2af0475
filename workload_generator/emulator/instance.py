"""One instance of a function: a process, from its start to its end.

Rules:
- it is probed every 5 ms until it is ready, so that probing adds no steps to cold-start times (Knative's queue-proxy
  probes aggressively for the same reason: pkg/queue/readiness/probe.go)
- it ends with the platform, by SIGKILL
- one thread that lives as long as the platform starts all processes: a fork takes milliseconds, which the event loop
  would add to the latency of every request in flight
- its owner gets `on_ready` at most once and `on_gone` exactly once
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
from functools import partial
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
_MOST_NAME = 63  # of a host, as in Kubernetes
_PROBE_INTERVAL_S = 0.005
_PROBE_TIMEOUT_S = 1.0
_PROBE = f"GET {READY_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
_STOP_S = 10.0
_PIPE_BYTES = 65536
_OUTPUT_BYTES = 4096
_REASON_CHARACTERS = 300


class InstanceState(StrEnum):
    """The life cycle of an instance."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


class Waiting(OrderedDict["asyncio.Future[Instance | None]", None]):
    """A queue of requests, each by the future that gets its instance."""

    def dissolve(self) -> None:
        """Have all requests placed again."""
        while self:
            turn, _ = self.popitem(last=False)
            if not turn.done():
                turn.set_result(None)


@dataclass(frozen=True, slots=True)
class SharedResources:
    """What all services of a platform share."""

    events: PlatformEvents
    spawner: Executor
    draw: random.Random
    free_slots: Callable[[], int]
    """How many more instances may be started."""


class InstanceOwner(Protocol):
    """The service of an instance, which gets its transitions."""

    name: str
    function: Function
    settings: Settings
    resources: SharedResources

    def on_ready(self, instance: Instance) -> None:
        """It can get requests from now on."""

    def on_gone(self, instance: Instance) -> None:
        """Its process has ended or could not be started; `failure` is the reason unless the platform stopped it."""


class Instance:
    """State of one instance. Its service keeps `in_flight` and `queue`."""

    def __init__(self, number: int, owner: InstanceOwner) -> None:
        suffix = f"-00001-deployment-{owner.resources.draw.getrandbits(40):010x}-{number}"
        self.name = owner.name[: _MOST_NAME - len(suffix)] + suffix
        self.number = number
        self.state = InstanceState.STARTING
        self.failure: str | None = None
        self.killed = False  # by an injected fault, which does not count as a failure of the function
        self.in_flight = 0
        self.served = 0
        self.queue = Waiting()
        self._idle: list[InstanceConnection] = []
        self._port = 0
        self._owner = owner
        self._phases: dict[str, int] = {}  # when each was reached, in monotonic nanoseconds
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._output = b""
        self._exited = asyncio.Event()

    def start(self, slow_start_ns: int) -> None:
        """Start the process; `slow_start_ns` is an injected fault. Its owner gets the outcome."""
        self.running = self._loop.create_task(self._run(slow_start_ns / NS_PER_S))

    def drain(self) -> None:
        """Stop it once the requests in flight are answered."""
        if self.state is InstanceState.READY and self.in_flight:
            self.state = InstanceState.DRAINING
        else:
            self.stop()

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL if it does not end."""
        if self.state is InstanceState.STOPPING:
            return
        self.state = InstanceState.STOPPING
        self.close_idle()
        self._signal(signal.SIGTERM)
        self._loop.call_later(_STOP_S, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """End it at once, as an injected fault."""
        self.killed = True
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """End it at once."""
        self.state = InstanceState.STOPPING
        self._signal(signal.SIGKILL)

    async def forward(self, request: ProxiedRequest) -> None:
        """Send the request, and its response to the client. Raises OSError, NotSent, RequestRefused."""
        if self._idle and self._idle[-1].usable:
            connection = self._idle.pop()
        else:
            self.close_idle()
            on_first_byte = partial(self._reach, "first_byte")
            connect = self._loop.create_connection
            _, connection = await connect(lambda: InstanceConnection(self.name, on_first_byte), LOOPBACK, self._port)
        try:
            await connection.forward(request)
            self.served += 1
        finally:
            if connection.reusable:
                self._idle.append(connection)
            else:
                connection.abort()

    def close_idle(self) -> None:
        """Close the connections without a request."""
        while self._idle:
            self._idle.pop().abort()

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it. Phases are wall clock, and milliseconds since the spawn."""
        phases: dict[str, Any] = {}
        for name in _PHASES:
            at_ns = self._phases.get(name)
            phases[name] = None if at_ns is None else self._owner.resources.events.wall(at_ns)
            if name != "spawn":
                ms = None if at_ns is None else round((at_ns - self._phases["spawn"]) / NS_PER_MS, 3)
                phases[f"{name}_ms"] = ms
        return {
            "name": self.name,
            "state": self.state,
            "pid": None if self._process is None else self._process.pid,
            "port": self._port,
            "in_flight": self.in_flight,
            "queued": len(self.queue),
            "served": self.served,
            "phases": phases,
        }

    # From its start to its end

    async def _run(self, slow_start_s: float) -> None:
        try:
            with reserve_port(self._owner.resources.draw) as reserved:
                self._port = reserved.getsockname()[1]
                await self._spawn()
                await self._become_ready(slow_start_s)
                await self._exited.wait()
                self._report_exit()
        except (OSError, subprocess.SubprocessError, BenchError) as error:
            self.failure = f"cannot be started: {error}"
        self._owner.on_gone(self)

    async def _spawn(self) -> None:
        self._phases["spawn"] = spawn_ns = monotonic_ns()
        self._process = process = await self._loop.run_in_executor(self._owner.resources.spawner, self._popen)
        assert process.stdout is not None
        self._stdout = process.stdout
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        os.set_blocking(self._stdout.fileno(), False)
        self._loop.add_reader(self._stdout, self._on_output)
        self._add_event("spawned", f"process {process.pid}, port {self._port}", at_ns=spawn_ns)
        if self.state is not InstanceState.STARTING:  # it was stopped during the fork
            self._signal(signal.SIGKILL)

    def _popen(self) -> subprocess.Popen[bytes]:
        service = self._owner.name
        environment = {
            "K_SERVICE": service,
            "K_CONFIGURATION": service,
            "K_REVISION": f"{service}-00001",
            **self._owner.settings.env,
            "HOSTNAME": self.name,
            "BIND": LOOPBACK,
            "PORT": str(self._port),
        }
        return start_child(
            self._owner.function.command,
            end_by=signal.SIGKILL,
            cwd=self._owner.function.folder,
            env={**os.environ, **environment},
            bufsize=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,  # a Ctrl-C is for the platform, which ends its functions itself
        )

    async def _become_ready(self, slow_start_s: float) -> None:
        deadline_s = self._owner.settings.progress_deadline_ns / NS_PER_S
        try:
            async with asyncio.timeout(deadline_s):
                while self.state is InstanceState.STARTING:
                    begin_ns = monotonic_ns()
                    if await self._probe():
                        break
                    left_s = _PROBE_INTERVAL_S - (monotonic_ns() - begin_ns) / NS_PER_S
                    if await self._exits_within(max(left_s, 0.001)):
                        return
                if await self._exits_within(slow_start_s):
                    return
        except TimeoutError:
            self.failure = f"was not ready within {deadline_s:g} s"
            self.end()
        if self.state is InstanceState.STARTING:
            self.state = InstanceState.READY
            self._reach("ready", monotonic_ns())
            self._owner.on_ready(self)

    async def _exits_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    async def _probe(self) -> bool:
        """Whether the readiness probe succeeds, by the kubelet's rule: any status from 200 to 399."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            try:
                await self._loop.sock_connect(sock, (LOOPBACK, self._port))
                self._reach("listening", monotonic_ns())
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await self._loop.sock_sendall(sock, _PROBE)
                    answer = await self._loop.sock_recv(sock, 64)
            except (ConnectionError, TimeoutError):
                return False
        return answer.startswith(b"HTTP/1.") and b"200" <= answer[9:12] < b"400"

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._exited.set()

    def _report_exit(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGKILL)  # the rest of its process group, before its number is free again
        ended = exit_text(self._process.wait())
        self._on_output()  # a pipe holds no more than one read
        self._loop.remove_reader(self._stdout)
        self._stdout.close()
        if self.state is not InstanceState.STOPPING and not self.killed and self.failure is None:
            when = "" if "ready" in self._phases else " before it was ready"
            self.failure = f"ended with {ended}{when}{_last_line(text_of(self._output))}"
        self._add_event("exited", self.failure or f"{ended}{' (killed by a fault)' if self.killed else ''}")

    def _on_output(self) -> None:
        """One read only, so that a function that writes without end does not block the loop."""
        data = self._stdout.read(_PIPE_BYTES)
        if data:
            self._output = (self._output + data)[-_OUTPUT_BYTES:]
        elif data is not None:  # the end
            self._loop.remove_reader(self._stdout)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _reach(self, phase: str, now_ns: int) -> None:
        if phase not in self._phases:
            self._phases[phase] = now_ns
            self._add_event(phase.replace("_", "-"), at_ns=now_ns)

    def _add_event(self, kind: str, message: str = "", at_ns: int | None = None) -> None:
        self._owner.resources.events.add(kind, self._owner.name, self.name, message, at_ns)


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {lines[-1].strip()[:_REASON_CHARACTERS]}" if lines else ""
