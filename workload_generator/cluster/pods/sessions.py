"""Sessions in pods: `kubectl exec`, and requests to the agent that survive a broken session.

Rules:
- kubectl's exit code proves nothing when the connection broke (it may even be 0): only an answer counts
- a session that ended without its answer is repeated, in the pod that exists by then, until nothing was received for
  `patience_s`; so every request can be repeated (agent.py)
- a session that is silent for SILENCE_S is ended: a broken connection may not be noticed otherwise
- kubectl has its own process group, so that it does not receive a Ctrl-C, and dies with this process
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from workload_generator.base.async_children import end_child
from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import die_with_parent
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import agent
from workload_generator.kube.errors import Busy, Unreachable

Json = dict[str, Any]
SILENCE_S = 60.0
PATIENCE_S = 180.0

_BACKOFF = Backoff(0.1, 5.0)
_GRACE_S = 5.0
_LONGEST_LINE = 1 << 24
_TAIL = 20  # lines of kubectl's stderr that are kept
_LOADER = (
    "import json, sys; source = sys.stdin.buffer; agent = {'__name__': 'agent'}; "
    "exec(compile(source.read(int(sys.argv[1])), 'agent', 'exec'), agent); "
    "agent['main'](json.loads(source.read(int(sys.argv[2]))))"
)
_SOURCE = Path(agent.__file__).read_bytes()
_SIGNALLED = 128  # an exit code above it is a signal
_PERMANENT = re.compile(r"\((Forbidden|Unauthorized)\)|context .* does not exist|stat .*: no such file|completed pod")
_CODE = re.compile(r"command terminated with exit code (\d+)")


class SessionCut(BenchError):
    """A session ended without its answer; the text is kubectl's. The request may be repeated."""


class PodRequestRefused(BenchError):
    """The pod cannot do what was requested. A repetition would fail in the same way."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A container of a pod. `uid` distinguishes it from an earlier pod of the same name."""

    namespace: str
    name: str
    container: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


Find = Callable[[], Awaitable[Pod]]
"""Returns the present pod, and may wait for it. Raises BenchError when there is none in time."""
T = TypeVar("T")
Attempt = Callable[[Pod, Callable[[], None]], Awaitable[T]]
"""Something to do in a pod. It calls its second argument when it received something. SessionCut: try again."""


class Session:
    """One `kubectl exec`, as a context that ends the process."""

    def __init__(self, kubectl: Kubectl, pod: Pod, words: Sequence[str], given: bytes | None = None) -> None:
        """`given` is the command's stdin."""
        self.pod = pod
        into_pod = [*(["-i"] if given is not None else []), pod.name, f"--container={pod.container}"]
        self._command = kubectl.command(pod.namespace, "exec", *into_pod, "--", *words)
        self._given = given
        self._heard = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._tail: list[str] = []
        self.on_error_line: Callable[[str], None] = lambda _line: None
        """Called with each line of stderr, except kubectl's line about the exit code."""
        self.code: int | None = None
        """The command's exit code, if kubectl reported it; 0 means that kubectl reported no error."""

    async def __aenter__(self) -> Session:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=pipe if self._given is not None else asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            limit=_LONGEST_LINE,
            process_group=0,
            preexec_fn=die_with_parent(),
        )
        self._tasks.append(asyncio.create_task(self._read_errors()))
        if self._given is not None:
            self._tasks.append(asyncio.create_task(self._give(self._given)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_child(self._process, _GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def line(self) -> bytes:
        """The next line of stdout, empty at its end. Raises SessionCut after SILENCE_S without output."""
        assert self._process.stdout is not None
        while (left := self._heard + SILENCE_S - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):  # there may have been something on stderr
                line = await asyncio.wait_for(self._process.stdout.readline(), left)
                self._heard = time.monotonic()
                return line
        raise SessionCut(f"no output for {SILENCE_S:g} s")

    @property
    def stderr(self) -> str:
        """The last lines of stderr."""
        return "\n".join(self._tail)

    async def end(self) -> None:
        """Wait until kubectl has ended and all of its stderr is read."""
        await self._process.wait()
        await self._tasks[0]
        if self.code is None and self._process.returncode == 0:
            self.code = 0

    async def failure(self) -> BenchError:
        """After the end of stdout: why there was no answer. PodRequestRefused if a repetition would fail too."""
        await self.end()
        text = self.stderr or "the session ended without an answer"
        if self.code is not None and 0 < self.code < _SIGNALLED:
            return PodRequestRefused(f"{self.pod}: exit code {self.code}: {text}")
        return PodRequestRefused(text) if _PERMANENT.search(text) else SessionCut(text)

    async def _give(self, given: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(ConnectionError):  # kubectl has ended; its stderr says why
            stdin.write(given)
            await stdin.drain()
            await asyncio.Event().wait()  # the end of stdin could end the session

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self._heard = time.monotonic()
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            found = _CODE.search(text)
            if found is not None:
                self.code = int(found[1])
                continue
            self._tail = [*self._tail, text][-_TAIL:]
            self.on_error_line(text)


class PodAgent:
    """Sends requests to the agent in a pod, which may be replaced by another pod at any time."""

    def __init__(self, kubectl: Kubectl, find: Find, patience_s: float = PATIENCE_S) -> None:
        self.kubectl = kubectl
        self.find = find
        self.patience_s = patience_s

    async def persist(self, what: str, attempt: Attempt[T], patience_s: float | None = None) -> T:
        """The result of `attempt` in the present pod. It is repeated, with back-off, when its session is cut.

        Waits for an API server that is not available. Raises BenchError when nothing was received for `patience_s`.
        """
        most_s = self.patience_s if patience_s is None else patience_s
        since, delays = time.monotonic(), _BACKOFF.delays()
        where = "finding the pod"

        def received() -> None:
            nonlocal since, delays
            since, delays = time.monotonic(), _BACKOFF.delays()

        while True:
            try:
                pod = await self.find()
                where = f"{what} in {pod}"
                return await attempt(pod, received)
            except (SessionCut, Unreachable, Busy) as cut:
                if time.monotonic() - since > most_s:
                    raise BenchError(f"{where}: no session succeeded for {most_s:g} s: {cut}") from None
            await asyncio.sleep(next(delays))

    async def ask(
        self,
        verb: str,
        *,
        heard: Callable[[Json], None] = lambda _document: None,
        patience_s: float | None = None,
        **request: Any,
    ) -> Json:
        """The answer. `heard` is called with what comes before it. Raises PodRequestRefused or BenchError."""

        def attempt(pod: Pod, received: Callable[[], None]) -> Awaitable[Json]:
            def hear(document: Json) -> None:
                received()
                heard(document)

            return self.once(pod, {"verb": verb, **request}, hear)

        return await self.persist(verb, attempt, patience_s)

    async def once(self, pod: Pod, request: Json, heard: Callable[[Json], None]) -> Json:
        """The answer to a request in one session. Raises SessionCut, PodRequestRefused."""
        wanted = orjson.dumps(request)
        words = ["python3", "-c", _LOADER, str(len(_SOURCE)), str(len(wanted))]
        async with Session(self.kubectl, pod, words, _SOURCE + wanted) as session:
            while line := await session.line():
                try:
                    document = json.loads(line)
                except ValueError:
                    continue
                if "answer" not in document:
                    heard(document)
                    continue
                answer: Json = document["answer"]
                if "error" in answer:
                    raise PodRequestRefused(f"{pod}: {answer['error']}")
                return answer
            raise await session.failure()
