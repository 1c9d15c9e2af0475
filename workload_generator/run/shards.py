"""A run on several cores: worker processes with a shard each, with one start, one live view and one summary.

Rules:
- workers are forks of the command, which has read the experiment and holds the lock; each has its own loop and log
- they start together: when all are ready, each gets the same deadline on the monotonic clock, which they share
- signals come to this process alone, which passes them on; a worker whose parent is killed ends as on SIGTERM
- a worker that dies fails the run; the others finish, and their logs are complete
- a worker that does not respond is reported, and killed after a minute, or when a signal has given it its time to end
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson
import uvloop

from workload_generator.base.clock import NS_PER_MS, monotonic_ns
from workload_generator.base.errors import BenchError, LogError
from workload_generator.base.standard_streams import complain
from workload_generator.base.subprocesses import die_with_parent, exit_text, signals_held
from workload_generator.engine.endpoint import Endpoint
from workload_generator.log import wire
from workload_generator.log.channel import Channel
from workload_generator.log.progress import Recent, open_progress
from workload_generator.run import signals
from workload_generator.run.plan import RunPlan
from workload_generator.run.runner import LoadRun
from workload_generator.run.summary import RunSummary

_LEAD_NS = 100 * NS_PER_MS
_ALIVE_S = 1.0
_SAY_FIRST, _PATIENCE = 10, 65  # looks at a worker that does not respond, one each `_ALIVE_S`
_REAP_S = 0.01
_KILL_S = 0.5  # after the time that a worker has for its log

_READY = ord("R")  # from a worker, empty
_START = ord("S")  # to a worker, JSON: the deadline
_BEAT = ord("B")  # from a worker, JSON: see `wire.BEAT`
_ALIVE = ord("A")  # from a worker, every second, empty
_END = ord("E")  # from a worker, a pickle: its summary or its error


class _Worker:
    """One worker process, as its parent sees it. `death` says how it ended without a summary or an error."""

    def __init__(self, run: ShardedRun, index: int, pid: int, control: socket.socket) -> None:
        self.index = index
        self.pid = pid
        self.control = control
        self.channel = Channel(partial(run.on_frame, self), partial(run.on_end, self))
        self.is_ready = False
        self.summary: RunSummary | None = None
        self.death: str | None = None
        self.is_running = True
        self.silent = 0
        self.reaped = asyncio.Event()
        self.beat: dict[str, Any] | None = None


class ShardedRun:
    """The workers of one run; `execute` may be called once."""

    def __init__(self, plan: RunPlan, endpoints: list[Endpoint]) -> None:
        self._plan = plan
        self._endpoints = endpoints
        self._workers: list[_Worker] = []
        self._signal: signal.Signals | None = None
        self._started = False
        self._recent = Recent()
        self._error: BenchError | None = None

    def execute(self) -> RunSummary:
        """Run to the end. Raises the first error of a worker, or LogError when one died."""
        with signals_held() as release:
            for number in range(self._plan.processes):
                self._fork(self._plan.shard_of(number), release)
            uvloop.run(self._attend(release))
        deaths = [f"shard {each.index}: its process {each.death}" for each in self._workers if each.death is not None]
        if deaths:
            raise LogError(f"{'; '.join(deaths)}; the logs of the other shards are complete")
        if self._error is not None:
            raise self._error
        parts = {worker.index: worker.summary for worker in self._workers if worker.summary is not None}
        return RunSummary.merge(self._plan, parts, self._signal)

    def _fork(self, plan: RunPlan, release: Callable[[], None]) -> None:
        """Start a worker. Signals wait until the parent attends to all, and in the worker until its run handles them.

        A Ctrl-C goes to the command alone, which passes it on.
        """
        control, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        arrange = die_with_parent()
        pid = os.fork()
        if pid:
            theirs.close()
            self._workers.append(_Worker(self, plan.shard[0], pid, control))
            return
        code = 1
        try:
            for name in signals.STOPPING:  # after its run a worker only sends its summary
                signal.signal(name, lambda *_: None)
            os.setpgid(0, 0)
            arrange()
            for sock in (control, *(each.control for each in self._workers)):
                sock.close()
            code = uvloop.run(_Shard(plan).run(self._endpoints, theirs, release))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    async def _attend(self, release: Callable[[], None]) -> None:
        """Serve the workers until all have ended."""
        self._loop = loop = asyncio.get_running_loop()
        for name in signals.STOPPING:
            loop.add_signal_handler(name, self._on_signal, name)
        self._view = open_progress(self._plan.progress, self._plan.view)
        for worker in self._workers:
            await worker.channel.connect(worker.control)
        release()
        loop.call_later(_ALIVE_S, self._look)
        await asyncio.gather(*(worker.reaped.wait() for worker in self._workers))
        if self._view is not None:
            self._view.close(Recent())

    def on_frame(self, worker: _Worker, kind: int, payload: bytes) -> None:
        """Handle a message of a worker."""
        worker.silent = 0
        if kind == _READY:
            worker.is_ready = True
            if not self._started and all(each.is_ready for each in self._workers):
                self._started = True
                start = wire.json_frame(_START, monotonic_ns() + _LEAD_NS)
                for each in self._workers:
                    each.channel.send(start)
        elif kind == _BEAT:
            self._on_beat(worker, orjson.loads(payload))
        elif kind == _END:
            worker.is_running = False
            end = pickle.loads(payload)
            if isinstance(end, RunSummary):
                worker.summary = end
                if end.stopped_by is not None and not self._started:  # the others must not wait for it
                    self._on_signal(end.stopped_by)
            else:
                self._error = self._error or end

    def on_end(self, worker: _Worker) -> None:
        """Handle the end of a worker's process, as soon as it has ended."""
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if not pid:
            self._loop.call_later(_REAP_S, self.on_end, worker)
            return
        worker.reaped.set()
        code = os.waitstatus_to_exitcode(status)
        if worker.is_running:
            worker.is_running = False
            worker.death = f"was ended by {exit_text(code)}" if code < 0 else f"ended with {exit_text(code)}"
        if not self._started:  # the others must not wait for it, and close their logs
            self._started = True
            if self._signal is None:
                self._pass_on(signal.SIGTERM)

    def _on_beat(self, worker: _Worker, relayed: dict[str, Any]) -> None:
        if self._view is None:
            return
        self._recent.merge(Recent(**relayed["recent"]))
        worker.beat = relayed["beat"]
        running = [each for each in self._workers if each.is_running]
        beats = [each.beat for each in running if each.beat is not None]
        if len(beats) == len(running):
            self._view.beat(_merged(beats), self._recent)
            self._recent = Recent()
            for each in running:
                each.beat = None

    def _look(self) -> None:
        self._loop.call_later(_ALIVE_S, self._look)
        for worker in self._workers:
            worker.silent += not worker.reaped.is_set()
            if worker.silent == _SAY_FIRST:
                text = f"shard {worker.index} (process {worker.pid}) does not respond; it will be ended in a minute"
                complain("workload-generator", text)
            elif worker.silent >= _PATIENCE:
                self._kill(worker, signal.SIGKILL)

    def _on_signal(self, name: signal.Signals) -> None:
        grace_s = 0.0 if self._signal else signals.GRACE_S
        self._signal = self._signal or name
        self._pass_on(name)
        for worker in self._workers:
            self._loop.call_later(grace_s + signals.LAST_S + _KILL_S, self._kill, worker, signal.SIGKILL)

    def _pass_on(self, name: signal.Signals) -> None:
        for worker in self._workers:
            if worker.is_running:
                self._kill(worker, name)
            self._kill(worker, signal.SIGCONT)

    def _kill(self, worker: _Worker, number: signal.Signals) -> None:
        if not worker.reaped.is_set():
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


class _Shard:
    """One worker, from the inside."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._channel = Channel(self._on_start, lambda: None)  # the command's end is a SIGTERM

    async def run(self, endpoints: list[Endpoint], control: socket.socket, release: Callable[[], None]) -> int:
        """Run the shard, and send its summary or error over `control`; returns the exit code."""
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.Future[int] = self._loop.create_future()
        await self._channel.connect(control)
        self._say_alive()
        code = 0
        end: RunSummary | BenchError
        try:
            end = await LoadRun(self._plan, endpoints, self._gate, on_beat=self._on_beat).execute(release)
        except BenchError as error:
            end, code = error, error.exit_code
        self._channel.send(wire.frame(_END, pickle.dumps(end)))
        self._channel.finish()
        with contextlib.suppress(TimeoutError):  # the command stands still; it reads the rest when it continues
            async with asyncio.timeout(_PATIENCE):
                await self._channel.ended
        return code

    async def _gate(self) -> int | None:
        self._channel.send(wire.frame(_READY))
        deadline_ns = await self._deadline
        return None if self._plan.start_wall_ns is not None else deadline_ns

    def _say_alive(self) -> None:
        self._loop.call_later(_ALIVE_S, self._say_alive)
        self._send_beat(_ALIVE, b"")

    def _on_start(self, _kind: int, payload: bytes) -> None:
        if not self._deadline.done():  # a signal may have ended the wait
            self._deadline.set_result(orjson.loads(payload))

    def _on_beat(self, payload: bytes) -> None:
        self._send_beat(_BEAT, payload)

    def _send_beat(self, kind: int, payload: bytes) -> None:
        if self._channel.is_open and not self._channel.waiting_bytes:  # else the command stands still
            self._channel.send(wire.frame(kind, payload))
