"""Every recipe with stand-ins: its calls and their order; a failure stops it; it can run twice."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infrastructure.recipes import INFRASTRUCTURE, ROOT, Recipes
from workload_generator.commands import kn_bench

GOLDEN = Path(__file__).parent / "golden/calls.json"
CALLS: dict[str, list[str]] = json.loads(GOLDEN.read_text())
PUBLIC = (
    "init up images push-images setup-cluster "
    "install install-serving install-kourier install-eventing install-knative-metrics "
    "top runserving serving-scenario-1 serving-scenario-2 serving-scenario-3 "
    "runeventing eventing-scenario-1 eventing-scenario-2 eventing-scenario-3 "
    "extract-logs process-logs report prometheus-snapshot prometheus-local "
    "validate get-kubeconfig down kind-up kind-down"
).split()
IMAGES = "        image: dev.local/one:1\n      - image: dev.local/two:1\n"


@pytest.fixture
def recipes(tmp_path: Path) -> Recipes:
    made = Recipes(tmp_path).with_access()
    made.answers = {
        "kubectl config current-context": {"out": "knative-bench.k8s.local\n"},
        "kubectl kustomize": {"out": IMAGES},
        "terraform -chdir=terraform state list": {"out": "google_storage_bucket.kops_state\n"},
        "terraform -chdir=terraform destroy": {},
    }
    return made


def flags(recipe: str) -> list[str]:
    return ["--yes"] if recipe == "down" else []


def test_just_lists_every_recipe_with_its_description(recipes: Recipes) -> None:
    ran = recipes.run()
    assert ran.returncode == 0, ran.stderr
    listed = dict(re.findall(r"^    (\S+)(?: FLAG=\"\"| \*FLAGS)?\s+# (\S.*)$", ran.stdout, re.MULTILINE))
    assert set(listed) == {*PUBLIC, "default"}


@pytest.mark.parametrize("recipe", PUBLIC)
def test_the_calls_of_a_recipe_and_their_order(recipe: str, recipes: Recipes, request: pytest.FixtureRequest) -> None:
    ran = recipes.run(recipe, *flags(recipe))
    assert ran.returncode == 0, ran.stderr
    assert CALLS[recipe]
    assert recipes.calls == CALLS[recipe], (
        f"the calls differ from {GOLDEN}; python -m tests.infrastructure.make_golden replaces it"
    )


@pytest.mark.parametrize("recipe", PUBLIC)
def test_a_recipe_runs_twice(recipe: str, recipes: Recipes) -> None:
    first = recipes.run(recipe, *flags(recipe))
    made, calls = built(recipes), recipes.calls
    recipes.with_access()
    second = recipes.run(recipe, *flags(recipe))
    assert (first.returncode, second.returncode) == (0, 0)
    assert built(recipes) == made
    created = [call for call in calls if call.startswith("kind create")]
    assert [call for call in calls if call not in created] == recipes.calls


def built(recipes: Recipes) -> dict[str, str]:
    build = recipes.folder / "build"
    return {str(path.relative_to(build)): path.read_text() for path in build.rglob("*.yaml")}


def failing_calls() -> Iterator[Any]:
    """Each call of each recipe, by its index. Of equal calls, the first one fails."""
    for recipe, calls in CALLS.items():
        for number, call in enumerate(calls):
            asked = call.startswith(
                ("docker image inspect", "kops get cluster")
            )  # tested separately: their failure is an answer
            if calls.index(call) == number and not asked:
                yield pytest.param(recipe, number, id=f"{recipe}-{number}")


@pytest.mark.parametrize(("recipe", "number"), list(failing_calls()))
def test_a_failed_call_stops_the_recipe_with_its_message(recipe: str, number: int, recipes: Recipes) -> None:
    call = CALLS[recipe][number]
    recipes.answers[call.replace("…", str(recipes.folder))] = {"err": "the disk is on fire\n", "code": 7}
    ran = recipes.run(recipe, *flags(recipe))
    assert ran.returncode not in (0, 2)
    assert "the disk is on fire" in ran.stderr
    assert recipes.calls == CALLS[recipe][: number + 1]


@pytest.mark.parametrize("recipe", ["up", "kind-up", "install-knative-metrics", "down"])
def test_a_missing_tool_is_reported_before_anything_runs(recipe: str, recipes: Recipes) -> None:
    for tool in ("kops", "kind", "helm"):
        (recipes.bin / tool).unlink()
    ran = recipes.run(recipe, *flags(recipe))
    assert ran.returncode == 2
    assert "not found on the PATH" in ran.stderr
    assert recipes.calls == []


def test_all_missing_settings_are_reported_before_anything_runs(recipes: Recipes) -> None:
    settings = recipes.folder / "settings.env"
    settings.write_text((INFRASTRUCTURE / "settings.env").read_text().replace("ZONE=europe-west4-a", "ZONE=europe"))
    for recipe in ("init", "up", "get-kubeconfig", "down"):
        ran = recipes.run(recipe)
        assert ran.returncode == 2
        assert {"PROJECT", "STATE_BUCKET", "API_ACCESS", "REGISTRY", "ZONE"} <= set(
            re.findall(r"\b[A-Z_]{4,}\b", ran.stderr)
        )
        assert recipes.calls == []


@pytest.mark.parametrize("recipe", ["setup-cluster", "install", "top", "runserving", "extract-logs", "validate"])
def test_a_recipe_without_access_to_a_cluster_runs_nothing(recipe: str, recipes: Recipes) -> None:
    (recipes.folder / "build/kubeconfig").unlink()
    ran = recipes.run(recipe)
    assert ran.returncode == 1 and "no access to a cluster" in ran.stderr
    assert recipes.calls == []


@pytest.mark.parametrize("answer", ["", "y\n", "yes\n"])
def test_down_destroys_nothing_unless_the_clusters_name_is_typed(answer: str, recipes: Recipes) -> None:
    ran = recipes.run("down", answer=answer)
    assert ran.returncode == 1 and "nothing was destroyed" in ran.stderr
    assert recipes.calls == []


def test_down_destroys_when_the_clusters_name_is_typed(recipes: Recipes) -> None:
    assert recipes.run("down", answer="knative-bench.k8s.local\n").returncode == 0
    assert [call for call in recipes.calls if "delete" in call or "destroy" in call]


def test_down_rejects_unknown_flags(recipes: Recipes) -> None:
    assert recipes.run("down", "--force").returncode == 2
    assert recipes.calls == []


def test_down_twice_destroys_once(recipes: Recipes) -> None:
    recipes.answers["terraform -chdir=terraform state list"] = {"out": ""}
    ran = recipes.run("down", "--yes")
    assert ran.returncode == 0 and "nothing to destroy" in ran.stdout
    assert not [call for call in recipes.calls if "delete" in call or "destroy" in call]


def test_down_destroys_the_bucket_when_the_cluster_is_gone(recipes: Recipes) -> None:
    recipes.answers["kops get cluster"] = {"err": 'Error: cluster "knative-bench.k8s.local" not found\n', "code": 1}
    assert recipes.run("down", "--yes").returncode == 0
    assert not [call for call in recipes.calls if "kops delete" in call]
    assert recipes.calls[-1].startswith("terraform -chdir=terraform destroy")


def test_down_stops_when_the_cluster_cannot_be_looked_up(recipes: Recipes) -> None:
    recipes.answers["kops get cluster"] = {"err": "Error: oauth2: token expired\n", "code": 1}
    ran = recipes.run("down", "--yes")
    assert ran.returncode == 1 and "token expired" in ran.stderr
    assert not [call for call in recipes.calls if "destroy" in call]


def test_kind_up_reports_images_that_are_not_built(recipes: Recipes) -> None:
    recipes.answers["docker image inspect dev.local/two:1"] = {"code": 1}
    ran = recipes.run("kind-up")
    assert ran.returncode == 1
    assert "not built: dev.local/two:1" in ran.stderr and "dev.local/one:1" not in ran.stderr
    assert "just images" in ran.stderr
    assert not [call for call in recipes.calls if call.startswith("kind")]


def test_a_kind_cluster_gets_the_kind_overlay(recipes: Recipes) -> None:
    recipes.answers["kubectl config current-context"] = {"out": "kind-knative-bench\n"}
    assert recipes.run("_benchmark").returncode == 0
    assert recipes.calls[-1].endswith("kn-bench deploy --overlay kind/benchmark")


def test_validate_runs_kops_on_gce_only(recipes: Recipes) -> None:
    settings = recipes.folder / "settings.env"
    settings.write_text((INFRASTRUCTURE / "settings.env").read_text())
    ran = recipes.run("validate")
    assert ran.returncode == 2 and "PROJECT is missing" in ran.stderr
    assert recipes.calls == ["kubectl config current-context"]
    recipes.answers["kubectl config current-context"] = {"out": "kind-knative-bench\n"}
    (recipes.bin / "kops").unlink()
    assert recipes.run("validate").returncode == 0
    assert [call.rpartition(" ")[2] for call in recipes.calls] == ["current-context", "doctor"]


def test_process_logs_reads_the_logs_of_every_scenario_and_the_metrics(recipes: Recipes) -> None:
    (recipes.data / "serving-1/logs").mkdir(parents=True)
    (recipes.data / "serving-1/logs/a.log").touch()
    (recipes.data / "serving-2/logs").mkdir(parents=True)
    (recipes.data / "metrics.db").touch()
    assert recipes.run("process-logs").returncode == 0
    words = [call.partition(" kn-bench ")[2].split() for call in recipes.calls]
    assert [call[:3] for call in words] == [
        ["extract", "--logs", "…/../data/serving-1/logs"],
        ["extract", "--logs", "…/../data/logs"],
        ["combine", "--db", "…/../data/benchmark.db"],
    ]


def test_process_logs_without_logs_names_the_recipes_to_run(recipes: Recipes) -> None:
    for log in (recipes.data / "logs").iterdir():
        log.unlink()
    ran = recipes.run("process-logs")
    assert ran.returncode == 1 and "just extract-logs" in ran.stderr
    assert recipes.calls == []


def manifests(folder: Path) -> Iterator[str]:
    """The resources of a kustomize folder. Neither components nor patches change images, so they are not rendered."""
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert not listed.keys() & {"components", "images"}
    assert not [patch for patch in listed.get("patches", ()) if "image:" in (folder / patch["path"]).read_text()]
    for path in (folder / name for name in listed["resources"]):
        yield from manifests(path) if path.is_dir() else [path.read_text()]


def test_every_image_has_a_dockerfile(recipes: Recipes) -> None:
    recipes.answers["kubectl kustomize"] = {"out": "".join(manifests(ROOT / "k8s"))}
    assert recipes.run("images").returncode == 0
    built = [call.split()[2:] for call in recipes.calls if call.startswith("docker build")]
    assert len(built) > 5
    for *flags, context in built:
        file = flags[flags.index("--file") + 1] if "--file" in flags else f"{context}/Dockerfile"
        assert (INFRASTRUCTURE / file).is_file(), file
    pushed = recipes.run("push-images")
    assert pushed.returncode == 0
    names = [call.rpartition("/")[2] for call in recipes.calls if call.startswith("docker push")]
    assert names == [flags[flags.index("--tag") + 1].rpartition("/")[2] for flags in built]


def test_kind_down_keeps_the_credentials_of_the_other_cluster(recipes: Recipes) -> None:
    kubeconfig = recipes.folder / "build/kubeconfig"
    kubeconfig.write_text("contexts:\n- context: {}\n  name: knative-bench.k8s.local\n")
    assert recipes.run("kind-down").returncode == 0 and kubeconfig.exists()
    kubeconfig.write_text("contexts: []\n")
    assert recipes.run("kind-down").returncode == 0 and not kubeconfig.exists()


def test_flags_are_passed_on_to_the_scenario(recipes: Recipes) -> None:
    assert recipes.run("serving-scenario-1", "--rates", "100", "--duration=1m").returncode == 0
    assert recipes.calls[-1].endswith(" --languages go,rust,ts --rates 16000 --rates 100 --duration=1m")


def test_an_invalid_run_does_not_stop_the_next_scenarios(recipes: Recipes) -> None:
    scenario = "uv run --locked --project .. kn-bench scenario serving-1"
    recipes.answers[scenario] = {"out": "one run is invalid\n", "code": 3}
    ran = recipes.run("runserving")
    assert ran.returncode == 0 and "one run is invalid" in ran.stdout
    assert recipes.calls[-1].partition("kn-bench ")[2].startswith("report")
    recipes.answers[scenario] = {"err": "refused\n", "code": 2}
    assert recipes.run("runserving").returncode == 2
    assert recipes.calls[-1].startswith(scenario)


def test_install_checks_the_registry_before_it_installs(recipes: Recipes) -> None:
    settings = recipes.folder / "settings.env"
    settings.write_text(settings.read_text().replace("REGISTRY=registry.example:5000/bench", "REGISTRY="))
    ran = recipes.run("install")
    assert ran.returncode == 2 and "REGISTRY is missing" in ran.stderr
    assert recipes.calls == ["kubectl config current-context"]


def test_no_recipe_sleeps() -> None:
    assert not re.search(r"\bsleep\b", (INFRASTRUCTURE / "justfile").read_text())


def test_every_scenario_of_a_recipe_is_bundled() -> None:
    for name in re.findall(r"_scenario \"(\S+)\"", (INFRASTRUCTURE / "justfile").read_text()):
        assert (ROOT / f"experiments/scenarios/{name}.yaml").is_file(), name


def kn_bench_calls() -> Iterator[list[str]]:
    for calls in CALLS.values():
        for call in calls:
            if " kn-bench " in call:
                yield call.partition(" kn-bench ")[2].split()


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=" ".join(words)) for words in sorted(map(list, {tuple(c) for c in kn_bench_calls()}))],
)
def test_kn_bench_accepts_the_flags_of_the_recipes(words: list[str]) -> None:
    """The parser exits at an unknown flag, which fails this test."""
    kn_bench.make_parser().parse_args(words)


def test_shellcheck_finds_nothing_in_the_recipes(tmp_path: Path) -> None:
    dumped = json.loads(
        subprocess.run(
            ["just", "--dump", "--dump-format=json"], cwd=INFRASTRUCTURE, capture_output=True, text=True, check=True
        ).stdout
    )
    scripts = [INFRASTRUCTURE / "kops/reserved-cgroups.sh"]
    for name, recipe in dumped["recipes"].items():
        lines = ["".join(part if isinstance(part, str) else "x" for part in line) for line in recipe["body"]]
        if lines:
            if not lines[0].startswith("#!"):
                lines = ["#!/usr/bin/env bash", "set -euo pipefail", *(line.lstrip("@") for line in lines)]
            scripts.append(tmp_path / f"{name}.sh")
            scripts[-1].write_text("\n".join(lines) + "\n")
    assert len(scripts) > 20
    # SC2154: settings come from settings.env. SC2050: arguments of the recipe are replaced by the constant x.
    ran = subprocess.run(
        ["shellcheck", "--exclude=SC2154,SC2050,SC2194,SC2195", *map(str, scripts)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
