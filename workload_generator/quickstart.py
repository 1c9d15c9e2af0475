"""`kn-bench quickstart`: the whole benchmark on this machine, from functions to a report, by the code of any run.

It starts `kn-bench local`, runs four short experiments against it with `workload-generator`, extracts their logs and
writes the report. The experiments are the bundled `quickstart-*`, with the functions that are built here in the place
of the Python one.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from rich.console import Console

from workload_generator.bundled import find_experiment, find_platform
from workload_generator.catalog import Function, load_catalog
from workload_generator.children import die_with_parent
from workload_generator.errors import BenchError, UsageError
from workload_generator.extraction import extract_and_show
from workload_generator.load.platforms import LOCAL, platform_of
from workload_generator.loading import load_experiment
from workload_generator.local.process import free_port
from workload_generator.reporting import MissingExtra, report_and_show
from workload_generator.results.store import open_store

_DOMAIN = "functions.svc.cluster.local"
_KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
_VALID, _INVALID = 0, 3  # both have a whole log
_FIRST_RECEIVER_PORT = 19000
_START_S = 30.0
_ANSWER_S = 10.0
_ZERO_S = 60.0  # the stable window is 4 s
_DRAIN_S = 30.0
_BROKER = "default/default"
_TRIGGERS = ("receiver-0", "receiver-1")
_SERVICE = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
_GRACE_S = 20.0  # the platform's own is 5 s for requests and 5 s for instances


@dataclass(frozen=True, slots=True)
class Part:
    """One run of the quickstart: an experiment with its targets replaced by `services`."""

    title: str
    experiment: str
    prefix: str
    services: tuple[str, ...]
    flags: tuple[str, ...] = ()
    from_zero: bool = False
    events: bool = False


def quickstart(data: Path, port: int | None, console: Console) -> None:
    """Run it. `data` gets `logs/`, `platform.txt`, `benchmark.db` and `report.html`.

    Raises BenchError; nothing is left running.
    """
    began = time.monotonic()
    logs, db, said = data / "logs", data / "benchmark.db", data / "platform.txt"
    _prepare(logs, said)
    open_store(db).close()  # what is wrong with it is better known before the runs than after
    functions = load_catalog()
    parts = plan(functions, console)
    invalid = []
    with tempfile.TemporaryDirectory(prefix="kn-bench-") as name, _Platform(port, said, Path(name)) as platform:
        console.print(f"the embedded platform answers at {platform.url}; what it does is in {said}", soft_wrap=True)
        for number, part in enumerate(parts, 1):
            console.print(f"\n[bold]{number} of {len(parts)}: {part.title}[/]", soft_wrap=True)
            if part.from_zero and platform.instances():
                console.print("waiting for the platform to scale to zero")
                platform.wait_for_zero()
            if part.events:
                with _Receivers(platform, logs):
                    valid = _generate(part, platform.url, logs, Path(name))
                    platform.wait_for_delivery()
            else:
                valid = _generate(part, platform.url, logs, Path(name))
            if not valid:
                invalid.append(part.title)
                console.print("[yellow]its verdict is invalid, for the reasons above; the quickstart goes on[/]")
    console.print()
    extract_and_show(logs, db, console)
    try:
        report_and_show(db, data / "report.html", console, tables=False)
    except MissingExtra as error:
        console.print(f"[yellow]no report:[/] {error}", soft_wrap=True)
    for title in invalid:
        console.print(f"[yellow]invalid[/] {title}: this machine was too busy to measure; run it again", soft_wrap=True)
    console.print(f"done in {time.monotonic() - began:.0f} s; ask {db} more: docs/database.md", soft_wrap=True)


def plan(functions: Mapping[str, Function], console: Console) -> list[Part]:
    """The runs, for the languages whose functions are built. Raises UsageError when one that is needed is not."""
    empty = {match[1]: name for name in functions if (match := re.fullmatch(r"empty-(.+)-http", name))}
    languages = [language for language, name in empty.items() if functions[name].built]
    missing = [language for language in empty if language not in languages]
    if not languages:
        raise UsageError("no function is built: `kn-bench functions build` builds them")
    if missing:
        console.print(f"not built, and so left out: {', '.join(missing)}; `kn-bench functions build` builds them")
    warm, concurrency = (_rps(name) for name in ("quickstart-warm", "quickstart-concurrency"))
    parts = [
        Part(
            f"scenario 1, warm calls: {language}, {warm} requests a second",
            "quickstart-warm",
            f"serving-scenario-1_{warm}rps_{language}",
            (f"empty-{language}-http-0",),
            ("--ping",),  # its instance is there when the run begins
        )
        for language in languages
    ]
    parts.append(
        Part(
            f"scenario 2, cold starts: {', '.join(languages)}",
            "quickstart-cold",
            f"serving-scenario-2_{languages[0] if len(languages) == 1 else 'all'}",
            tuple(f"empty-{language}-http-0" for language in languages),
            ("--cold-start",),
            from_zero=True,
        )
    )
    parts.append(
        Part(
            f"scenario 3, one request at a time: {concurrency} requests a second are more than the instances can serve",
            "quickstart-concurrency",
            f"serving-scenario-3_{concurrency}rps_python",
            ("sleep-python-http-0",),
        )
    )
    events = _rps("quickstart-events")
    parts.append(
        Part(
            f"eventing: {events} events a second through a broker with {len(_TRIGGERS)} triggers",
            "quickstart-events",
            f"eventing-scenario-1_{len(_TRIGGERS)}triggers_{events}rps",
            (),
            ("--event",),
            events=True,
        )
    )
    return parts


def narrowed(experiment: str, services: Sequence[str], folder: Path) -> Path:
    """The bundled experiment with its first target for each of the services, as a file in `folder`."""
    path = find_experiment(experiment)
    document = yaml.safe_load(path.read_text())
    first = document["targets"][0]
    document["targets"] = [{**first, "url": f"http://{service}.{_DOMAIN}"} for service in services]
    narrow = folder / path.name
    narrow.write_text(yaml.safe_dump(document, sort_keys=False))
    return narrow


def _rps(experiment: str) -> str:
    return load_experiment(find_experiment(experiment), event=True).rate.display_rps


def _prepare(logs: Path, said: Path) -> None:
    try:
        logs.mkdir(parents=True, exist_ok=True)
        said.write_text("")
    except OSError as error:
        raise UsageError(
            f"cannot write to {error.filename or logs}: {error.strerror}; choose another folder with --data"
        ) from None


class _Platform:
    """`kn-bench local` as a child. A context: it answers inside and is gone after."""

    def __init__(self, port: int | None, said: Path, folder: Path) -> None:
        self._port = free_port(port)
        self.url = f"http://127.0.0.1:{self._port}"
        self.receiver_port = free_port(first=_FIRST_RECEIVER_PORT, last=_FIRST_RECEIVER_PORT + 499)
        self.said = said
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Platform:
        config = self._folder / "platform.yaml"
        document = yaml.safe_load(find_platform("quickstart").read_text())
        receiver = f"http://127.0.0.1:{self.receiver_port}/t"
        triggers = {name: {"subscriber": f"{receiver}/{name}", "parallelism": 10} for name in _TRIGGERS}
        config.write_text(yaml.safe_dump({**document, "brokers": {_BROKER: {"triggers": triggers}}}))
        command = [sys.executable, "-c", _KN_BENCH, "local", f"--port={self._port}", f"--config={config}"]
        with self.said.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                process_group=0,  # a Ctrl-C is for the quickstart, which ends the run first and then the platform
                preexec_fn=die_with_parent(),
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

    def wait_for_delivery(self) -> None:
        """Until the broker has nothing left to deliver. Raises BenchError when that takes too long."""
        deadline = time.monotonic() + _DRAIN_S
        while (left := self._undelivered()) > 0:
            if time.monotonic() > deadline:
                raise BenchError(f"{left} events are not delivered after {_DRAIN_S:g} s")
            time.sleep(0.1)

    def _undelivered(self) -> int:
        triggers = self._ask("/_platform/brokers")[_BROKER]["triggers"].values()
        return sum(trigger["queued"] + trigger["in_flight"] for trigger in triggers)

    def _ask(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=_ANSWER_S) as response:
                return json.load(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"the platform does not answer any more: {error}") from None

    def wait_for_zero(self) -> None:
        """Until no instance is left. Raises BenchError when that takes too long."""
        deadline = time.monotonic() + _ZERO_S
        while (left := self.instances()) > 0:
            if time.monotonic() > deadline:
                raise BenchError(f"{left} instances are still there after {_ZERO_S:g} s without a request")
            time.sleep(0.1)

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while platform_of(self.url) != LOCAL:
            code = self._process.poll()
            if code is not None:
                raise BenchError(f"the platform ended with exit code {code} before it answered")
            if time.monotonic() > deadline:
                raise BenchError(f"the platform did not answer within {_START_S:g} s")
            time.sleep(0.05)

    def _stop(self) -> None:
        if self._process is not None:
            _end(self._process)


class _Receivers:
    """`event-logger` and `receiver` as children, the former writing among the logs. A context like the platform's."""

    def __init__(self, platform: _Platform, logs: Path) -> None:
        port = free_port(first=_FIRST_RECEIVER_PORT + 500, last=_FIRST_RECEIVER_PORT + 999)
        self._commands = [
            ("event_logger", port, f"--data={logs}"),
            ("receiver", platform.receiver_port, f"--logger=http://127.0.0.1:{port}"),
        ]
        self._said = platform.said
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Receivers:
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
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=out, process_group=0, preexec_fn=die_with_parent()
            )
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{name.replace('_', '-')} did not answer: {self._said} says why")
            time.sleep(0.05)

    def _stop(self) -> None:
        while self._processes:  # the receiver first: what it still has is for the logger
            _end(self._processes.pop())


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_ANSWER_S):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _generate(part: Part, url: str, logs: Path, folder: Path) -> bool:
    """Run one part; whether its verdict is valid. Raises BenchError when it has no whole log."""
    config = find_experiment(part.experiment) if part.events else narrowed(part.experiment, part.services, folder)
    command = [sys.executable, "-m", "workload_generator", f"--config={config}", f"--prefix={part.prefix}"]
    command += [f"--log-dir={logs}", *part.flags] + ([] if part.events else [f"--dev-url={url}"])
    environment = {**os.environ, "K_SINK": f"{url}/broker/{_BROKER}"} if part.events else None
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, preexec_fn=die_with_parent())
    try:
        code = process.wait()
    except BaseException:
        _end(process)  # when the Ctrl-C reached it too, this is its second signal: it ends at once
        raise
    if code not in (_VALID, _INVALID):
        raise BenchError(f"the workload generator ended with exit code {code}")
    return code == _VALID


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it: politely first, then for certain."""
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
