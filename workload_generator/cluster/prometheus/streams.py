"""Streams through the API server into a pod: a port, what a command prints (docs/decisions/022)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass

from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import die_with_parent
from workload_generator.cluster.kubectl import Kubectl

_LISTENS = re.compile(r"Forwarding from 127\.0\.0\.1:([0-9]+) ->")
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Streams:
    """Those of one namespace."""

    kubectl: Kubectl
    namespace: str

    @contextlib.asynccontextmanager
    async def forwarded(self, pod: str, port: int, patience_s: float = 30.0) -> AsyncIterator[int]:
        """A port of 127.0.0.1 that leads to the pod's, while the context lasts. Raises BenchError."""
        command = self.kubectl.command(self.namespace, "port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}")
        process = await _start(command)
        assert process.stdout is not None and process.stderr is not None
        try:
            try:
                async with asyncio.timeout(patience_s):
                    line = (await process.stdout.readline()).decode(errors="replace")
            except TimeoutError:
                raise BenchError(f"kubectl port-forward to {pod} did not begin within {patience_s:g} s") from None
            found = _LISTENS.search(line)
            if found is None:
                error = (await process.stderr.read()).decode(errors="replace") if not line else line
                raise BenchError(f"kubectl port-forward to {pod}: {error.strip()[:_LONGEST_TEXT] or 'it ended'}")
            rest = asyncio.create_task(_drain(process.stdout))  # a line for each connection
            try:
                yield int(found[1])
            finally:
                rest.cancel()
        finally:
            await _end(process)

    async def run(self, pod: str, container: str, *words: str) -> bytes:
        """What a command in the pod prints. Raises BenchError with what it says on stderr."""
        process = await _start(
            self.kubectl.command(self.namespace, "exec", pod, f"--container={container}", "--", *words)
        )
        try:
            out, error = await process.communicate()
        finally:
            await _end(process)
        if process.returncode:
            raise BenchError(f"in pod {pod}: {words[0]}: {_text(error) or f'exit code {process.returncode}'}")
        return out

    @contextlib.asynccontextmanager
    async def streamed(self, pod: str, container: str, *words: str) -> AsyncIterator[asyncio.StreamReader]:
        """What a command in the pod prints, as it comes. Raises BenchError at the end when the command failed."""
        process = await _start(
            self.kubectl.command(self.namespace, "exec", pod, f"--container={container}", "--", *words)
        )
        assert process.stdout is not None and process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        try:
            yield process.stdout
            if await process.wait():
                raise BenchError(f"in pod {pod}: {words[0]}: {_text(await errors) or 'it failed'}")
        finally:
            await _end(process)
            errors.cancel()


async def _start(command: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**20,
        preexec_fn=die_with_parent(),
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass


def _text(error: bytes) -> str:
    return " ".join(error.decode(errors="replace").split())[:_LONGEST_TEXT]
