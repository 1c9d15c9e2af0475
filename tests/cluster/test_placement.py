"""Placement and `doctor` with the real names of the namespaces, on separate planes.

One plane has the admission plugins, the other has not; the annotations are the same, and `doctor` must find the
difference.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import build, cluster
from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.plane import PLUGINS, Plane
from tests.cluster.test_doctor import doctor
from tests.infrastructure.test_rendered import INFRASTRUCTURE, kustomized, render

PLACED = ("knative-serving", "kourier-system", "knative-eventing", "metrics")
ON, OFF = PLUGINS, "NodeRestriction"

pytestmark = [pytest.mark.usefixtures("own_planes"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=[ON, OFF], ids=["plugins on", "plugins off"])
def placed(request: pytest.FixtureRequest, own_planes: None) -> Iterator[tuple[Plane, Api]]:
    """Each plane, with the namespaces of infrastructure/namespaces."""
    with Plane(build.build(), plugins=request.param) as plane:
        api = Api(plane.kubeconfig)
        for doc in kustomized(INFRASTRUCTURE / "namespaces"):
            api.apply(doc)
        for name in PLACED:
            wait_for(name, lambda name=name: api.find("v1", "ServiceAccount", name, "default"))
        yield plane, api
        plane.check()


def findings(plane: Plane, check: str, kubeconfig: Path | None = None) -> list[dict[str, Any]]:
    return [each for each in doctor(kubeconfig or plane.kubeconfig)[1] if each["check"] == check]


def test_doctor_reports_missing_plugins(placed: tuple[Plane, Api]) -> None:
    plane, api = placed
    before = {each["metadata"]["uid"] for each in api.list("v1", "Pod")}
    found = findings(plane, "admission")
    if plane.plugins == ON:
        assert {each["verdict"] for each in found} == {"ok"} and len(found) == 2 * len(PLACED), found
    else:
        off = [f"PodNodeSelector is off: a pod in {name} gets no dedicated=" for name in PLACED]
        off += [f"PodTolerationRestriction is off: a pod in {name} gets no toleration" for name in PLACED]
        failed = [each["text"] for each in found if each["verdict"] == "failed"]
        assert len(failed) == len(off) and all(any(text.startswith(one) for text in failed) for one in off), found
    assert {each["metadata"]["uid"] for each in api.list("v1", "Pod")} == before, "a dry run stores nothing"


def test_annotations_place_pods_only_with_the_plugins(placed: tuple[Plane, Api]) -> None:
    plane, api = placed
    for name in PLACED:
        spec = {"containers": [{"name": "c", "image": "dev.local/c:1"}]}
        api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": name}, "spec": spec})
    nodes = {name: wait_for(name, lambda name=name: node_of(api, name)) for name in PLACED}
    wanted = {name: "metrics-0" if name == "metrics" else "knative-0" for name in PLACED}
    if plane.plugins == ON:
        assert nodes == wanted
    else:
        assert not set(nodes.values()) & set(wanted.values()), "tainted, and no pod tolerates it"


def node_of(api: Api, namespace: str) -> str | None:
    name: str | None = api.get("v1", "Pod", namespace, "p")["spec"].get("nodeName")
    return name


def test_nodes_without_label_or_taint_are_reported(placed: tuple[Plane, Api]) -> None:
    plane, api = placed
    node = api.get("v1", "Node", None, "metrics-0")
    try:
        api.patch(node, {"spec": {"taints": None}})
        (warned,) = [each for each in findings(plane, "nodes") if each["verdict"] == "warning"]
        assert warned["text"] == "metrics-0 is not tainted dedicated=metrics:NoSchedule"
        api.patch(node, {"metadata": {"labels": {"dedicated": None}}})
        texts = {each["text"] for each in findings(plane, "admission")}
        assert "namespace metrics selects nodes with dedicated=metrics: there is none" in texts
    finally:
        taints = [{"key": "dedicated", "value": "metrics", "effect": "NoSchedule"}]
        api.patch(node, {"metadata": {"labels": {"dedicated": "metrics"}}, "spec": {"taints": taints}})


def test_settings_of_infrastructure_are_valid(placed: tuple[Plane, Api], tmp_path: Path) -> None:
    """Each ConfigMap of infrastructure/knative passes strict validation and the checks of `doctor`."""
    plane, api = placed
    render.folder(INFRASTRUCTURE / "knative", {"DOMAIN": "bench.example"}, tmp_path / "knative")
    applied = set()
    for part in ("serving", "eventing"):
        for doc in kustomized(tmp_path / "knative" / part):
            meta = doc["metadata"]
            meta["labels"] = {**meta.get("labels", {}), "app.kubernetes.io/version": "1.23.0"}
            api.apply(doc)
            applied.add(f"{meta['namespace']}/{meta['name']}")
    assert len(applied) > 5
    found = {
        each["text"].partition(": ")[0]: each for each in findings(plane, "configuration") if each["verdict"] == "ok"
    }
    assert applied <= set(found), [each["text"] for each in findings(plane, "configuration") if each["verdict"] != "ok"]
    config = api.get("v1", "ConfigMap", "knative-serving", "config-autoscaler")
    wrong = {"enable-scale-to-zero": "false", "stable-windw": "60s"}
    api.patch(config, {"data": {**wrong, "_example": 'stable-window: "60s"\n'}})  # as a release has it
    bad = [each for each in findings(plane, "configuration") if "config-autoscaler" in each["text"]]
    assert {each["verdict"] for each in bad} == {"failed", "warning"}, bad


def test_missing_permissions_of_an_account_are_reported(placed: tuple[Plane, Api], tmp_path: Path) -> None:
    plane, api = placed
    body: Doc = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": None}}
    token = api.call("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", body)["status"]["token"]
    config = yaml.safe_load(plane.kubeconfig.read_text())
    authority = base64.b64encode((plane.folder / "ca.pem").read_bytes()).decode()
    config["clusters"][0]["cluster"]["certificate-authority-data"] = authority
    config["users"][0]["user"] = {"token": token}
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    code, findings = doctor(path)
    assert code == 1
    access = {each["why"]: each for each in findings if each["check"] == "access"}
    deploy = access["kn-bench deploy, delete needs it"]
    assert (
        deploy["verdict"] == "failed"
        and "create, patch, delete services.serving.knative.dev in functions" in deploy["text"]
    )
    assert "create pods/exec in workload-generator" in access["kn-bench scenario --platform cluster needs it"]["text"]
    unknown = {each["check"] for each in findings if each["verdict"] == "unknown"}
    assert {"nodes", "capacity", "quotas", "storage", "conditions", "pods", "generator", "admission"} <= unknown
    assert [each for each in findings if each["check"] == "tools"], "the other checks still run"


def test_the_planes_nodes_match_the_instance_groups(placed: tuple[Plane, Api]) -> None:
    _, api = placed
    nodes = {each["metadata"]["name"]: each for each in api.list("v1", "Node")}
    for purpose in cluster.DEDICATED:
        node = nodes[f"{purpose}-0"]
        assert node["metadata"]["labels"]["dedicated"] == purpose
        (taint,) = node["spec"]["taints"]
        assert (taint["key"], taint["value"], taint["effect"]) == ("dedicated", purpose, "NoSchedule")
