"""A platform that keeps its configuration in a file, and whose runs are lines in another: to be killed at will.

`python -m tests.scenarios.platforms FOLDER` runs a scenario of twelve steps on it and says each step on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workload_generator.cluster.pods.pod_run import RunSpec
from workload_generator.scenarios.model import Scenario, WaitCondition, load_scenario
from workload_generator.scenarios.runner import CellSetup, Runner, ScenarioPlan, restore_changes
from workload_generator.scenarios.state import StateFile

FOUND = {"stable-window": "60s"}
SCENARIO = """
scenario: serving-scenario-1
experiment: serving-scenario-1-go
services: empty-{language}-http-0
languages: [go, rust]
rates: [1, 2, 3]
repeats: 2
patch: {autoscaler: {stable-window: 10s}}
wait: [zero, ready]
"""


class FilePlatform:
    """`config.json` is what a cluster would hold. `hang` with 3 makes the third run stay; `codes` are exit codes."""

    name = "file"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.json"
        if not self.config.exists():
            self.config.write_text(json.dumps(FOUND))
        self.codes: dict[str, int] = {}

    def read(self, scenario: Scenario) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.config.read_text())
        return found

    def patch(self, scenario: Scenario) -> None:
        self.config.write_text(json.dumps(scenario.patch.autoscaler))

    def restore(self, found: Mapping[str, Any]) -> None:
        self._log("restore")
        self.config.write_text(json.dumps(found))

    def left_behind(self) -> dict[str, Any]:
        return {}

    def deploy(self, setup: CellSetup) -> None:
        self._log(f"deploy {' '.join(setup.services)}")

    def wait(self, condition: WaitCondition, setup: CellSetup) -> None:
        self._log(f"wait {condition}")

    def run(self, run: RunSpec, again: bool) -> int:
        if again:
            self._log(f"again {run.prefix} {run.run_id}")
            return -1
        assert json.loads(self.config.read_text()) == {"stable-window": "10s"}, "not patched"
        self._log(f"run {run.prefix} {run.run_id}")
        hang = self.folder / "hang"
        while hang.exists() and sum(line.startswith("run ") for line in lines(self.folder)) >= int(hang.read_text()):
            time.sleep(0.01)
        return self.codes.get(run.prefix, 0)

    def _log(self, line: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(f"{line}\n")


def lines(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.exists() else []


def prepare(folder: Path, text: str = SCENARIO) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def go(folder: Path, platform: FilePlatform, seed: int = 1) -> list[str]:
    """One start; what it said."""
    said: list[str] = []
    path = folder / "scenario.yaml"
    with StateFile(folder / "out") as file:
        Runner(ScenarioPlan(load_scenario(path, {}), path, platform.name, seed), platform, file, said.append).execute()
    return said


def restore(folder: Path, platform: FilePlatform) -> bool:
    with StateFile(folder / "out") as file:
        return restore_changes(file, platform, lambda line: None)


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
    go(Path(sys.argv[1]), FilePlatform(Path(sys.argv[1])))
