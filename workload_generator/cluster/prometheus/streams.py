"""Connections into a pod through kubectl: a forwarded port, and the output of a command (docs/decisions/022)."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import start_child
from workload_generator.cluster.kubectl import Kubectl

_LISTENS = re.compile(r"Forwarding from 127\.0\.0\.1:([0-9]+) ->")
_LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Streams:
    """Connections into the pods of one namespace."""

    kubectl: Kubectl
    namespace: str

    @contextlib.contextmanager
    def forwarded(self, pod: str, port: int, patience_s: float = 30.0) -> Iterator[int]:
        """A port of 127.0.0.1 that is forwarded to the pod's until the context ends. Raises BenchError."""
        words = ("port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}")
        with tempfile.TemporaryFile() as errors, self._started(errors, *words) as process:
            assert process.stdout is not None
            timer = threading.Timer(patience_s, process.kill)
            timer.start()
            try:
                line = process.stdout.readline().decode(errors="replace")
            finally:
                timer.cancel()
            match = _LISTENS.search(line)
            if match is None:
                text = line or _text(errors) or f"no port after {patience_s:g} s"
                raise BenchError(f"kubectl port-forward to {pod}: {text.strip()}")
            yield int(match[1])

    def run(self, pod: str, container: str, *words: str) -> bytes:
        """The output of a command in the pod. Raises BenchError with the command's standard error."""
        with self.streamed(pod, container, *words) as output:
            return output.read()

    @contextlib.contextmanager
    def streamed(self, pod: str, container: str, *words: str) -> Iterator[IO[bytes]]:
        """The output of a command in the pod. Raises BenchError on leaving the context if the command failed."""
        command = ("exec", pod, f"--container={container}", "--", *words)
        with tempfile.TemporaryFile() as errors, self._started(errors, *command) as process:
            assert process.stdout is not None
            yield process.stdout
            process.stdout.read()
            if code := process.wait():
                raise BenchError(f"in pod {pod}: {words[0]}: {_text(errors) or f'exit code {code}'}")

    @contextlib.contextmanager
    def _started(self, errors: IO[bytes], *words: str) -> Iterator[subprocess.Popen[bytes]]:
        command = self.kubectl.command(self.namespace, *words)
        with start_child(command, stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                yield process
            finally:
                process.kill()


def _text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return " ".join(errors.read().decode(errors="replace").split())[:_LONGEST_TEXT]
