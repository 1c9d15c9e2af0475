"""Sessions in pods: `kubectl exec`, and what holds when one is cut.

Rules:
- kubectl's exit code says nothing when the connection broke (it may even be 0): an answer counts, nothing else
- a session that ended without its answer is begun again, in whichever pod is there by then, for as long as `patience_s`
  since the last sign of life; so what is asked for has to bear being asked twice (agent.py)
- a session that is silent for too long is ended by us: a broken connection may never be noticed otherwise
- kubectl has a process group of its own, so that a Ctrl-C is ours to pass on, and ends with us
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.subprocesses import die_with_parent
from workload_generator.cluster.kubectl import MISSING, Kubectl
from workload_generator.cluster.pods import agent
from workload_generator.kube.errors import Busy, Unreachable

Json = dict[str, Any]
SILENCE_S = 60.0
PATIENCE_S = 180.0

_BACKOFF = Backoff(0.1, 5.0)
_GRACE_S = 5.0
_LONGEST_LINE = 1 << 24
_TAIL = 20  # lines of what kubectl said last
_LOADER = (
    "import json, sys; source = sys.stdin.buffer; podside = {'__name__': 'podside'}; "
    "exec(compile(source.read(int(sys.argv[1])), 'podside', 'exec'), podside); "
    "podside['main'](json.loads(source.read(int(sys.argv[2]))))"
)
_SOURCE = Path(agent.__file__).read_bytes()
_KILLED = 128  # exit codes from here on: a signal, not an opinion
_HOPELESS = re.compile(r"\((Forbidden|Unauthorized)\)|context .* does not exist|stat .*: no such file|completed pod")
_CODE = re.compile(r"command terminated with exit code (\d+)")


class Cut(BenchError):
    """A session that ended without its answer; the text is what kubectl said."""


class Refused(BenchError):
    """What was asked for cannot be done in the pod."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A container of a pod. `uid` tells it from an earlier pod of the same name."""

    namespace: str
    name: str
    container: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


Find = Callable[[], Awaitable[Pod]]
"""The pod as it is now; may wait for it. Raises BenchError when there is none in time."""


class Session:
    """One `kubectl exec`. A context: the process is gone after it, whether it had ended or not."""

    def __init__(
        self, kubectl: Kubectl, pod: Pod, words: Sequence[str], given: bytes | None = None, into: int | None = None
    ) -> None:
        """`given` goes to the command's stdin, its stdout into the descriptor `into` in the place of a stream."""
        self.pod = pod
        into_pod = [*(["-i"] if given is not None else []), pod.name, f"--container={pod.container}"]
        self._command = kubectl.command(pod.namespace, "exec", *into_pod, "--", *words)
        self._given = given
        self._into = into
        self._heard = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._tail: list[str] = []
        self.on_error_line: Callable[[str], None] = lambda _line: None
        """Called with each line of stderr, but for kubectl's own about the exit code."""
        self.code: int | None = None
        """The command's own exit code, when kubectl has heard it; 0 only means that kubectl complained of nothing."""

    async def __aenter__(self) -> Session:
        pipe = asyncio.subprocess.PIPE
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=pipe if self._given is not None else asyncio.subprocess.DEVNULL,
                stdout=pipe if self._into is None else self._into,
                stderr=pipe,
                limit=_LONGEST_LINE,
                process_group=0,
                preexec_fn=die_with_parent(),
            )
        except FileNotFoundError:
            raise UsageError(MISSING) from None
        self._tasks.append(asyncio.create_task(self._read_errors()))
        if self._given is not None:
            self._tasks.append(asyncio.create_task(self._give(self._given)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for ending in (self._process.terminate, self._process.kill):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    ending()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), _GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def line(self) -> bytes | None:
        """The next line of stdout; empty at its end, None when nothing at all came for SILENCE_S."""
        assert self._process.stdout is not None
        while True:
            left = self._heard + SILENCE_S - time.monotonic()
            if left <= 0:
                return None
            try:
                line = await asyncio.wait_for(self._process.stdout.readline(), left)
            except TimeoutError:
                continue  # stderr may have said something
            except ValueError:  # longer than any line of ours; what is left is the next one
                line = b"\n"
            self._heard = time.monotonic()
            return line

    @property
    def said(self) -> str:
        """The last lines of stderr."""
        return "\n".join(self._tail)

    async def end(self) -> None:
        """Wait until kubectl has ended and all of its stderr is read."""
        await self._process.wait()
        await self._tasks[0]
        if self.code is None and self._process.returncode == 0:
            self.code = 0

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def failure(self) -> BenchError:
        """What a session that ended without its answer was: Cut, or Refused when the same would happen again."""
        said = self.said or "the session ended without an answer"
        if self.code is not None and 0 < self.code < _KILLED:
            return Refused(f"{self.pod}: exit code {self.code}: {said}")
        return Refused(said) if _HOPELESS.search(said) else Cut(said)

    async def _give(self, given: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):  # it has ended: its answer, or none, says more
            stdin.write(given)
            await stdin.drain()
            await asyncio.Event().wait()  # an end of stdin could be taken for the end of the session

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        async for line in _lines(self._process.stderr):
            self._heard = time.monotonic()
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            found = _CODE.search(text)
            if found is not None:
                self.code = int(found[1])
                continue
            self._tail = [*self._tail, text][-_TAIL:]
            self.on_error_line(text)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than any line of ours; what is left is the next one
            continue
        if not line:
            return
        yield line


def ask_words(request: Json) -> tuple[list[str], bytes]:
    """The command that does `request` in a pod, and its stdin."""
    wanted = orjson.dumps(request)
    return ["python3", "-c", _LOADER, str(len(_SOURCE)), str(len(wanted))], _SOURCE + wanted


class Place:
    """A pod that may be replaced by another one at any time, asked by podside's verbs."""

    def __init__(self, kubectl: Kubectl, find: Find, patience_s: float = PATIENCE_S) -> None:
        self.kubectl = kubectl
        self.find = find
        self.patience_s = patience_s

    async def pod(self, patience: Patience) -> Pod:
        """The pod as it is now; an API server that is away is waited for. Raises BenchError."""
        while True:
            try:
                return await self.find()
            except (Unreachable, Busy) as away:
                await patience.pause("finding the pod", away)

    async def ask(
        self,
        verb: str,
        *,
        heard: Callable[[Json], None] | None = None,
        patience_s: float | None = None,
        **request: Any,
    ) -> Json:
        """The answer; `heard` gets what comes before it. Raises Refused, or BenchError when no session holds."""
        patience = Patience(self.patience_s if patience_s is None else patience_s)
        while True:
            pod = await self.pod(patience)
            try:
                return await self._once(pod, {"verb": verb, **request}, heard, patience)
            except Cut as cut:
                await patience.pause(f"{verb} in {pod}", cut)

    async def _once(self, pod: Pod, request: Json, heard: Callable[[Json], None] | None, patience: Patience) -> Json:
        words, given = ask_words(request)
        async with Session(self.kubectl, pod, words, given) as session:
            while line := await session.line():
                document = _parsed(line)
                if document is None:
                    continue
                patience.renew()
                if "answer" not in document:
                    if heard is not None:
                        heard(document)
                    continue
                answer: Json = document["answer"]
                if "error" in answer:
                    raise Refused(f"{pod}: {answer['error']}")
                return answer
            if line is None:
                raise Cut(f"nothing came for {SILENCE_S:g} s")
            await session.end()
            raise session.failure()


def _parsed(line: bytes) -> Json | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


class Patience:
    """How long to go on trying: so many seconds since the last sign of life."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.renew()

    def renew(self) -> None:
        """There was one."""
        self._since = time.monotonic()
        self._delays = _BACKOFF.delays()

    async def pause(self, what: str, cut: BenchError) -> None:
        """Wait a little before the next try, longer each time. Raises BenchError when it is enough."""
        if time.monotonic() - self._since > self._patience_s:
            raise BenchError(f"{what}: no session holds, for {self._patience_s:g} s: {cut}") from None
        await asyncio.sleep(next(self._delays))
