"""A run on several cores: worker processes with a shard each, started at one deadline, shown and summed up as one.

Rules:
- workers are forks of the command, which has read the experiment and holds the lock; each has its own loop and log
- they start together: when all are ready, all are told the same deadline on the monotonic clock, which they share
- signals come to this process alone, and are passed on; a worker whose parent is killed ends as on SIGTERM
- a worker that dies fails the run; the others go on to their end, and what they logged is whole
"""

from __future__ import annotations

import asyncio
import contextlib
import os
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
from workload_generator.base.errors import BenchError, LogError, UsageError
from workload_generator.base.subprocesses import die_with_parent
from workload_generator.engine.endpoint import Endpoint
from workload_generator.log.progress import RELAY, RunProgress, open_progress
from workload_generator.run.plan import Plan
from workload_generator.run.runner import Outcome, Run
from workload_generator.run.summary import Summary

_LEAD_NS = 100 * NS_PER_MS
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class _Worker:
    """One process, from this one's side."""

    index: int
    pid: int
    control: socket.socket
    relayed: socket.socket
    ready: bool = False
    summary: Summary | None = None
    complaint: BenchError | None = None
    ended: str | None = None
    beat: dict[str, Any] | None = None
    buffers: dict[int, bytearray] = field(default_factory=dict)


class Crew:
    """The workers of one run; `execute` may be called once."""

    def __init__(self, plan: Plan, endpoints: list[Endpoint], processes: int) -> None:
        self._plan = plan
        self._endpoints = endpoints
        self._processes = processes
        self._workers: list[_Worker] = []
        self._signal: signal.Signals | None = None
        self._started = False
        self._view: RunProgress | None = None
        self._complaint: BenchError | None = None

    def execute(self) -> Outcome:
        """Run to the end. Raises what a worker complained of, or LogError when one died; the others' logs are whole."""
        index, shards = self._plan.shard
        handlers = {name: signal.signal(name, self._on_signal) for name in _SIGNALS}
        try:
            for number in range(self._processes):
                shard = (index + shards * number, shards * self._processes)
                self._workers.append(self._fork(replace(self._plan, shard=shard, ping=self._plan.ping and not number)))
            self._attend()
        finally:
            for name, handler in handlers.items():
                signal.signal(name, handler)
        return self._outcome()

    def _outcome(self) -> Outcome:
        dead = [worker for worker in self._workers if worker.ended is not None]
        if dead:
            texts = [f"shard {worker.index}: its process {worker.ended}" for worker in dead]
            raise LogError(f"{'; '.join(texts)}; the logs of the other shards are whole")
        if self._complaint is not None:
            raise self._complaint
        parts = {worker.index: worker.summary for worker in self._workers if worker.summary is not None}
        return Outcome(Summary.merge(parts), self._signal)

    def _fork(self, plan: Plan) -> _Worker:
        control, theirs = socket.socketpair()
        relayed, relay = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        arrange = die_with_parent()
        pid = os.fork()
        if pid:
            theirs.close()
            relay.close()
            control.setblocking(False)
            relayed.setblocking(False)
            return _Worker(plan.shard[0], pid, control, relayed)
        code = 1
        try:
            os.setpgid(0, 0)  # a Ctrl-C is for the command, which passes it on
            arrange()
            control.close()
            relayed.close()
            for worker in self._workers:
                worker.control.close()
                worker.relayed.close()
            code = _work(replace(plan, progress=f"{RELAY}{relay.fileno()}"), self._endpoints, theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    # While they run

    def _attend(self) -> None:
        """Until every worker's end is known."""
        selector = selectors.DefaultSelector()
        handle: dict[str, Callable[[_Worker, dict[str, Any]], None]] = {
            "control": self._on_word,
            "relayed": self._on_beat,
        }
        for worker in self._workers:
            for name in handle:
                selector.register(getattr(worker, name), selectors.EVENT_READ, (worker, name))
        while selector.get_map():
            for key, _ in selector.select():
                worker, name = key.data
                if not self._read(worker, getattr(worker, name), handle[name]):
                    selector.unregister(key.fileobj)
                    getattr(worker, name).close()
                    if name == "control":
                        self._on_end(worker)
        if self._view is not None:
            self._view.close()

    def _read(self, worker: _Worker, sock: socket.socket, handle: Callable[[_Worker, dict[str, Any]], None]) -> bool:
        """Take whole lines. Whether more can come."""
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        buffer = worker.buffers.setdefault(sock.fileno(), bytearray())
        buffer += data
        whole = buffer.rfind(b"\n") + 1
        for line in bytes(buffer[:whole]).splitlines():
            handle(worker, orjson.loads(line))
        del buffer[:whole]
        return bool(data)

    def _on_word(self, worker: _Worker, word: dict[str, Any]) -> None:
        if "view" in word:
            worker.ready = True
            if self._view is None:
                self._view = open_progress(self._plan.progress, word["view"], [])
            self._start_when_ready()
        elif "summary" in word:
            worker.summary = Summary.from_wire(word["summary"])
        else:
            kind = UsageError if word["usage"] else LogError
            worker.complaint = kind(word["message"])
            self._complaint = self._complaint or worker.complaint

    def _on_end(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if worker.summary is None and worker.complaint is None:
            worker.ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if worker.summary is None and not self._started:
            for other in self._workers:
                with contextlib.suppress(OSError):
                    other.control.shutdown(socket.SHUT_WR)  # the others wait for a word; without this one none comes

    def _start_when_ready(self) -> None:
        if self._started or not all(worker.ready for worker in self._workers):
            return
        self._started = True
        line = orjson.dumps({"start_ns": monotonic_ns() + _LEAD_NS}, option=orjson.OPT_APPEND_NEWLINE)
        for worker in self._workers:
            with contextlib.suppress(OSError):  # it has just died, which shows elsewhere
                worker.control.send(line)

    def _on_beat(self, worker: _Worker, line: dict[str, Any]) -> None:
        view = self._view
        if view is None:
            return
        view.merge(*line["counts"])
        worker.beat = line["beat"]
        running = [each for each in self._workers if each.summary is None and each.ended is None]
        beats = [each.beat for each in running if each.beat is not None]
        if beats and len(beats) == len(running):
            view.beat(_merged(beats))
            for each in running:
                each.beat = None

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number)
        for worker in self._workers:
            _kill(worker, number)


def _kill(worker: _Worker, number: int) -> None:
    if worker.summary is None and worker.complaint is None and worker.ended is None:
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


def _work(plan: Plan, endpoints: list[Endpoint], control: socket.socket) -> int:
    """Run one shard; says what became of it over `control`."""

    def say(word: dict[str, Any]) -> None:
        control.setblocking(True)
        with contextlib.suppress(OSError):  # nobody listens any more; the log has it all
            control.sendall(orjson.dumps(word, option=orjson.OPT_APPEND_NEWLINE))

    async def gate() -> int | None:
        say({"view": run.view})
        control.setblocking(False)
        line = await asyncio.get_running_loop().sock_recv(control, 4096)
        if not line:
            raise LogError("the process that leads the run has ended")
        return None if plan.start_wall_ns is not None else int(orjson.loads(line)["start_ns"])

    try:
        run = Run(plan, endpoints, gate)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(run.execute())
    except BenchError as error:
        say({"message": str(error), "usage": isinstance(error, UsageError)})
        return error.exit_code
    say({"summary": outcome.summary.to_wire()})
    return 0
