"""The stand-in's folder, and what tests do with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import Answer, target
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import sessions
from workload_generator.cluster.pods.locations import always
from workload_generator.cluster.pods.sessions import Pod, PodAgent


class Clock:
    """The time of event loops and of sessions, which a test may put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_s = 0.0
        monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda _loop: self.now())
        monkeypatch.setattr(sessions, "time", SimpleNamespace(monotonic=self.now))

    def now(self) -> float:
        return time.monotonic() + self._ahead_s

    def skip(self, seconds: float) -> None:
        self._ahead_s += seconds


NAMESPACE, NAME = "workload-generator", "generator-1"


class Standin:
    """`kubectl` on PATH is ours as long as the test lasts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in ("faults", "bin"):
            (folder / name).mkdir(parents=True)
        program = folder / "bin" / "kubectl"
        here = Path(__file__).parent / "kubectl.py"
        program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-S", str(here)])} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("KUBECTL_STANDIN", str(folder))
        self.configure()

    def configure(self, *flags: str, **environment: str) -> None:
        """What is added to the generator's flags, and to everything's environment."""
        (self.folder / "flags.json").write_text(json.dumps(flags))
        (self.folder / "environment.json").write_text(json.dumps(environment))

    def pod(self, name: str = NAME, namespace: str = NAMESPACE) -> Path:
        """The folder of a pod, made when it is not there."""
        pod = self.folder / "pods" / namespace / name
        for each in ("logs", "tmp", "data"):
            (pod / each).mkdir(parents=True, exist_ok=True)
        return pod

    def fault(self, match: str, **how: Any) -> None:
        """One call that matches goes wrong: see kubectl.py."""
        number = len(list((self.folder / "faults").iterdir())) + time.time_ns()
        (self.folder / "faults" / f"{number}.json").write_text(json.dumps({"match": match, **how}))

    @property
    def faults_left(self) -> int:
        return len(list((self.folder / "faults").iterdir()))

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> list[list[str]]:
        """The generator's command lines."""
        commands = [call[call.index("--") + 1 :] for call in self.calls if "--" in call]
        return [command for command in commands if command[0] == "workload-generator"]

    def agent(self, patience_s: float = 20.0, name: str = NAME, container: str = "workload-generator") -> PodAgent:
        return PodAgent(Kubectl(), always(Pod(NAMESPACE, name, container, uid="1")), patience_s)

    def end(self) -> None:
        """Whatever was run is gone."""
        path = self.folder / "processes"
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(line), signal.SIGKILL)


@contextlib.contextmanager
def served(answer: Answer) -> Iterator[str]:
    """`support.target` in a thread of its own, for commands that run in this one."""
    with contextlib.ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(loop.call_soon_threadsafe, loop.stop)
        serving = target(answer)
        url = asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(30)
        stack.callback(lambda: asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(30))
        yield url
