"""A run on several cores: worker processes with a shard each, with one start, one live view and one summary.

Rules:
- workers are forks of the command, which has read the experiment and holds the lock; each has its own loop and log
- they start together: when all are ready, each gets the same deadline on the monotonic clock, which they share
- signals come to this process alone, which passes them on; a worker whose parent is killed ends as on SIGTERM
- a worker that dies fails the run; the others finish, and their logs are complete

A worker sends its view, then its summary or its error, as pickles in lines of base64. It receives the deadline.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import orjson
import uvloop

from workload_generator.base.clock import NS_PER_MS, monotonic_ns
from workload_generator.base.errors import BenchError, LogError
from workload_generator.base.subprocesses import die_with_parent, exit_text, signals_held
from workload_generator.engine.endpoint import Endpoint
from workload_generator.log.progress import RELAY, RunProgress, open_progress
from workload_generator.run.plan import RunPlan
from workload_generator.run.runner import LoadRun
from workload_generator.run.signals import STOPPING
from workload_generator.run.summary import RunSummary

_LEAD_NS = 100 * NS_PER_MS


@dataclass(slots=True)
class _Worker:
    """One worker process, as its parent sees it. `death` says how it ended without a summary or an error."""

    index: int
    pid: int
    control: socket.socket
    relayed: socket.socket
    ready: bool = False
    summary: RunSummary | None = None
    error: BenchError | None = None
    death: str | None = None
    beat: dict[str, Any] | None = None
    buffers: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_running(self) -> bool:
        return self.summary is None and self.error is None and self.death is None


class ShardedRun:
    """The workers of one run; `execute` may be called once."""

    def __init__(self, plan: RunPlan, endpoints: list[Endpoint], processes: int) -> None:
        self._plan = plan
        self._endpoints = endpoints
        self._processes = processes
        self._workers: list[_Worker] = []
        self._signal: signal.Signals | None = None
        self._started = False
        self._view: RunProgress | None = None

    def execute(self) -> RunSummary:
        """Run to the end. Raises the error of a worker, or LogError when one died."""
        index, shards = self._plan.shard
        handlers = {name: signal.signal(name, self._on_signal) for name in STOPPING}
        try:
            for number in range(self._processes):
                shard = (index + shards * number, shards * self._processes)
                self._fork(replace(self._plan, shard=shard, ping=self._plan.ping and not number))
            self._attend()
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
        deaths = [f"shard {each.index}: its process {each.death}" for each in self._workers if each.death is not None]
        if deaths:
            raise LogError(f"{'; '.join(deaths)}; the logs of the other shards are complete")
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error
        parts = {worker.index: worker.summary for worker in self._workers if worker.summary is not None}
        return replace(RunSummary.merge(parts), stopped_by=self._signal)

    def _fork(self, plan: RunPlan) -> None:
        """Start a worker. Signals wait until the parent knows it, and in the worker until its run handles them."""
        control, theirs = socket.socketpair()
        relayed, relay = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        arrange = die_with_parent()
        with signals_held() as release:
            pid = os.fork()
            if pid:
                theirs.close()
                relay.close()
                control.setblocking(False)
                relayed.setblocking(False)
                self._workers.append(_Worker(plan.shard[0], pid, control, relayed))
                return
            code = 1
            try:
                os.setpgid(0, 0)  # a Ctrl-C goes to the command, which passes it on
                arrange()
                for sock in (control, relayed, *(each.control for each in self._workers)):
                    sock.close()
                for worker in self._workers:
                    worker.relayed.close()
                code = _work(replace(plan, progress=f"{RELAY}{relay.fileno()}"), self._endpoints, theirs, release)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    # During the run

    def _attend(self) -> None:
        """Serve the workers until all have ended."""
        selector = selectors.DefaultSelector()
        handlers = {"control": self._on_message, "relayed": self._on_beat}
        for worker in self._workers:
            for name in handlers:
                selector.register(getattr(worker, name), selectors.EVENT_READ, (worker, name))
        while selector.get_map():
            for key, _ in selector.select():
                worker, name = key.data
                sock: socket.socket = getattr(worker, name)
                if not self._read(worker, name, sock, handlers[name]):
                    selector.unregister(sock)
                    sock.close()
                    if name == "control":
                        self._on_end(worker)
        if self._view is not None:
            self._view.close()

    def _read(self, worker: _Worker, name: str, sock: socket.socket, handle: Callable[[_Worker, bytes], None]) -> bool:
        """Handle the complete lines of a read. Returns whether more can come."""
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        *lines, worker.buffers[name] = (worker.buffers.get(name, b"") + data).split(b"\n")
        for line in lines:
            handle(worker, line)
        return bool(data)

    def _on_message(self, worker: _Worker, line: bytes) -> None:
        match pickle.loads(base64.b64decode(line)):
            case RunSummary() as summary:
                worker.summary = summary
            case BenchError() as error:
                worker.error = error
            case view:
                worker.ready = True
                if self._view is None:
                    self._view = open_progress(self._plan.progress, view, [])
                self._start_when_ready()

    def _on_end(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if worker.is_running:
            worker.death = f"was ended by {exit_text(code)}" if code < 0 else f"ended with {exit_text(code)}"
        if worker.summary is None and not self._started:
            for other in self._workers:
                with contextlib.suppress(OSError):
                    other.control.shutdown(socket.SHUT_WR)  # ends the others, which wait for the deadline

    def _start_when_ready(self) -> None:
        if self._started or not all(worker.ready for worker in self._workers):
            return
        self._started = True
        line = b"%d\n" % (monotonic_ns() + _LEAD_NS)
        for worker in self._workers:
            with contextlib.suppress(OSError):  # it has just died: `_on_end` follows
                worker.control.send(line)

    def _on_beat(self, worker: _Worker, line: bytes) -> None:
        view = self._view
        if view is None:
            return
        relayed = orjson.loads(line)
        view.merge(*relayed["counts"])
        worker.beat = relayed["beat"]
        running = [each for each in self._workers if each.summary is None and each.death is None]
        beats = [each.beat for each in running if each.beat is not None]
        if beats and len(beats) == len(running):
            view.beat(_merged(beats))
            for each in running:
                each.beat = None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number)
        for worker in self._workers:
            if worker.is_running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)


def _merged(beats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The heartbeats of one second as one."""
    lines = [beat["line"] for beat in beats]
    return {
        "line": {**lines[0], **{name: sum(line[name] for line in lines) for name in ("started", "dropped")}},
        "elapsed_ns": max(beat["elapsed_ns"] for beat in beats),
        "in_flight": sum(beat["in_flight"] for beat in beats),
        "phase": beats[0]["phase"],
    }


# In the worker


def _work(plan: RunPlan, endpoints: list[Endpoint], control: socket.socket, release: Callable[[], None]) -> int:
    """Run one shard and send its summary or error over `control`; returns the exit code."""

    def send(message: object) -> None:
        control.setblocking(True)
        with contextlib.suppress(OSError):  # the parent has ended; the log has everything
            control.sendall(base64.b64encode(pickle.dumps(message)) + b"\n")

    async def gate() -> int | None:
        send(plan.view)
        control.setblocking(False)
        line = await asyncio.get_running_loop().sock_recv(control, 4096)
        if not line:
            raise LogError("the leading process of the run has ended")
        return None if plan.start_wall_ns is not None else int(line)

    try:
        run = LoadRun(plan, endpoints, gate)
        summary = uvloop.run(run.execute(release))
    except BenchError as error:
        send(error)
        return error.exit_code
    send(summary)
    return 0
