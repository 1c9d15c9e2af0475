"""`kn-bench local` and its receivers as children of a command, which end with it."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - loaded at the first connection otherwise, where a signal's exception is lost
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from workload_generator.base.errors import BenchError
from workload_generator.base.no_proxy import open_directly
from workload_generator.base.subprocesses import start_child
from workload_generator.emulator.detect import platform_of
from workload_generator.emulator.fanout import BROKER, PARALLELISM, FanOut
from workload_generator.emulator.process import free_port
from workload_generator.log.format import LOCAL

_KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
_SERVICE = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
_FIRST_PORT = 18080
_FIRST_RECEIVER_PORT = 19000
_START_S = 30.0
_ANSWER_S = 10.0
_ZERO_S = 60.0
_DRAIN_S = 30.0
_GRACE_S = 20.0  # the platform's own is 5 s for requests and 5 s for instances


class Embedded:
    """`kn-bench local` as a child. A context: it answers inside and is gone after."""

    def __init__(self, port: int | None, said: Path, folder: Path) -> None:
        """On `port`, or a free one. `said` gets what it prints, `folder` its settings; `configure` says which."""
        self._port = free_port(port, first=_own_part(_FIRST_PORT, 900))
        self.url = f"http://127.0.0.1:{self._port}"
        first = _FIRST_RECEIVER_PORT
        self.receiver_port = free_port(first=_own_part(first, 480), last=first + 499)
        self.logger_port = free_port(first=_own_part(first + 500, 480), last=first + 999)
        self.said = said
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._document: Mapping[str, Any] = {}

    def configure(self, document: Mapping[str, Any], triggers: int = 0, parallelism: int = PARALLELISM) -> None:
        """The settings (docs/local.md) with which it starts, and so many triggers that lead to `Receivers`."""
        made = FanOut(triggers, f"http://127.0.0.1:{self.receiver_port}", parallelism).settings()
        self._document = {**document, **({"brokers": {BROKER: {"triggers": made}}} if made else {})}

    @property
    def logger_url(self) -> str:
        """Where the event logger of its `Receivers` listens."""
        return f"http://127.0.0.1:{self.logger_port}"

    def generate(self, flags: Sequence[str], *, event: bool) -> int:
        """Run `workload-generator` against it, with events against its broker; returns the exit code."""
        command = [sys.executable, "-m", "workload_generator", *flags]
        environment = dict(os.environ)
        if event:  # where they go, and whose clock the receivers' are compared with
            environment |= {"K_SINK": f"{self.url}/broker/{BROKER}", "EVENT_LOGGER_URL": self.logger_url}
        else:
            command.append(f"--dev-url={self.url}")
        process = start_child(command, env=environment)
        try:
            return process.wait()
        except BaseException:
            end_process(process)  # when the Ctrl-C reached it too, this is its second signal: it ends at once
            raise

    def __enter__(self) -> Embedded:
        config = self._folder / "platform.yaml"
        config.write_text(yaml.safe_dump(dict(self._document)))
        command = [sys.executable, "-c", _KN_BENCH, "local", f"--port={self._port}", f"--config={config}"]
        with self.said.open("ab") as out:
            self._process = start_child(
                command,
                stdout=out,
                process_group=0,  # a Ctrl-C is for the quickstart, which ends the run first and then the platform
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def instances(self) -> int:
        """How many are there now. Raises BenchError when the platform does not say."""
        return int(self._ask("/_platform")["instances"])

    def wait_for_delivery(self, within_s: float = _DRAIN_S) -> None:
        """Until the broker has nothing left to deliver. Raises BenchError when that takes too long."""
        _until_none(self._undelivered, within_s, "events are not delivered")

    def wait_for_drained(self, within_s: float) -> None:
        """Until no request is in flight and every event is delivered. Raises BenchError when that takes too long."""
        _until_none(self._in_flight, within_s, "requests are in flight")
        self.wait_for_delivery(within_s)

    def _in_flight(self) -> int:
        return int(self._ask("/_platform")["in_flight"])

    def _undelivered(self) -> int:
        brokers = self._ask("/_platform/brokers").values()
        triggers = [trigger for broker in brokers for trigger in broker["triggers"].values()]
        return sum(trigger["queued"] + trigger["in_flight"] for trigger in triggers)

    def _ask(self, path: str) -> Any:
        try:
            with open_directly(f"{self.url}{path}", _ANSWER_S) as response:
                return json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"the platform does not answer any more: {error}") from None

    def wait_for_zero(self, within_s: float = _ZERO_S) -> None:
        """Until no instance is left. Raises BenchError when that takes too long."""
        _until_none(self.instances, within_s, "instances are there")

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while platform_of(self.url) != LOCAL or self._ask("/_platform")["pid"] != self._process.pid:
            code = self._process.poll()
            if code is not None:
                raise BenchError(f"the platform ended with exit code {code} before it answered")
            if time.monotonic() > deadline:
                raise BenchError(f"the platform did not answer within {_START_S:g} s")
            time.sleep(0.05)

    def _stop(self) -> None:
        if self._process is not None:
            end_process(self._process)


class Receivers:
    """`event-logger` and `receiver` as children, the former writing among the logs. A context like the platform's."""

    def __init__(self, platform: Embedded, logs: Path) -> None:
        self._commands = [
            ("event_logger", platform.logger_port, f"--data={logs}"),
            ("receiver", platform.receiver_port, f"--logger={platform.logger_url}"),
        ]
        self._said = platform.said
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Receivers:
        """Start both, and wait until they answer. Raises BenchError."""
        try:
            for name, port, flag in self._commands:
                self._start(name, port, flag)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self, name: str, port: int, flag: str) -> None:
        command = [sys.executable, "-c", _SERVICE.format(name), f"--port={port}", "--bind=127.0.0.1", flag]
        with self._said.open("ab") as out:
            process = start_child(command, stderr=out, process_group=0)
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{name.replace('_', '-')} did not answer: {self._said} says why")
            time.sleep(0.05)

    def _stop(self) -> None:
        while self._processes:  # the receiver first: what it still has is for the logger
            end_process(self._processes.pop())


def _own_part(first: int, width: int) -> int:
    """Where this process begins to look for a port, so that two that start at once do not find the same one free."""
    return first + os.getpid() * 7 % width


def _until_none(count: Callable[[], int], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while (left := count()) > 0:
        if time.monotonic() > deadline:
            raise BenchError(f"{left} {what} still, after {within_s:g} s")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        with open_directly(f"http://127.0.0.1:{port}/healthz", _ANSWER_S):
            return True
    except (OSError, http.client.HTTPException):
        return False


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End it: politely first, then for certain."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
