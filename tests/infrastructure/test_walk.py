"""The steps of docs/infrastructure.md, in a simulated world where each recipe needs the results of earlier ones."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.infrastructure.recipes import INFRASTRUCTURE, ROOT, TOOLS, Recipes
from tests.results.logs import served, whole_log

PAGE = (ROOT / "docs/infrastructure.md").read_text()
SCENARIOS = ("serving-1", "serving-2", "serving-3", "eventing-1")


class Newcomer:
    """A user with the tools and a project or a laptop."""

    def __init__(self, folder: Path) -> None:
        self.recipes = Recipes(folder)
        self.world = folder / "world"
        (self.world / "pod").mkdir(parents=True)
        shutil.rmtree(self.recipes.data)
        for number, name in enumerate(SCENARIOS):
            runs = self.world / "runs" / name
            runs.mkdir(parents=True)
            prefix = f"{name.replace('-', '-scenario-')}_1000rps_go"
            log = whole_log([served(seq) for seq in range(5)], run_id=f"run-{number}", prefix=prefix)
            (runs / f"{prefix}_2026-11-25_10-11-1{number}.log").write_bytes(log)
        kubectl = shutil.which("kubectl")
        assert kubectl
        self.recipes.env = {"WORLD": str(self.world), "REAL_KUBECTL": kubectl}
        for tool in (*TOOLS, "uv"):
            self.recipes.add(tool, "world.py")

    def does(self, *recipe: str, answer: str = "") -> str:
        ran = self.recipes.run(*recipe, answer=answer)
        assert ran.returncode == 0, f"just {' '.join(recipe)}: {ran.stdout[-1500:]}{ran.stderr[-1500:]}"
        return ran.stdout

    def fails(self, *recipe: str) -> str:
        ran = self.recipes.run(*recipe)
        assert ran.returncode != 0
        return ran.stderr

    @property
    def state(self) -> dict[str, object]:
        state: dict[str, object] = json.loads((self.world / "state.json").read_text())
        return state

    def runs(self) -> set[str]:
        """Prefixes of the runs in the database, each of which is complete and unique."""
        with closing(sqlite3.connect(self.recipes.data / "benchmark.db")) as database:
            rows = database.execute(
                "select prefix, complete, (select count(*) from requests where experiment_id = e.id) from experiments e"
            ).fetchall()
        assert {row[1:] for row in rows} == {(1, 5)}
        assert len(rows) == len({row[0] for row in rows})
        return {row[0] for row in rows}


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path)


def prefixes(*names: str) -> set[str]:
    return {f"{name.replace('-', '-scenario-')}_1000rps_go" for name in names}


def test_from_an_empty_project_to_a_database(newcomer: Newcomer) -> None:
    assert "no access to a cluster: run just up" in newcomer.fails("install")
    newcomer.does("init")
    newcomer.does("up")
    assert newcomer.state["cluster"] == [
        "control-plane-europe-west4-a", "metrics", "workload-generator", "knative", "functions"
    ]  # fmt: skip
    newcomer.does("setup-cluster")
    assert "ErrImagePull: registry.example:5000/bench/" in newcomer.fails("_benchmark"), "nothing was pushed yet"
    newcomer.does("push-images")
    newcomer.does("install")
    newcomer.does("validate")
    newcomer.does("runserving")
    assert newcomer.runs() == prefixes("serving-1", "serving-2", "serving-3")
    assert "<html" in (newcomer.recipes.data / "report.html").read_text()[:1000]
    # Again, step by step, over the existing files: nothing is counted twice.
    for step in ("serving-scenario-1", "eventing-scenario-1", "extract-logs", "process-logs"):
        newcomer.does(step)
    assert newcomer.runs() == prefixes("serving-1", "serving-2", "serving-3", "eventing-1")
    newcomer.does("down", answer="knative-bench.k8s.local\n")
    assert (newcomer.state["bucket"], newcomer.state["cluster"]) == ("", [])
    assert "no access to a cluster" in newcomer.fails("runserving")
    assert newcomer.runs() == prefixes("serving-1", "serving-2", "serving-3", "eventing-1"), "the data stays"
    assert "nothing to destroy" in newcomer.does("down", "--yes")


def test_from_a_laptop_to_a_database(newcomer: Newcomer) -> None:
    settings = newcomer.recipes.folder / "settings.env"
    settings.write_text((INFRASTRUCTURE / "settings.env").read_text())  # no project, no registry
    assert "just images" in newcomer.fails("kind-up")
    newcomer.does("images")
    newcomer.does("kind-up")
    newcomer.does("install")
    newcomer.does("validate")
    newcomer.does("serving-scenario-1")
    newcomer.does("extract-logs")
    newcomer.does("process-logs")
    newcomer.does("report")
    assert newcomer.runs() == prefixes("serving-1")
    newcomer.does("kind-down")
    assert newcomer.state["kind"] == []
    assert "no access to a cluster" in newcomer.fails("install")


def test_the_page_names_exactly_the_public_recipes() -> None:
    listed = re.findall(
        r"^([a-z][a-z0-9-]*)(?: [A-Z]+=\"\"| \*FLAGS)?:", (INFRASTRUCTURE / "justfile").read_text(), re.MULTILINE
    )
    named = set(re.findall(r"(?:^    |`)just ([a-z][a-z0-9-]+)", PAGE, re.MULTILINE))
    assert named == set(listed)


def test_the_page_has_the_steps_of_these_tests() -> None:
    """Each part of the page has the steps of a walk above, in its order."""
    cloud, laptop = (re.findall(r"^    just ([a-z0-9-]+)", part, re.MULTILINE) for part in PAGE.split("\n## ")[1:3])
    assert cloud == ["init", "up", "push-images", "install", "validate", "top", "runserving", "runeventing", "down"]
    assert laptop == ["images", "kind-up", "install", "validate", "runserving", "kind-down", "serving-scenario-1"]
