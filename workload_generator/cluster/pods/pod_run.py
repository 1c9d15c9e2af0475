"""A run of the generator in a pod: started by `kubectl exec`, and followed to its end when the session breaks.

Rules:
- a broken session neither ends a run (the generator ignores it) nor loses it: the agent finds its processes and logs
- the trailers of a run's logs say how it ended; a run without them is lost, and its logs are renamed
- no run is started twice: a run of which the pod has a trace is that run
- an interrupt ends the run too: otherwise it would run with settings that are being restored
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import ExitCode, of_signal
from workload_generator.cluster.pods.sessions import (
    Json,
    Pod,
    PodAgent,
    PodRequestRefused,
    Session,
    SessionCut,
)

LOGS = "/logs"
WORK = "/tmp/kn-bench"

_STOPPED = re.compile(r"stopped by (SIG[A-Z]+)")
_STOP_S = 30.0  # how long to try to reach a run that has to end
_END_S = 20.0  # such a run gets five seconds for requests in flight, and closes its log

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run: the name and the text of its experiment, and the generator's flags except those about files."""

    run_id: str
    name: str
    prefix: str
    experiment: str
    flags: tuple[str, ...]
    processes: int = 1
    pods: int = 1

    @property
    def config(self) -> str:
        """The path of its experiment in the pod."""
        return f"{WORK}/{self.run_id}/{self.name}.yaml"

    @property
    def request(self) -> Json:
        """The agent's parameters for requests about this run."""
        return {"run_id": self.run_id, "folder": LOGS, "prefix": self.prefix}

    def flags_for(self, config: str, log_dir: str) -> list[str]:
        """All flags of the generator."""
        given = [f"--config={config}", f"--prefix={self.prefix}", f"--log-dir={log_dir}", f"--run-id={self.run_id}"]
        return [*given, *self.flags]


@dataclass(frozen=True, slots=True)
class PodRunEnd:
    """How a run ended: the generator's exit code, the names of its logs in the pod, and their trailers."""

    code: int
    logs: tuple[str, ...]
    trailers: tuple[Json, ...]


class RunLost(BenchError):
    """A run ended without its trailer: the generator or its pod was killed."""


async def begin(agent: PodAgent, run: RunSpec, say: Say) -> PodRunEnd:
    """Run it and wait for its end. Raises RunLost, or BenchError when it cannot be started."""

    async def attempt(pod: Pod, _received: Callable[[], None]) -> PodRunEnd:
        await agent.ask("put", path=run.config, text=run.experiment)
        code, text = await _execute(agent, pod, run)
        end = await follow(agent, run, say)
        if end is not None:
            # Several processes may have a common verdict that none of their logs has.
            return replace(end, code=code) if end.code == ExitCode.OK and code else end
        if code and (await agent.find()).uid == pod.uid:
            raise BenchError(f"the workload generator ended with exit code {code}:\n{text}")
        raise SessionCut(text or "the session ended before the run began")

    try:
        return await agent.persist(run.prefix, attempt)
    except asyncio.CancelledError:
        try:
            await asyncio.shield(stop(agent, run))
        except BenchError as error:
            say(f"{run.prefix} ({run.run_id}) may still run in the pod: {error}")
        raise


async def stop(agent: PodAgent, run: RunSpec) -> None:
    """End a run. Raises BenchError when its pod cannot be reached."""
    await agent.ask("wait", patience_s=_STOP_S, stop=True, within_s=_END_S, **run.request)


async def follow(agent: PodAgent, run: RunSpec, say: Say, cut: bool = True) -> PodRunEnd | None:
    """Wait for the end of a run that was started. None when the pod has no trace of it. Raises RunLost.

    `cut` reports that the run is still in progress.
    """
    seen = await agent.ask("look", **run.request)
    if seen["pids"]:
        if cut:
            say("the session broke; following the run, which continues")

        def heard(document: Json) -> None:
            beat = document.get("progress") or {}
            if "planned" in beat:
                say(f"{beat['time']}: {beat['planned']} planned, {beat['finished']} finished")

        seen = await agent.ask("wait", heard=heard, **run.request)
    logs = seen["logs"]
    if not logs:
        return None
    names = tuple(log["name"] for log in logs)
    trailers = tuple(log["trailer"] for log in logs if log["trailer"] is not None)
    if len(trailers) < max(run.processes, len(logs)):
        await agent.ask("aside", **run.request)
        raise RunLost(
            f"{run.prefix} ({run.run_id}) ended without its trailer: the generator or its pod was killed, or the disk "
            f"was full. In {await agent.find()}, {', '.join(names)} was renamed to .interrupted"
        )
    return PodRunEnd(exit_code_of(trailers), names, trailers)


def exit_code_of(trailers: Sequence[Json]) -> int:
    """The generator's exit code, from the trailers of its logs."""
    for trailer in trailers:
        for reason in trailer["reasons"] or ():
            found = _STOPPED.search(reason)
            if found is not None:
                return of_signal(signal.Signals[found[1]])
    passed = all(
        trailer["verdict"] == "valid" and all(each["passed"] for each in trailer["thresholds"] or ())
        for trailer in trailers
    )
    return ExitCode.OK if passed else ExitCode.INVALID


async def _execute(agent: PodAgent, pod: Pod, run: RunSpec) -> tuple[int | None, str]:
    """One session. Returns the exit code, None if kubectl did not report it, and the last lines of stderr."""
    async with Session(agent.kubectl, pod, ["workload-generator", *run.flags_for(run.config, LOGS)]) as session:
        session.on_error_line = lambda line: _print(sys.stderr, line)
        try:
            while line := await session.line():
                _print(sys.stdout, line.decode("utf-8", "replace").rstrip("\r\n"))
        except SessionCut as silent:  # the generator prints every ten seconds
            return None, str(silent)
        failure = await session.failure()
        if session.code is None and isinstance(failure, PodRequestRefused):
            raise failure
        return session.code, session.stderr


def _print(stream: Any, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
