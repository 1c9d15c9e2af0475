"""The embedded platform as the platform of a scenario.

It is a child process. The scenario's patch is part of its settings, so there is nothing to restore when it has ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from workload_generator.base.errors import BenchError, ExperimentError, UsageError
from workload_generator.base.no_proxy import open_directly
from workload_generator.cluster.pods import agent
from workload_generator.cluster.pods.pod_run import RunSpec
from workload_generator.emulator.platform_process import PlatformProcess, receiver_processes
from workload_generator.emulator.settings import function_of, load_config
from workload_generator.functions.catalog import load_catalog
from workload_generator.scenarios.model import RunMode, Scenario, WaitCondition
from workload_generator.scenarios.runner import CellSetup, Say

_FIRST_START_S = 60.0
_RENAMED = {"window": "stable-window", "target-utilization-percentage": "container-concurrency-target-percentage"}


def with_built_languages(scenario: Scenario, say: Say) -> Scenario:
    """The scenario without the languages whose functions are not built. Raises UsageError when no function is."""
    if scenario.services is None:
        return scenario
    functions = load_catalog()
    missing, built = {}, []
    for language in scenario.languages:
        service = scenario.services.replace("{language}", language)
        name = function_of(service, functions)
        if name is None or not functions[name].built:
            missing[language] = service
        else:
            built.append(language)
    if scenario.languages and not built:
        raise UsageError(
            f"no function is built for {', '.join(missing.values())}: `kn-bench functions build` builds them, "
            "or choose other --languages (python needs no build)"
        )
    if missing:
        say(f"skipping languages whose functions are not built: {', '.join(missing)}")
    return dataclasses.replace(scenario, languages=tuple(built))


class EmulatorPlatform:
    """Starts the embedded platform with the settings of a cell, and restarts it when they change."""

    name = "local"

    def __init__(self, port: int | None, scenario: Scenario, logs: Path, said: Path, folder: Path) -> None:
        """Raises UsageError when the scenario cannot run on it."""
        self._logs = logs
        self._folder = folder
        self._wait_s = scenario.wait_at_most_ns / 1e9
        self._embedded = PlatformProcess(port, said, folder)
        self._scenario = scenario
        self._running: CellSetup | None = None
        self._children = contextlib.ExitStack()
        if scenario.pods > 1:
            raise UsageError("pods: the embedded platform has no pods; use processes")
        path = self._folder / "patch"
        path.write_text(yaml.safe_dump(_settings(scenario, scenario.all_services())))
        try:
            load_config(path, load_catalog(), {})
        except ExperimentError as error:
            reasons = "\n".join(f"  {problem.key}: {problem.message}" for problem in error.problems)
            raise UsageError(
                f"patch: the embedded platform does not support this (docs/local.md):\n{reasons}"
            ) from None

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """Nothing."""
        return {}

    def patch(self, scenario: Scenario) -> None:
        """Nothing: `deploy` starts it with the patch."""

    def restore(self, found: Mapping[str, Any]) -> None:
        """End it, and the patch with it."""
        self.close()

    def left_behind(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """End its processes."""
        self._running = None
        self._children.close()

    def deploy(self, setup: CellSetup) -> None:
        """Start it with these settings, unless it already runs with them."""
        if self._running == setup:
            return
        self.close()
        triggers = (setup.triggers or 1) if setup.event else 0
        self._embedded.configure(_settings(self._scenario, setup.services), triggers, setup.parallelism or 10)
        self._children.enter_context(self._embedded.running())
        if setup.event:
            self._children.enter_context(receiver_processes(self._embedded, self._logs))
        for service in setup.services:
            self._start(service)
        self._running = setup

    def _start(self, service: str) -> None:
        """Start an instance, as Knative does for each new revision."""
        request = urllib.request.Request(f"{self._embedded.url}/health/readiness", headers={"Host": service})
        try:
            with open_directly(request, _FIRST_START_S):
                pass
        except urllib.error.HTTPError as error:
            why = error.read().decode("utf-8", "replace").strip()
            raise BenchError(f"{service} does not become ready: {error.code} {why}") from None
        except OSError as error:
            raise BenchError(f"{service} does not become ready: {error}") from None

    def wait(self, condition: WaitCondition, setup: CellSetup) -> None:
        """Wait until the condition holds."""
        match condition:
            case WaitCondition.READY:
                pass  # `deploy` has waited for it
            case WaitCondition.DRAINED:
                self._embedded.wait_for_drained(self._wait_s)
            case WaitCondition.ZERO:
                self._embedded.wait_for_zero(self._wait_s)

    def run(self, run: RunSpec, again: bool) -> int:
        """Run the generator as a child process. A run that was started before has ended with its parent."""
        if again:
            agent.aside({**run.request, "folder": str(self._logs)})
            return -1
        config = self._folder / f"{run.name}.yaml"
        config.write_text(run.experiment)
        flags = run.flags_for(str(config), str(self._logs))
        return self._embedded.generate(flags, event=self._scenario.mode is RunMode.EVENT)


def _settings(scenario: Scenario, services: Sequence[str]) -> dict[str, Any]:
    """The patch under the platform's names."""
    patch = scenario.patch
    own: dict[str, Any] = {_RENAMED.get(key, key): str(value) for key, value in scenario.annotations().items()}
    if patch.container_concurrency is not None:
        own["containerConcurrency"] = patch.container_concurrency
    plain = {
        key: int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value
        for key, value in own.items()
    }
    return {
        "defaults": {key: str(value) for key, value in patch.autoscaler.items()},
        "services": dict.fromkeys(services, plain),
    }
