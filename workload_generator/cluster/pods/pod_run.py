"""A run of the generator in a pod: begun by `kubectl exec`, and followed to its end whatever becomes of the session.

Rules:
- a cut session never ends a run (the generator sees to that), and never loses it: the pod is asked what there is of it
- what the trailers of its logs say is how it ended; without them it was lost, and its logs are set aside
- nothing is begun twice: a run that left any trace in the pod is that run
- when we are interrupted, the run is ended too: it would go on against settings that are put back
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import ExitCode, of_signal
from workload_generator.cluster.pods.sessions import SILENCE_S, Cut, Json, Patience, Place, Pod, Refused, Session

LOGS = "/logs"
WORK = "/tmp/kn-bench"

_STOPPED = re.compile(r"stopped by (SIG[A-Z]+)")
_STOP_S = 30.0  # how long to try to reach a run that is to be ended


@dataclass(frozen=True, slots=True)
class Run:
    """What is run: the generator's flags but for those about files, and the text of its experiment."""

    run_id: str
    name: str
    prefix: str
    experiment: str
    flags: tuple[str, ...]
    processes: int = 1

    @property
    def config(self) -> str:
        """Where its experiment is in the pod."""
        return f"{WORK}/{self.run_id}/{self.name}.yaml"

    @property
    def asked(self) -> Json:
        """What podside has to know of it."""
        return {"run_id": self.run_id, "folder": LOGS, "prefix": self.prefix}

    @property
    def words(self) -> list[str]:
        """The command."""
        given = [f"--config={self.config}", f"--prefix={self.prefix}", f"--log-dir={LOGS}", f"--run-id={self.run_id}"]
        return ["workload-generator", *given, *self.flags]


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: the generator's exit code, its logs' names in the pod, and their trailers."""

    code: int
    logs: tuple[str, ...]
    trailers: tuple[Json, ...]


class Lost(BenchError):
    """A run that ended without its trailer: killed, or its pod was."""


Lines = Callable[[str], None]


async def begin(place: Place, run: Run, say: Lines, patience: Patience) -> Ended:
    """Run it, and return when it has ended. Raises Lost, or BenchError when it could not be begun."""
    try:
        while True:
            await place.ask("put", path=run.config, text=run.experiment)
            pod = await place.pod(patience)
            code, said = await _execute(place, pod, run)
            ended = await follow(place, run, say)
            if ended is not None:
                # Several processes may share a verdict that none of them has alone.
                return Ended(code, ended.logs, ended.trailers) if ended.code == ExitCode.OK and code else ended
            now = await place.pod(patience)
            if code is not None and code != 0 and now.uid == pod.uid:
                raise BenchError(f"the workload generator ended with exit code {code}:\n{said}")
            await patience.pause(f"{run.prefix} in {pod}", Cut(said or "the session ended before the run began"))
    except asyncio.CancelledError:
        try:
            await asyncio.shield(place.ask("stop", patience_s=_STOP_S, **run.asked))
        except BenchError as error:
            say(f"{run.prefix} ({run.run_id}) may still run in the pod: {error}")
        raise


async def follow(place: Place, run: Run, say: Lines, cut: bool = True) -> Ended | None:
    """The end of a run that was begun, waited for if need be; None when there is no trace of it. Raises Lost.

    `cut`: that it still runs is news.
    """
    seen = await place.ask("look", **run.asked)
    if seen["pids"]:
        if cut:
            say("the session was cut; the run goes on, and is followed")

        def heard(document: Json) -> None:
            beat = document.get("progress") or {}
            if "planned" in beat:
                say(f"{beat['time']}: {beat['planned']} planned, {beat['finished']} finished")

        seen = await place.ask("wait", heard=heard, **run.asked)
    logs = seen["logs"]
    if not logs:
        return None
    names = tuple(log["name"] for log in logs)
    trailers = tuple(log["trailer"] for log in logs if log["trailer"] is not None)
    if len(trailers) < max(run.processes, len(logs)):
        await place.ask("aside", **run.asked)
        raise Lost(
            f"{run.prefix} ({run.run_id}) ended without its trailer: the generator or its pod was killed, "
            f"or its disk was full; {', '.join(names)} of {await place.find()} is renamed to .interrupted"
        )
    return Ended(code_of(trailers), names, trailers)


async def set_aside(place: Place, run: Run) -> None:
    """Its logs are none of the cell's."""
    await place.ask("aside", **run.asked)


def code_of(trailers: Sequence[Json]) -> int:
    """The exit code that goes with what the trailers say."""
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


async def _execute(place: Place, pod: Pod, run: Run) -> tuple[int | None, str]:
    """One session; the exit code, None when kubectl did not hear it, and what was said last."""
    async with Session(place.kubectl, pod, run.words) as session:
        session.on_error_line = lambda line: _tell(sys.stderr, line)
        while line := await session.line():
            _tell(sys.stdout, line.decode("utf-8", "replace").rstrip("\r\n"))
        if line is None:  # it says something every ten seconds: the connection is broken, or it has ended
            return None, f"nothing came for {SILENCE_S:g} s"
        await session.end()
        if session.code is None and isinstance(failure := session.failure(), Refused):
            raise failure
        return session.code, session.said


def _tell(stream: Any, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()
