"""Connections into a pod through kubectl: a forwarded port, and the output of a command (docs/decisions/022)."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from workload_generator.base.async_children import end_child
from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import die_with_parent
from workload_generator.cluster.kubectl import Kubectl

_LISTENS = re.compile(r"Forwarding from 127\.0\.0\.1:([0-9]+) ->")
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Streams:
    """Connections into the pods of one namespace."""

    kubectl: Kubectl
    namespace: str

    @contextlib.asynccontextmanager
    async def forwarded(self, pod: str, port: int, patience_s: float = 30.0) -> AsyncIterator[int]:
        """A port of 127.0.0.1 that is forwarded to the pod's until the context ends. Raises BenchError."""
        command = self.kubectl.command(self.namespace, "port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}")
        process = await _start(command)
        assert process.stdout is not None and process.stderr is not None
        try:
            try:
                async with asyncio.timeout(patience_s):
                    line = (await process.stdout.readline()).decode(errors="replace")
            except TimeoutError:
                raise BenchError(f"kubectl port-forward to {pod} did not start within {patience_s:g} s") from None
            match = _LISTENS.search(line)
            if match is None:
                error = (await process.stderr.read()).decode(errors="replace") if not line else line
                raise BenchError(f"kubectl port-forward to {pod}: {error.strip()[:_LONGEST_TEXT] or 'it ended'}")
            rest = asyncio.create_task(_drain(process.stdout))  # a line for each connection
            try:
                yield int(match[1])
            finally:
                rest.cancel()
        finally:
            await end_child(process)

    async def run(self, pod: str, container: str, *words: str) -> bytes:
        """The output of a command in the pod. Raises BenchError with the command's standard error."""
        async with self.streamed(pod, container, *words) as output:
            return await output.read()

    @contextlib.asynccontextmanager
    async def streamed(self, pod: str, container: str, *words: str) -> AsyncIterator[asyncio.StreamReader]:
        """The output of a command in the pod. Raises BenchError on leaving the context if the command failed."""
        process = await _start(
            self.kubectl.command(self.namespace, "exec", pod, f"--container={container}", "--", *words)
        )
        assert process.stdout is not None and process.stderr is not None
        errors = asyncio.create_task(process.stderr.read())
        try:
            yield process.stdout
            if code := await process.wait():
                text = " ".join((await errors).decode(errors="replace").split())[:_LONGEST_TEXT]
                raise BenchError(f"in pod {pod}: {words[0]}: {text or f'exit code {code}'}")
        finally:
            await end_child(process)
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


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
