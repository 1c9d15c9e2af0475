"""`kn-bench local`, `receiver` and `event-logger` as child processes of a command."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - else loaded at the first connection, where a signal's exception would be lost
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from workload_generator.base.control_token import control_headers
from workload_generator.base.errors import BenchError
from workload_generator.base.no_proxy import open_directly
from workload_generator.base.subprocesses import start_child
from workload_generator.emulator.detect import platform_of
from workload_generator.emulator.ports import LOOPBACK, free_port
from workload_generator.emulator.receiver_triggers import BROKER, PARALLELISM, receiver_triggers
from workload_generator.emulator.server_process import ANSWER_S, answers, run_server, stop_process
from workload_generator.log.format import LOCAL

_COMMAND = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
_FIRST_PORT = 18080
_FIRST_RECEIVER_PORT = 19000
_DRAIN_S = 30.0


class PlatformProcess:
    """`kn-bench local` as a child process, which can be run several times."""

    def __init__(self, port: int | None, output: Path, folder: Path) -> None:
        """On `port`, or a free one. Its standard output is appended to `output`; its configuration is in `folder`."""
        self._port = free_port(port, first=_own_part(_FIRST_PORT, 900))
        self.url = f"http://{LOOPBACK}:{self._port}"
        first = _FIRST_RECEIVER_PORT
        self.receiver_port = free_port(first=_own_part(first, 480), last=first + 499)
        self.logger_port = free_port(first=_own_part(first + 500, 480), last=first + 999)
        self.logger_url = f"http://{LOOPBACK}:{self.logger_port}"
        self.output = output
        self._config = folder / "platform.yaml"
        self._document: Mapping[str, Any] = {}

    def configure(self, document: Mapping[str, Any], triggers: int = 0, parallelism: int = PARALLELISM) -> None:
        """Set its configuration (docs/local.md), with this number of triggers that deliver to the receiver."""
        made = receiver_triggers(triggers, f"http://{LOOPBACK}:{self.receiver_port}", parallelism)
        named = {name: trigger.to_json() for name, trigger in made.items()}
        self._document = {**document, **({"brokers": {BROKER: {"triggers": named}}} if named else {})}

    def generate(self, flags: Sequence[str], *, event: bool) -> int:
        """Run `workload-generator` against it, with `event` against its broker; returns the exit code."""
        command = [sys.executable, "-m", "workload_generator", *flags]
        environment = dict(os.environ)
        if event:
            environment |= {"K_SINK": f"{self.url}/broker/{BROKER}", "EVENT_LOGGER_URL": self.logger_url}
        else:
            command.append(f"--dev-url={self.url}")
        process = start_child(command, env=environment)
        try:
            return process.wait()
        except BaseException:
            stop_process(process)  # for a process that a Ctrl-C reached too, the second signal: it ends at once
            raise

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run it while the context is active, ready from its beginning on. Raises BenchError."""
        self._config.write_text(yaml.safe_dump(dict(self._document)))
        flags = [f"--port={self._port}", f"--config={self._config}"]
        command = [sys.executable, "-c", _COMMAND.format("kn_bench"), "local", *flags]
        with (
            self.output.open("ab") as output,
            run_server("the embedded platform", command, self._is_ready, self.output, stdout=output),
        ):
            yield

    def instances(self) -> int:
        """The number of instances. Raises BenchError."""
        return int(self._get("/_platform")["instances"])

    def wait_for_zero(self, within_s: float) -> None:
        """Wait until there are no instances. Raises BenchError after `within_s`."""
        _wait_for_none(self.instances, within_s, "instances are running")

    def wait_for_delivery(self, within_s: float = _DRAIN_S) -> None:
        """Wait until the broker has delivered every event. Raises BenchError after `within_s`."""
        _wait_for_none(self._undelivered, within_s, "events are not delivered")

    def wait_for_drained(self, within_s: float) -> None:
        """Wait until no request is in flight and every event is delivered. Raises BenchError after `within_s`."""
        _wait_for_none(lambda: int(self._get("/_platform")["in_flight"]), within_s, "requests are in flight")
        self.wait_for_delivery(within_s)

    def _undelivered(self) -> int:
        brokers = self._get("/_platform/brokers").values()
        triggers = [trigger for broker in brokers for trigger in broker["triggers"].values()]
        return sum(trigger["queued"] + trigger["in_flight"] for trigger in triggers)

    def _get(self, path: str) -> Any:
        try:
            request = urllib.request.Request(f"{self.url}{path}", headers=control_headers(self.url))
            with open_directly(request, ANSWER_S) as response:
                return json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"the embedded platform at {self.url} does not respond: {error}") from None

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        return platform_of(self.url) == LOCAL and bool(self._get("/_platform")["pid"] == process.pid)


@contextlib.contextmanager
def receiver_processes(platform: PlatformProcess, logs: Path) -> Iterator[None]:
    """Run `event-logger`, with its files in `logs`, and `receiver` while the context is active. Raises BenchError."""

    def server(name: str, port: int, flag: str) -> contextlib.AbstractContextManager[object]:
        command = [sys.executable, "-c", _COMMAND.format(name), f"--port={port}", f"--bind={LOOPBACK}", flag]
        health = f"http://{LOOPBACK}:{port}/healthz"
        name = name.replace("_", "-")
        return run_server(name, command, lambda _: answers(health), platform.output, stderr=output)

    with (  # the receiver stops first: its last receipts are for the logger
        platform.output.open("ab") as output,
        server("event_logger", platform.logger_port, f"--data={logs}"),
        server("receiver", platform.receiver_port, f"--logger={platform.logger_url}"),
    ):
        yield


def _own_part(first: int, width: int) -> int:
    """Where this process begins to search for a port, so that two that start at once do not find the same one."""
    return first + os.getpid() * 7 % width


def _wait_for_none(count: Callable[[], int], within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while (left := count()) > 0:
        if time.monotonic() > deadline:
            raise BenchError(f"after {within_s:g} s, {left} {what}")
        time.sleep(0.1)
