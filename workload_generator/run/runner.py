"""One run, from the resolved experiment to its verdict: puts dispatcher, engine and log together.

Rules:
- nothing is sent before the log is open and the recorder is ready
- a signal stops the schedule, and every planned arrival has its result in the log before the trailer: see `signals`
- a fault of the generator, in any callback of the event loop, ends the run at once: finished requests are in the log,
  those in flight are cancelled, and the trailer names the fault
"""

from __future__ import annotations

import asyncio
import gc
import resource
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, monotonic_ns, rfc3339
from workload_generator.base.errors import BenchError, GeneratorFault
from workload_generator.base.histogram import Histogram
from workload_generator.base.standard_streams import complain
from workload_generator.base.verdict import Evidence, Strain, Verdict, judge, stopped_early
from workload_generator.coldstart.watcher import Watcher
from workload_generator.engine.endpoint import Endpoint
from workload_generator.engine.engine import Engine
from workload_generator.engine.pool import Pool
from workload_generator.engine.timestamps import ReceiveClock
from workload_generator.experiment.model import INTERVAL, ZERO
from workload_generator.experiment.schedule import TargetPicker, closed_loop_connections, cold_start_rounds
from workload_generator.experiment.thresholds import judge_thresholds
from workload_generator.log.records import Phase
from workload_generator.log.writer import Log
from workload_generator.run import resources, signals
from workload_generator.run.cold_start import ColdStartLog, ColdStarts, FromZero
from workload_generator.run.dispatcher import ClosedLoop, DispatchCounts, Dispatcher, OpenLoop, Pings
from workload_generator.run.machine import Monitor, ask_for_short_slices
from workload_generator.run.plan import RunPlan
from workload_generator.run.signals import RunSignals
from workload_generator.run.summary import RunSummary

T = TypeVar("T")

_HEARTBEAT_S = 1.0
_LEAD_NS = 50 * NS_PER_MS  # between the last preparation and the first deadline

Gate = Callable[[], Coroutine[Any, Any, int | None]]
"""Waits until all shards are ready; returns the monotonic time of the first arrival of all of them."""


class LoadRun:
    """The state of one run. `execute` may be called once.

    Offsets count from the run's origin; the schedule begins `_first_ns` after it, and measures from
    `_measure_start_ns` to `_end_ns` of the schedule.
    """

    def __init__(
        self,
        plan: RunPlan,
        endpoints: list[Endpoint],
        gate: Gate | None = None,
        watcher: Watcher | None = None,
        on_beat: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._watcher = watcher if plan.mode == "cold-start" else None
        self._plan = plan
        self._experiment = plan.experiment
        self._endpoints = endpoints
        self._gate = gate
        self._log = Log(self._on_log_failure, on_beat)
        self._schedule = plan.schedule
        self._measure_start_ns = self._schedule.measure_start_ns if self._schedule else 0
        self._end_ns = plan.end_ns
        descriptors = resources.raise_descriptor_limit()
        self._max_in_flight = resources.max_in_flight(plan.experiment, descriptors, plan.shard[1])
        self._first_ns = 0
        self._late_ns = 0
        self._pings = self._dispatched = DispatchCounts()
        self._dispatching: Dispatcher | None = None
        self._engine: Engine | None = None
        self._stopped_ns: int | None = None  # when the schedule was cut short
        self._task: asyncio.Task[Any] | None = None  # the run, while a fault may cancel it
        self._waiting: asyncio.Task[Any] | None = None  # what the run waits for before its schedule
        self._fault: BaseException | None = None
        self._used: dict[str, Any] = {}
        self._strain = Strain(elapsed_ns=0, cpu_ns=0)

    async def execute(self, on_handlers: Callable[[], None] = lambda: None) -> RunSummary:
        """Run to the end; `on_handlers` is called once the signal handlers are installed.

        Raises UsageError before anything was sent, LogError when the log could not be finished, and GeneratorFault when
        a fault of the generator ended the run.
        """
        loop = self._loop = asyncio.get_running_loop()
        plan = self._plan
        self._signals = RunSignals(loop, self._on_stop, self._cancel_all, self._abandon_log)
        with self._signals.handled():
            on_handlers()
            async with self._log.opened(plan.log_paths()):
                try:
                    loop.set_exception_handler(self._on_exception)
                    self._task = asyncio.current_task()
                    return await self._run()
                except (Exception, asyncio.CancelledError) as error:
                    if self._fault is None:
                        if isinstance(error, (BenchError, asyncio.CancelledError)):
                            raise
                        loop.default_exception_handler({"message": "the run failed", "exception": error})
                        self._fault = error
                    raise await self._end_at_fault() from self._fault
                finally:
                    self._task = self._signals.give_up = None
                    loop.set_exception_handler(None)
                    if self._watcher is not None:
                        await self._watcher.close()

    async def _run(self) -> RunSummary:
        plan, log = self._plan, self._log
        self._anchor = Anchor.now()
        for endpoint in self._endpoints:
            if endpoint.events is not None:
                endpoint.events.begin(self._anchor.wall_ns - self._anchor.mono_ns)
        frame = plan.start_frame(self._anchor, self._max_in_flight)
        if plan.mode == "cold-start":
            frame["header"]["cold_starts"] = await self._open_watcher()
        log.begin(frame)
        await log.totals()  # waits for the recorder: its start must not compete with the first arrivals
        await self._send()
        return await self._conclude()

    async def _open_watcher(self) -> dict[str, Any]:
        """Connect to the source of cold starts; returns its section of the log's header."""
        fault: str | None = "there is no access to the platform's API"
        source = None
        if self._watcher is not None:
            source = self._watcher.source
            fault = await self._unless_stopped(self._watcher.open())
            if fault is not None:
                await self._watcher.close()
                self._watcher = None
        wait = INTERVAL if self._watcher is None else self._experiment.cold_start.wait or ZERO
        if self._watcher is not None and wait == ZERO:
            hosts = [urlsplit(target.url).hostname or "" for target in self._experiment.targets]
            for why in await self._unless_stopped(self._watcher.missing(hosts)) or ():
                complain("workload-generator", f"{why}: its requests are dropped while that is so")
        if fault is not None:
            complain("workload-generator", f"cold starts cannot be observed: {fault}")
        return {"source": source, "wait": wait, "unknown": fault}

    async def _send(self) -> None:
        """Send everything and wait for the last response."""
        plan, rate, origin_ns = self._plan, self._experiment.rate, self._anchor.mono_ns
        pool = Pool(
            plan.share(rate.max_idle_conns), plan.share(rate.max_idle_conns_per_host), rate.idle_conn_timeout_ns
        )
        clock = ReceiveClock()
        engine = Engine(self._endpoints, pool, rate.timeout_ns, origin_ns, self._log, clock)
        self._engine = engine
        self._monitor = Monitor(self._loop, clock)
        self._beats = self._loop.call_later(_HEARTBEAT_S, self._beat)
        ask_for_short_slices()  # not earlier: the recorder, which has started, must not inherit them
        gc.collect()
        gc.freeze()
        before, before_ns = resource.getrusage(resource.RUSAGE_SELF), monotonic_ns()
        try:
            if plan.ping:
                self._pings = pings = Pings(engine, self._log, len(self._endpoints), plan.shard[0])
                await self._dispatch(pings)
            if rate.preconnect:
                fault = await self._unless_stopped(engine.preconnect(plan.share(rate.preconnect)))
                if fault:
                    complain("workload-generator", f"rate.preconnect: {fault}; the run connects as it needs to")
            self._first_ns = await self._find_start()
            self._dispatched = dispatcher = self._make_dispatcher(engine)
            self._monitor.start()
            await self._dispatch(dispatcher)
            await engine.drain()
        finally:
            self._beats.cancel()
            self._strain = self._monitor.stop()
            engine.close()
            self._used = _resources(before, resource.getrusage(resource.RUSAGE_SELF), monotonic_ns() - before_ns)

    async def _find_start(self) -> int:
        """The start of the schedule: as soon as possible, or the common start of all shards."""
        agreed_ns = await self._unless_stopped(self._gate()) if self._gate is not None else None
        soon_ns = self._now_ns() + _LEAD_NS
        if agreed_ns is not None:
            first_ns = agreed_ns - self._anchor.mono_ns
        elif self._plan.start_wall_ns is not None:
            first_ns = self._plan.start_wall_ns - self._anchor.wall_ns
        else:
            return soon_ns
        self._late_ns = max(0, self._now_ns() - first_ns)
        return soon_ns if self._late_ns else first_ns

    @property
    def _is_stopped(self) -> bool:
        return self._signals.received is not None or self._log.failure is not None

    async def _unless_stopped(self, wait: Coroutine[Any, Any, T]) -> T | None:
        """The result of `wait`; None when the run is stopped first."""
        self._waiting = task = self._loop.create_task(wait)
        if self._is_stopped:
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            if not self._is_stopped or self._fault is not None:
                raise
            return None
        finally:
            self._waiting = None

    async def _dispatch(self, dispatcher: Dispatcher) -> None:
        if self._is_stopped:
            dispatcher.stop()
            return
        self._dispatching = dispatcher
        dispatcher.start()
        await dispatcher.finished.wait()
        self._dispatching = None

    def _make_dispatcher(self, engine: Engine) -> Dispatcher:
        experiment, plan, log, first_ns = self._experiment, self._plan, self._log, self._first_ns
        if self._schedule is not None:
            arrivals = self._schedule.arrivals(later_ns=first_ns)
            return OpenLoop(engine, log, arrivals, self._max_in_flight, self._monitor, precise=plan.precise)
        if plan.mode == "closed":
            targets = TargetPicker(experiment, plan.seed).indexes()
            connections = closed_loop_connections(experiment, plan.shard)
            between_ns = first_ns, first_ns + self._end_ns
            return ClosedLoop(engine, log, targets, between_ns, connections, plan.shard)
        rounds, gap_ns = cold_start_rounds(experiment, plan.shard), experiment.cold_start.gap_ns
        lines = None if self._watcher is None else ColdStartLog(log, self._watcher, experiment, self._anchor)
        if lines is None or experiment.cold_start.wait == INTERVAL:
            return ColdStarts(engine, log, rounds, first_ns, gap_ns, lines)
        return FromZero(engine, log, experiment, first_ns, lines, plan.seed)

    # During the run

    def _now_ns(self) -> int:
        return monotonic_ns() - self._anchor.mono_ns

    def _beat(self) -> None:
        self._beats = self._loop.call_later(_HEARTBEAT_S, self._beat)
        counts, engine = self._dispatched, self._engine
        assert engine is not None
        engine.clock.check()
        now_ns = self._now_ns()
        since_ns, phase = 0, Phase.PING
        if self._first_ns:
            since_ns = max(0, now_ns - self._first_ns)
            phase = Phase.RAMP if since_ns < self._measure_start_ns else Phase.MEASURE
        line = {
            "time": rfc3339(self._anchor.wall_ns + now_ns),
            "planned": self._pings.planned + counts.planned,
            "started": engine.started,
            "finished": engine.finished,
            "dropped": counts.dropped,
            "measure": {
                "planned": counts.planned_measured,
                "started": engine.started_measured,
                "finished": engine.finished_measured,
                "dropped": counts.dropped_measured,
            },
        }
        waiting = "" if self._watcher is None else self._watcher.waiting()
        beat = {"line": line, "elapsed_ns": since_ns, "in_flight": engine.in_flight, "phase": phase.label}
        self._log.heartbeat({**beat, "waiting": waiting})

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run at a fault in one of our callbacks, since some coroutine may wait for its effect forever."""
        if "exception" not in context or "handle" not in context:  # from a transport, or a future of a library
            loop.default_exception_handler(context)
        elif self._fault is None:  # later ones follow from the first
            loop.default_exception_handler(context)
            self._fault = context["exception"]
            if self._task is not None:
                self._task.cancel()

    def _on_log_failure(self) -> None:
        self._stop_dispatching()
        self._cancel_all("the log cannot be written")

    def _cancel_all(self, reason: str) -> None:
        if self._engine is not None:
            self._engine.cancel_all(reason)

    def _on_stop(self) -> None:
        self._log.wake()
        self._stop_dispatching()

    def _abandon_log(self, reason: str) -> None:
        self._log.give_up(f"{reason}, and the recorder or its disk does not respond")

    def _stop_dispatching(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self._dispatching is not None:
            self._dispatching.stop()
        if self._dispatching is not None or not self._first_ns:
            self._stopped_ns = max(0, self._now_ns() - self._first_ns) if self._first_ns else 0

    # The end

    async def _end_at_fault(self) -> GeneratorFault:
        """Save what had finished before a fault of the generator; returns the error for the user."""
        fault, path, engine = self._fault, self._log.path, self._engine
        assert fault is not None
        text = f"the generator failed: {_place(fault)}{type(fault).__name__}: {fault}"
        if engine is None:
            return GeneratorFault(f"{text}; nothing was sent")
        if self._task is not None:
            self._signals.give_up = self._task.cancel
        for step in (
            self._stop_dispatching,
            partial(engine.cancel_all, "the generator failed"),
            engine.close,
            self._log.flush,
        ):
            try:
                step()
            except Exception as error:
                self._loop.default_exception_handler({"message": "another fault, at the end", "exception": error})
        try:
            async with asyncio.timeout(signals.GRACE_S):
                await self._conclude(text)
        except (Exception, asyncio.CancelledError) as error:
            why = str(error) or type(error).__name__
            return GeneratorFault(f"{text}; the log {path} has the requests finished before, but no trailer: {why}")
        return GeneratorFault(f"{text}; the log {path} is complete up to the fault")

    async def _conclude(self, fault: str | None = None) -> RunSummary:
        """Judge the run and write the trailer. Raises LogError."""
        plan, experiment, log, dispatched = self._plan, self._experiment, self._log, self._dispatched
        assert self._engine is not None
        stopped_by = self._signals.received
        totals = await log.totals()
        counts = totals["counts"]
        counts["ping"]["planned"] = self._pings.planned
        counts["ramp"]["planned"] = dispatched.planned - dispatched.planned_measured
        counts["measure"]["planned"] = dispatched.planned_measured
        histograms = {name: Histogram.from_json(doc) for name, doc in totals["histograms"].items()}
        if fault is None and stopped_by is not None:
            elapsed_ns = self._end_ns if self._stopped_ns is None else self._stopped_ns
            fault = stopped_early(stopped_by.name, elapsed_ns, self._end_ns)
        verdict = self._judge(fault, counts["measure"], histograms)
        thresholds = judge_thresholds(experiment.thresholds or (), counts["measure"], histograms)
        await log.finish(
            {
                "time": rfc3339(self._anchor.wall_ns + self._now_ns()),
                "counts": {**counts, "missed_rounds": dispatched.missed_rounds, "unasked": self._engine.unasked},
                "answered": sum(counts["measure"]["statuses"].values()),
                "histograms": totals["histograms"],
                "resources": self._used,
                "machine": {**asdict(self._strain), "late_ns": self._late_ns},
                "verdict": verdict.word,
                "reasons": list(verdict.reasons),
                "thresholds": [each.to_json() for each in thresholds],
            }
        )
        end_ns = self._end_ns if self._stopped_ns is None else min(self._stopped_ns, self._end_ns)
        return RunSummary(
            plan,
            logs=(log.path,),
            counts=counts["measure"],
            missed_rounds=dispatched.missed_rounds,
            measured_ns=max(0, end_ns + self._overrun_ns() - self._measure_start_ns),
            histograms=histograms,
            verdict=verdict,
            thresholds=thresholds,
            stopped_by=stopped_by,
        )

    def _judge(self, stopped: str | None, counts: dict[str, Any], histograms: dict[str, Histogram]) -> Verdict:
        assert self._engine is not None
        return judge(
            Evidence(
                mode=self._plan.mode,
                counts=counts,
                lag=histograms["lag"],
                ttfb=histograms["ttfb"],
                lag_limit_ns=self._experiment.limits.lag_ns,
                user_set_max_in_flight=self._experiment.rate.max_in_flight is not None,
                max_in_flight=self._max_in_flight,
                stopped=stopped,
                length_ns=self._end_ns - self._measure_start_ns,
                strain=self._strain,
                overrun_ns=self._overrun_ns(),
                exhausted=self._engine.exhausted,
                late_ns=self._late_ns,
            )
        )

    def _overrun_ns(self) -> int:
        """How long after the planned end the last arrival started."""
        assert self._engine is not None
        return max(0, self._engine.last_start_ns - self._anchor.mono_ns - self._first_ns - self._end_ns)


def _place(fault: BaseException) -> str:
    """File and line that raised it."""
    frames = traceback.extract_tb(fault.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}: " if frames else ""


def _resources(before: resource.struct_rusage, after: resource.struct_rusage, elapsed_ns: int) -> dict[str, Any]:
    return {
        "cpu_user_s": round(after.ru_utime - before.ru_utime, 3),
        "cpu_system_s": round(after.ru_stime - before.ru_stime, 3),
        "elapsed_s": round(elapsed_ns / NS_PER_S, 3),
        "max_rss_bytes": resources.peak_memory_bytes(),
    }
