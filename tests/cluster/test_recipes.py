"""The recipes of `infrastructure/` with the real kubectl on a real control plane: the API server accepts the objects,
pods get their nodes, fields of other managers are kept, and a second run changes nothing.

The manifests of releases are small stand-ins (`releases.py`), and so are gcloud, terraform, kops and helm. `kubectl
exec` (tests/pods/kubectl.py) runs the real generator on this machine, with a function on loopback. The plane is a
separate one, since the namespaces have their real names.
"""

from __future__ import annotations

import http.server
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests import needs
from tests.cluster import build
from tests.cluster.api import Api, wait_for
from tests.cluster.conditions import is_true
from tests.cluster.knative import Knative
from tests.cluster.plane import Plane
from tests.cluster.releases import write_releases
from tests.infrastructure.recipes import ROOT, Recipes

VERSION = "1.23.0"
STAND_IN = ROOT / "tests/pods/kubectl.py"
OURS = ("knative-serving", "kourier-system", "knative-eventing", "metrics", "functions", "workload-generator")
KUBECTL = """#!{python}
import os, sys
releases, real = {releases!r}, {real!r}
words = sys.argv[1:]
if "exec" in words:
    os.execv(sys.executable, [sys.executable, {stand_in!r}, *words])
words = [os.path.join(releases, os.path.basename(word)) if word.startswith("https://") else word for word in words]
os.execv(real, [real, *words])
"""

pytestmark = [
    needs.mark(needs.CRDS, needs.KUBECTL),
    needs.mark(needs.OWN_PLANE),
    pytest.mark.timeout(300),
]


class OnAPlane(Recipes):
    """Fail if a part of the plane has exited, for which a recipe would otherwise wait until its timeout."""

    def __init__(self, folder: Path, plane: Plane) -> None:
        super().__init__(folder)
        self._plane = plane

    def run(self, *recipe: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return super().run(*recipe, answer=answer)
        finally:
            self._plane.check()


@pytest.fixture(scope="module")
def own(own_planes: None) -> Iterator[Plane]:
    with Plane(build.build()) as plane:
        yield plane


@pytest.fixture(scope="module")
def cluster(own: Plane) -> Api:
    api = Api(own.kubeconfig)
    # kOps installs metrics-server; a recipe waits for this Deployment.
    labels = {"k8s-app": "metrics-server"}
    container = {"name": "c", "image": "dev.local/c:1"}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    meta = {"name": "metrics-server", "namespace": "kube-system"}
    api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec})
    return api


@pytest.fixture(scope="module")
def recipes(own: Plane, cluster: Api, tmp_path_factory: pytest.TempPathFactory) -> Recipes:
    real = shutil.which("kubectl")
    assert real is not None
    folder = tmp_path_factory.mktemp("recipes")
    made = OnAPlane(folder, own)
    made.with_access()
    shutil.copy(own.kubeconfig, made.folder / "build/kubeconfig")
    releases = folder / "releases"
    releases.mkdir()
    config = yaml.safe_load(own.kubeconfig.read_text())
    write_releases(releases, VERSION, config["clusters"][0]["cluster"]["certificate-authority-data"])
    program = KUBECTL.format(python=sys.executable, releases=str(releases), real=real, stand_in=str(STAND_IN))
    (made.bin / "kubectl").write_text(program)
    pods = folder / "pods"
    (pods / "faults").mkdir(parents=True)
    for namespace in ("workload-generator", "eventing"):
        (pods / "volumes" / namespace).mkdir(parents=True)
    made.env |= {
        "REAL_KN_BENCH": "doctor deploy scenario extract-logs extract report combine",
        "KUBECTL_STANDIN": str(pods),
        "PYTHONPATH": str(ROOT),
    }
    return made


class Function(http.server.BaseHTTPRequestHandler):
    """The response of a warm instance."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"false")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def function(recipes: Recipes) -> Iterator[None]:
    """Send all requests of the generator to this URL."""
    pods = Path(recipes.env["KUBECTL_STANDIN"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Function)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (pods / "flags.json").write_text(json.dumps([f"--dev-url=http://127.0.0.1:{server.server_address[1]}"]))
    (pods / "environment.json").write_text("{}")
    yield
    server.shutdown()
    server.server_close()


def run(recipes: Recipes, *recipe: str) -> str:
    ran = recipes.run(*recipe)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout


@pytest.fixture(scope="module")
def knative(cluster: Api) -> Iterator[Knative]:
    with Knative(cluster, ["functions"]) as knative:
        yield knative


@pytest.fixture(scope="module")
def installed(recipes: Recipes, knative: Knative) -> Recipes:
    run(recipes, "install")
    return recipes


def fields_of(cluster: Api) -> dict[str, object]:
    """The fields that recipes set: spec, data, labels and annotations, without those of controllers."""
    found: dict[str, object] = {}
    kinds = [("v1", "Namespace"), ("v1", "ConfigMap"), ("v1", "Service"), ("apps/v1", "Deployment")]
    kinds += [("serving.knative.dev/v1", "Service"), ("eventing.knative.dev/v1", "Broker")]
    kinds += [("eventing.knative.dev/v1", "Trigger"), ("rabbitmq.com/v1beta1", "RabbitmqCluster")]
    for version, kind in kinds:
        for doc in cluster.list(version, kind):
            meta = doc["metadata"]
            own = {key: meta.get(key) for key in ("uid", "generation", "labels", "annotations")}
            own["annotations"] = {
                key: value for key, value in (own["annotations"] or {}).items() if not key.startswith("deployment.")
            }
            key = f"{version}/{kind}/{meta.get('namespace')}/{meta['name']}"
            found[key] = {**own, "spec": doc.get("spec"), "data": doc.get("data")}
    return found


def placed(cluster: Api, namespace: str) -> set[str]:
    """The nodes of a namespace's pods, all of which are running."""

    def look() -> set[str] | None:
        pods = cluster.list("v1", "Pod", namespace)
        return {each["spec"]["nodeName"] for each in pods} if pods and all(is_true(p, "Ready") for p in pods) else None

    return wait_for(f"the pods of {namespace}", look)


def test_namespaces_get_their_placement_before_their_objects(recipes: Recipes, cluster: Api) -> None:
    run(recipes, "setup-cluster")
    first = {name: cluster.get("v1", "Namespace", None, name)["metadata"] for name in OURS}
    placement = {name: meta.get("annotations", {}) for name, meta in first.items()}
    for name, dedicated in (("knative-serving", "knative"), ("kourier-system", "knative"), ("metrics", "metrics")):
        assert placement[name]["scheduler.alpha.kubernetes.io/node-selector"] == f"dedicated={dedicated}"
        assert f'"value": "{dedicated}"' in placement[name]["scheduler.alpha.kubernetes.io/defaultTolerations"]
    run(recipes, "setup-cluster")
    again = {name: cluster.get("v1", "Namespace", None, name)["metadata"] for name in OURS}
    assert {name: meta["resourceVersion"] for name, meta in again.items()} == {
        name: meta["resourceVersion"] for name, meta in first.items()
    }


def test_a_release_and_our_settings_keep_each_others_fields(recipes: Recipes, cluster: Api) -> None:
    for _ in range(2):  # apply the release over our settings, then our settings over the release
        run(recipes, "install-serving")
        config = cluster.get("v1", "ConfigMap", "knative-serving", "config-autoscaler")
        assert config["data"]["_example"] and config["data"]["stable-window"] == "60s"
        assert config["metadata"]["labels"]["app.kubernetes.io/version"] == VERSION
        namespace = cluster.get("v1", "Namespace", None, "knative-serving")["metadata"]
        assert namespace["labels"]["app.kubernetes.io/version"] == VERSION
        assert namespace["annotations"]["scheduler.alpha.kubernetes.io/node-selector"] == "dedicated=knative"
    managers = {each["manager"] for each in config["metadata"]["managedFields"]}
    assert {"knative-bench", "knative-bench-release"} <= managers
    assert placed(cluster, "knative-serving") == {"knative-0"}


def test_a_changed_setting_is_reset(recipes: Recipes, cluster: Api) -> None:
    run(recipes, "install-serving")
    config = cluster.get("v1", "ConfigMap", "knative-serving", "config-autoscaler")
    cluster.patch(config, {"data": {"stable-window": "10s", "max-scale": "7"}})
    run(recipes, "install-serving")
    data = cluster.get("v1", "ConfigMap", "knative-serving", "config-autoscaler")["data"]
    assert (data["stable-window"], data["max-scale"]) == ("60s", "7"), "our key is reset, the user's is kept"


def test_install_places_all_pods_on_their_nodes(installed: Recipes, cluster: Api) -> None:
    for namespace in ("knative-serving", "kourier-system", "knative-eventing"):
        assert placed(cluster, namespace) == {"knative-0"}
    assert placed(cluster, "workload-generator") == {"workload-generator-0"}
    assert not placed(cluster, "functions") & {"knative-0", "workload-generator-0"}
    pods = [pod for namespace in ("functions", "workload-generator") for pod in cluster.list("v1", "Pod", namespace)]
    images = [c["image"] for pod in pods for c in pod["spec"]["containers"] if c["name"] != "queue-proxy"]
    assert images and {image.rpartition("/")[0] for image in images} == {"registry.example:5000/bench"}


def test_install_again_changes_nothing(installed: Recipes, cluster: Api) -> None:
    first = fields_of(cluster)
    run(installed, "install")
    assert fields_of(cluster) == first


def test_pods_in_metrics_run_on_its_node(installed: Recipes, cluster: Api) -> None:
    pod = {"containers": [{"name": "c", "image": "dev.local/c:1"}]}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "metrics"}, "spec": pod})
    assert placed(cluster, "metrics") == {"metrics-0"}
    tolerations = cluster.get("v1", "Pod", "metrics", "p")["spec"]["tolerations"]
    assert {"key": "dedicated", "operator": "Equal", "value": "metrics", "effect": "NoSchedule"} in tolerations


def test_validate_passes(installed: Recipes) -> None:
    output = run(installed, "validate")
    assert "Knative Serving 1.23.0" in output and "workload-generator-0" in output


def test_scenario_logs_and_database(installed: Recipes, knative: Knative, function: None) -> None:
    for name in ("empty-go-http-0", "empty-rust-http-0"):
        knative.scale("functions", name, 0)  # as the autoscaler does without requests
    flags = ("--languages", "go,rust", "--rates", "20", "--duration", "1s", "--repeats", "1")
    run(installed, "serving-scenario-1", *flags)
    for recipe in ("extract-logs", "process-logs", "report"):
        run(installed, recipe)
    query = "select language, complete, (select count(*) from requests where experiment_id = e.id) from experiments e"
    with closing(sqlite3.connect(installed.data / "benchmark.db")) as database:
        assert sorted(database.execute(query)) == [("go", 1, 20), ("rust", 1, 20)]
    assert (installed.data / "report.html").stat().st_size > 10_000
    scenario, pods = ({path.name for path in (installed.data / at).glob("*.log")} for at in ("serving-1/logs", "logs"))
    assert len(scenario) == 2 and scenario <= pods


def test_an_error_of_the_server_stops_the_recipe_with_its_message(recipes: Recipes) -> None:
    config = recipes.folder / "knative/serving/config.yaml"
    text = config.read_text()
    config.write_text(text.replace("data:\n  stable-window: 60s", "data:\n  stable-window: [60s]"))
    try:
        ran = recipes.run("install-serving")
    finally:
        config.write_text(text)
    assert ran.returncode != 0 and "stable-window" in ran.stderr
