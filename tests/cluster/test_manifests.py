"""The manifests of `k8s/` on a real API server, with admission, schemas, Pod Security and the scheduler.

They are applied in namespaces of the session, which have the labels and annotations of the manifests' namespaces.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.api import Api, Doc, Refused, wait_for
from tests.cluster.conditions import is_true
from tests.cluster.knative import Knative
from tests.cluster.namespaces import Namespaces
from tests.cluster.plane import Plane
from tests.test_manifests import (
    COMPONENTS,
    EVENTING,
    FOLDERS,
    RECEIVER_SERVICE,
    combined,
    documents,
    one,
    templates,
)

DEDICATED = {"workload-generator", "workload-generator-shards", "metrics"}

pytestmark = pytest.mark.usefixtures("has_knative")


@contextlib.contextmanager
def moved(namespaces: Namespaces, docs: list[Doc]) -> Iterator[list[Doc]]:
    """The documents in new namespaces, which are deleted at the end of the context."""
    moved = namespaces.move(docs)
    try:
        yield moved
    finally:
        namespaces.delete(*{doc["metadata"]["namespace"] for doc in moved})


def spec_of(doc: Doc) -> Doc:
    """The fields that a user or a default set, without those of controllers."""
    meta = {
        key: doc["metadata"].get(key) for key in ("name", "namespace", "uid", "generation", "labels", "ownerReferences")
    }
    return {**{key: value for key, value in doc.items() if key != "status"}, "metadata": meta}


@pytest.mark.parametrize("folder", [*FOLDERS, *EVENTING])
def test_every_folder_is_accepted_and_applying_it_again_changes_nothing(namespaces: Namespaces, folder: str) -> None:
    with moved(namespaces, documents(folder)) as docs:
        first = namespaces.apply(docs)
        assert len(first) == len(docs) > 0
        for once, again in zip(first, namespaces.apply(docs), strict=True):
            if once["kind"] != "PersistentVolumeClaim":  # the controller binds the claim in between
                assert spec_of(once) == spec_of(again)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_component_is_accepted(namespaces: Namespaces, tmp_path: Path, component: str) -> None:
    with moved(namespaces, combined(tmp_path, "base", component)) as docs:
        namespaces.apply(docs)


@pytest.mark.parametrize("components", [(), (RECEIVER_SERVICE,)], ids=["deployment", "knative-service"])
@pytest.mark.parametrize("folder", ["eventing/rabbitmq", "eventing/in-memory", "eventing/sequence"])
def test_eventing_becomes_ready(
    plane: Plane, kube: Api, namespaces: Namespaces, tmp_path: Path, folder: str, components: tuple[str, ...]
) -> None:
    """Pods are admitted, scheduled and have their volume; the stand-in acts for Knative's controllers."""
    with moved(namespaces, combined(tmp_path, folder, *components)) as docs:
        where = docs[0]["metadata"]["namespace"]
        namespaces.apply(docs)
        with Knative(kube, [where]):
            for doc in docs:
                condition = {"Deployment": "Available", "Broker": "Ready", "Trigger": "Ready"}.get(doc["kind"])
                if doc["apiVersion"].startswith("serving.knative.dev/"):
                    condition = "Ready"
                if condition is not None:
                    name = doc["metadata"]["name"]
                    wait_for(
                        f"{doc['kind']} {name}",
                        lambda doc=doc, name=name, condition=condition: is_true(
                            kube.get(doc["apiVersion"], doc["kind"], where, name), condition
                        ),
                    )
        claim = kube.get("v1", "PersistentVolumeClaim", where, "event-logger")
        assert claim["status"]["phase"] == "Bound"


def test_an_unknown_field_is_an_error(namespaces: Namespaces) -> None:
    with moved(namespaces, documents(".")) as docs:
        for kind, name in (("Deployment", "workload-generator"), ("Service", "empty-go-http-0")):
            doc = one(docs, kind, name)
            doc["spec"]["template"]["spec"]["nodeSelektor"] = {}
            with pytest.raises(Refused, match="nodeSelektor"):
                namespaces.apply([doc])


@pytest.mark.parametrize("folder", ["overlays/gce", "overlays/scenario-3"])
def test_pods_pass_pod_security_and_get_their_nodes(
    plane: Plane, kube: Api, namespaces: Namespaces, folder: str
) -> None:
    nodes = {each["metadata"]["name"]: each["metadata"]["labels"].get("dedicated") for each in kube.list("v1", "Node")}
    with moved(namespaces, documents(folder)) as docs:
        generator = one(docs, "Deployment")["metadata"]["namespace"]
        functions = one(docs, "Service", "empty-go-http-0")["metadata"]["namespace"]
        namespaces.apply(docs)
        with Knative(kube, [functions]):
            services = [doc["metadata"]["name"] for doc in docs if doc["apiVersion"].startswith("serving")]
            for name in services:
                wait_for(
                    f"{name}",
                    lambda name=name: is_true(kube.get("serving.knative.dev/v1", "Service", functions, name), "Ready"),
                )
        wait_for(
            "the generator", lambda: [is_true(each, "Ready") for each in kube.list("v1", "Pod", generator)] == [True]
        )
        assert [nodes[each["spec"]["nodeName"]] for each in kube.list("v1", "Pod", generator)] == ["workload-generator"]
        placed = [nodes[each["spec"]["nodeName"]] for each in kube.list("v1", "Pod", functions)]
        assert len(placed) >= len(services) and set(placed) == {None}


def test_the_jobs_pods_run_on_the_generators_node(plane: Plane, kube: Api, namespaces: Namespaces) -> None:
    with moved(namespaces, documents("job")) as docs:
        where = namespaces.apply(docs)[0]["metadata"]["namespace"]
        pods = wait_for("both", lambda: _both_ready(kube.list("v1", "Pod", where)))
        assert {each["spec"]["nodeName"] for each in pods} == {"workload-generator-0"}


def _both_ready(pods: list[Doc]) -> list[Doc] | None:
    return pods if [is_true(each, "Ready") for each in pods] == [True, True] else None


def test_the_namespace_of_metrics_is_bound_to_its_node(plane: Plane, kube: Api, namespaces: Namespaces) -> None:
    """PodNodeSelector adds the namespace's selector to pods, and rejects pods with another one."""
    with moved(namespaces, _with_a_pod(documents("overlays/gce"), "metrics")) as docs:
        pod = namespaces.apply([one(docs, "Pod", "asks-for-nothing")])[0]
        assert pod["spec"]["nodeSelector"] == {"dedicated": "metrics"}
        where = pod["metadata"]["namespace"]
        wait_for("it", lambda: is_true(kube.get("v1", "Pod", where, "asks-for-nothing"), "Ready"))
        assert kube.get("v1", "Pod", where, "asks-for-nothing")["spec"]["nodeName"] == "metrics-0"
        elsewhere = one(docs, "Pod", "asks-for-nothing")
        elsewhere["metadata"]["name"] = "asks-for-another"
        elsewhere["spec"]["nodeSelector"] = {"dedicated": "knative"}
        with pytest.raises(Refused, match="node label selector conflict"):
            namespaces.apply([elsewhere])


def test_a_namespaces_annotations_place_pods_on_a_tainted_node(plane: Plane, kube: Api, namespaces: Namespaces) -> None:
    """PodNodeSelector and PodTolerationRestriction, which Knative's namespaces need."""
    tolerations = [{"key": "dedicated", "operator": "Equal", "value": "knative", "effect": "NoSchedule"}]
    annotations = {
        "scheduler.alpha.kubernetes.io/node-selector": "dedicated=knative",
        "scheduler.alpha.kubernetes.io/defaultTolerations": json.dumps(tolerations),
    }
    where = namespaces.make("knative", annotations=annotations)
    (doc,) = _with_a_pod([], where)
    namespaces.apply([doc])
    wait_for("the pod", lambda: is_true(kube.get("v1", "Pod", where, "asks-for-nothing"), "Ready"))
    assert kube.get("v1", "Pod", where, "asks-for-nothing")["spec"]["nodeName"] == "knative-0"


@pytest.mark.parametrize("name", ["workload-generator", "functions"])
def test_an_unrestricted_pod_is_rejected(namespaces: Namespaces, name: str) -> None:
    with moved(namespaces, _with_a_pod(documents("."), name)) as docs, pytest.raises(Refused, match="PodSecurity"):
        namespaces.apply([one(docs, "Pod", "asks-for-nothing")])


def test_templates_meet_the_standard_of_their_namespaces(namespaces: Namespaces) -> None:
    """Pod Security rejects only pods, so each template is tried as a pod in its namespace."""
    with moved(namespaces, documents("overlays/eventing")) as docs:
        named = {f"{doc['kind']}/{doc['metadata']['name']}": doc["metadata"]["namespace"] for doc in docs}
        accounts = [doc for doc in docs if doc["kind"] == "ServiceAccount"]
        namespaces.apply(accounts)
        for name, template in templates(docs):
            spec = {key: value for key, value in template["spec"].items() if key != "containerConcurrency"}
            meta = {"name": "t", "namespace": named[name]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
            namespaces.check(pod)
            namespaces.api.apply(pod, dry_run=True)


def _with_a_pod(docs: list[Doc], namespace: str) -> list[Doc]:
    spec = {"containers": [{"name": "c", "image": "dev.local/c:1"}]}
    meta = {"name": "asks-for-nothing", "namespace": namespace}
    return [*docs, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}]
