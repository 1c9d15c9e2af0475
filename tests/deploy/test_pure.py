"""What needs no cluster: images, changes, stages, and when an object is ready."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.objects import _united, stages
from workload_generator.cluster.deploy.readiness import why_not_ready
from workload_generator.cluster.deploy.services import Images
from workload_generator.kube.resources import SERVICES


@pytest.mark.parametrize(
    ("registry", "tag", "image", "becomes"),
    [
        (None, None, "dev.local/f:1", "dev.local/f:1"),
        ("reg.example:5000/a", None, "dev.local/f:1", "reg.example:5000/a/f:1"),
        (None, "2", "reg.example:5000/a/f:1", "reg.example:5000/a/f:2"),
        ("r", "2", "f", "r/f:2"),
        ("r", None, "f", "r/f"),
        ("r", "2", "a/f:1@sha256:00", "r/f:2"),
    ],
)
def test_images(registry: str | None, tag: str | None, image: str, becomes: str) -> None:
    assert Images(registry, tag).of(image) == becomes


def test_changes_survive_json_and_can_be_undone() -> None:
    service = {
        "metadata": {"name": "f-0", "namespace": "functions"},
        "spec": {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "3"}}, "spec": {}}},
    }
    wanted = tuning.of_service(1, {"max-scale": "5", "window": None, "metric": "rps"})
    changes = tuning.plan(SERVICES, [service], wanted)
    assert [str(each) for each in changes] == [
        "Service functions/f-0: containerConcurrency none → 1",
        "Service functions/f-0: max-scale 3 → 5",
        "Service functions/f-0: metric none → rps",
    ]
    again = [tuning.SettingChange.from_json(json.loads(json.dumps(each.to_json()))) for each in changes]
    assert again == changes
    assert [(each.key, each.new) for each in tuning.undone(changes)] == [
        ("metric", None),
        ("max-scale", "3"),
        ("containerConcurrency", None),
    ]


def test_a_job_comes_after_the_configuration_that_its_pods_read() -> None:
    """Else a pod may begin with what an earlier run left there."""
    objects = [
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "generator"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "experiment"}},
    ]
    assert [[obj["kind"] for obj in stage] for stage in stages(objects)] == [["ConfigMap"], ["Job"]]


def test_stages_put_what_is_needed_first_and_keep_the_order_within() -> None:
    def of(version: str, kind: str) -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}

    objects = [
        of("sources.knative.dev/v1", "ContainerSource"),
        of("eventing.knative.dev/v1", "Trigger"),
        of("serving.knative.dev/v1", "Service"),
        of("v1", "Service"),
        of("eventing.knative.dev/v1", "Broker"),
        of("eventing.knative.dev/v1alpha1", "RabbitmqBrokerConfig"),
        of("scheduling.k8s.io/v1", "PriorityClass"),
        of("v1", "Namespace"),
    ]
    assert [[obj["kind"] for obj in stage] for stage in stages(objects)] == [
        ["Namespace"],
        ["Service", "PriorityClass"],
        ["Service"],
        ["RabbitmqBrokerConfig"],
        ["Broker"],
        ["Trigger"],
        ["ContainerSource"],
    ]


def _obj(kind: str, version: str = "serving.knative.dev/v1", **status: Any) -> dict[str, Any]:
    about = {"name": "x", "generation": 2}
    return {"apiVersion": version, "kind": kind, "metadata": about, "spec": {"replicas": 2}, "status": status}


_TRUE = {"type": "Ready", "status": "True"}


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (_obj("Broker", conditions=[_TRUE], observedGeneration=2), ""),
        (_obj("Broker", conditions=[_TRUE], observedGeneration=1), "its last change is not reconciled yet"),
        (_obj("Broker"), "it is not reconciled yet"),
        (
            _obj("Broker", conditions=[{"type": "Ready", "status": "False", "reason": "R", "message": "m"}]),
            "R: m",
        ),
        (_obj("Broker", conditions=[{"type": "Ready", "status": "Unknown"}]), "Ready is Unknown"),
        (
            _obj(
                "Service",
                conditions=[_TRUE],
                observedGeneration=2,
                latestCreatedRevisionName="x-2",
                latestReadyRevisionName="x-1",
            ),
            "its revision x-2 is not ready",
        ),
        (_obj("Deployment", observedGeneration=1), "its last change is not reconciled yet"),
        (_obj("Deployment", observedGeneration=2, replicas=3, updatedReplicas=1), "1 of 2 pods are updated"),
        (
            _obj("Deployment", observedGeneration=2, replicas=3, updatedReplicas=2, availableReplicas=2),
            "1 old pods still exist",
        ),
        (
            _obj("Deployment", observedGeneration=2, replicas=2, updatedReplicas=2, availableReplicas=1),
            "1 of 2 pods are available",
        ),
        (_obj("Deployment", observedGeneration=2, replicas=2, updatedReplicas=2, availableReplicas=2), ""),
        (
            _obj(
                "Deployment",
                observedGeneration=2,
                conditions=[{"type": "ReplicaFailure", "status": "True", "reason": "Q", "message": "quota"}],
            ),
            "Q: quota",
        ),
        (
            _obj("RabbitmqCluster", conditions=[{"type": "AllReplicasReady", "status": "True"}]),
            "it is not reconciled yet",
        ),
        (None, "it does not exist"),
    ],
)
def test_why_an_object_is_not_ready(obj: dict[str, Any] | None, why: str) -> None:
    assert why_not_ready(obj) == why


def test_what_two_owned_is_owned_together() -> None:
    one = {"f:spec": {"f:a": {}, "f:containers": {'k:{"name":"c"}': {".": {}, "f:image": {}}}}}
    other = {"f:spec": {"f:b": {}, "f:containers": {'k:{"name":"c"}': {"f:env": {}}}}}
    assert _united(one, other) == {
        "f:spec": {"f:a": {}, "f:b": {}, "f:containers": {'k:{"name":"c"}': {".": {}, "f:image": {}, "f:env": {}}}}
    }
