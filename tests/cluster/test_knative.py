"""The stand-in for Knative's controllers on a real control plane: objects and faults that other tests rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.conditions import conditions, is_true
from tests.cluster.knative import Knative
from tests.cluster.namespaces import Namespaces
from tests.cluster.plane import Plane

pytestmark = pytest.mark.usefixtures("plane", "has_knative")
SERVICE = "serving.knative.dev/v1"


@pytest.fixture
def knative(plane: Plane, kube: Api, namespace: str) -> Iterator[Knative]:
    with Knative(kube, [namespace]) as knative:
        yield knative


def service(namespace: str, image: str = "dev.local/f:1") -> Doc:
    container = {"name": "function", "image": image, "resources": {"requests": {"cpu": "100m"}}}
    return {
        "apiVersion": SERVICE,
        "kind": "Service",
        "metadata": {"name": "f", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


def ready(kube: Api, namespace: str, generation: int) -> Doc | None:
    found = kube.get(SERVICE, "Service", namespace, "f")
    seen = found.get("status", {}).get("observedGeneration")
    return found if seen == generation and is_true(found, "Ready") else None


def pods(kube: Api, namespace: str, revision: str) -> list[Doc]:
    return kube.list("v1", "Pod", namespace, f"serving.knative.dev/revision={revision}")


def test_a_service_becomes_ready_scales_and_gets_new_revisions(kube: Api, knative: Knative, namespace: str) -> None:
    kube.apply(service(namespace))
    first = wait_for("the service", lambda: ready(kube, namespace, 1))["status"]
    assert first["latestReadyRevisionName"] == first["latestCreatedRevisionName"] == "f-00001"
    assert len(pods(kube, namespace, "f-00001")) == 1
    knative.scale(namespace, "f", 3)
    wait_for("three pods", lambda: sum(is_true(each, "Ready") for each in pods(kube, namespace, "f-00001")) == 3)
    knative.scale(namespace, "f", 0)
    wait_for("no pod, not even a terminating one", lambda: not pods(kube, namespace, "f-00001"))
    assert (
        kube.get("autoscaling.internal.knative.dev/v1alpha1", "PodAutoscaler", namespace, "f-00001")["status"][
            "desiredScale"
        ]
        == 0
    )
    kube.apply(service(namespace, "dev.local/f:2"))
    second = wait_for("the second revision", lambda: ready(kube, namespace, 2))["status"]
    assert second["latestReadyRevisionName"] == "f-00002"
    kube.delete(SERVICE, "Service", namespace, "f")
    wait_for("the garbage collector", lambda: not kube.list("apps/v1", "Deployment", namespace))


def test_a_pod_runs_before_it_is_ready(kube: Api, knative: Knative, namespace: str) -> None:
    doc = service(namespace)
    doc["spec"]["template"]["metadata"] = {"annotations": {"knative-bench.test/never-ready": ""}}
    kube.apply(doc)

    def running() -> Doc | None:
        return next((each for each in pods(kube, namespace, "f-00001") if each["status"]["phase"] == "Running"), None)

    assert [each["status"] for each in conditions(wait_for("a running pod", running), "Ready")] == ["False"]
    (outcome,) = conditions(kube.get(SERVICE, "Service", namespace, "f"), "Ready")
    assert outcome["status"] == "Unknown"


def source(namespace: str, cpu: str) -> Doc:
    container = {"name": "g", "image": "dev.local/g:1", "resources": {"requests": {"cpu": cpu}}}
    spec = {
        "containers": [container],
        "nodeSelector": {"dedicated": "workload-generator"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    }
    sink = {"ref": {"apiVersion": "v1", "kind": "Service", "name": "sink"}}
    return {
        "apiVersion": "sources.knative.dev/v1",
        "kind": "ContainerSource",
        "metadata": {"name": "g", "namespace": namespace},
        "spec": {"template": {"spec": spec}, "sink": sink},
    }


def sink(namespace: str) -> Doc:
    spec = {"selector": {"app": "sink"}, "ports": [{"port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sink", "namespace": namespace}, "spec": spec}


def has_sink(pod: Doc) -> bool:
    return any(each["name"] == "K_SINK" for each in pod["spec"]["containers"][0].get("env", []))


def test_a_source_gets_its_sink(kube: Api, knative: Knative, namespace: str) -> None:
    kube.apply(sink(namespace))
    kube.apply(source(namespace, "100m"))

    def bound() -> Doc | None:
        found = kube.get("sources.knative.dev/v1", "ContainerSource", namespace, "g")
        return found if is_true(found, "Ready") else None

    assert wait_for("the source", bound)["status"]["sinkUri"] == f"http://sink.{namespace}.svc.cluster.local"
    assert [has_sink(each) for each in kube.list("v1", "Pod", namespace)] == [True]
    assert len(kube.list("apps/v1", "ReplicaSet", namespace)) == 1, "it never rolled, as 15 of 15 on Eventing 1.22.2"


def test_a_late_sink_leaves_the_new_pod_pending_behind_the_old_one(kube: Api, knative: Knative, namespace: str) -> None:
    """The node has room for one pod of 1.2 CPUs, not for two, so the real scheduler leaves the new one pending."""
    kube.apply(source(namespace, "1200m"))
    wait_for("the old pod", lambda: [is_true(each, "Ready") for each in kube.list("v1", "Pod", namespace)] == [True])
    kube.apply(sink(namespace))
    wait_for("two pods", lambda: len(kube.list("v1", "Pod", namespace)) == 2)

    def stuck() -> Doc | None:
        (new,) = [each for each in kube.list("v1", "Pod", namespace) if has_sink(each)]
        return next((each for each in conditions(new, "PodScheduled") if each["status"] == "False"), None)

    assert wait_for("the scheduler's word", stuck)["reason"] == "Unschedulable"
    (old,) = [each for each in kube.list("v1", "Pod", namespace) if not has_sink(each)]
    assert is_true(old, "Ready")


def test_a_source_older_than_its_sink_gets_it_when_its_binding_is_touched(
    plane: Plane, kube: Api, namespaces: Namespaces
) -> None:
    namespace = namespaces.make("late")
    with Knative(kube, [namespace], late_sinks=False) as knative:
        kube.apply(source(namespace, "100m"))
        wait_for(
            "the old pod", lambda: [is_true(each, "Ready") for each in kube.list("v1", "Pod", namespace)] == [True]
        )
        kube.apply(sink(namespace))

        def touch(kind: str, name: str) -> None:
            doc = kube.get("sources.knative.dev/v1", kind, namespace, name)
            kube.patch(doc, {"metadata": {"annotations": {"touched": "now"}}})

        def rounds(count: int) -> None:
            least = knative.rounds + count
            wait_for("the controllers", lambda: knative.rounds >= least)

        touch("ContainerSource", "g")
        rounds(3)
        assert [has_sink(each) for each in kube.list("v1", "Pod", namespace)] == [False]
        (cause,) = conditions(kube.get("sources.knative.dev/v1", "ContainerSource", namespace, "g"), "SinkBindingReady")
        assert (cause["status"], cause["reason"]) == ("False", "NotFound")
        touch("SinkBinding", "g-sinkbinding")
        wait_for("a pod with K_SINK", lambda: [has_sink(each) for each in kube.list("v1", "Pod", namespace)] == [True])
    namespaces.delete(namespace)
