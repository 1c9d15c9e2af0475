"""Each check of `doctor`, on a cluster in which one thing is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doctor.fit import (
    CONFIGS,
    Doctor,
    admission,
    change,
    config,
    crd,
    deployment,
    generator,
    make_tools,
    namespace,
    node,
    pod,
    service,
    source,
    toleration,
)
from tests.kube.fake_api import FakeApi
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object

Change = Callable[[FakeApi], None]


# Tools


@pytest.mark.parametrize(
    ("tool", "says", "verdict", "text"),
    [
        ("kubectl", None, "failed", "kubectl not on PATH"),
        ("kops", None, "warning", "kops not on PATH"),
        ("helm", None, "warning", "helm not on PATH"),
        (
            "kubectl",
            '{"clientVersion": {"gitVersion": "v1.32.4-x"}}',
            "warning",
            "kubectl 1.32.4 is more than one minor version from Kubernetes 1.36",
        ),
        ("kops", "1.34.0", "warning", "kops 1.34.0 is older than Kubernetes 1.36"),
        ("terraform", "Terraform v1.5.7", "warning", "terraform 1.5.7 is older than 1.9"),
        ("helm", "v2.17.0", "warning", "helm 2.17.0 is older than 3.0"),
        ("just", "what?", "unknown", "just prints no version"),
    ],
)
def test_a_missing_or_old_tool(
    doctor: Doctor, tools: Path, tool: str, says: str | None, verdict: str, text: str
) -> None:
    (tools / tool).unlink()
    if says is not None:
        make_tools(tools, {tool: says})
    assert doctor.of("tools", verdict) == [text]
    assert doctor.code == (verdict == "failed")


def test_podman_is_as_good_as_docker_for_images(doctor: Doctor, tools: Path) -> None:
    (tools / "docker").unlink()
    assert doctor.of("tools", "warning") == ["docker not on PATH"]
    assert "podman 5.8.0: for building the images" in doctor.of("tools", "ok")
    (tools / "podman").unlink()
    assert "docker or podman not on PATH" in doctor.of("tools", "warning")


def test_kn_is_optional(doctor: Doctor, tools: Path) -> None:
    (tools / "kn").unlink()
    assert not doctor.of("tools")


# Versions and APIs


@pytest.mark.parametrize(
    ("release", "kubernetes", "verdict"),
    [
        ("1.23.0", "v1.33.9", "failed"),
        ("1.21.0", "v1.33.9", "ok"),
        ("v1.18.2", "v1.30.4", "failed"),
        ("1.17.0", "v1.31.0", "warning"),
        ("", "v1.36.3", "unknown"),
    ],
)
@pytest.mark.parametrize("name", [("knative-serving", "config-autoscaler"), ("knative-eventing", "config-features")])
def test_versions_of_knative_and_kubernetes(
    api: FakeApi, doctor: Doctor, release: str, kubernetes: str, verdict: str, name: tuple[str, str]
) -> None:
    config(api, *name, CONFIGS[name], release)
    api.git_version = kubernetes
    product = "Serving" if name[0] == "knative-serving" else "Eventing"
    found = [
        each["verdict"] for each in doctor() if each["check"] == "versions" and f"Knative {product}" in each["text"]
    ]
    assert found == [verdict]


def test_a_kubelet_that_is_newer_than_its_server(api: FakeApi, doctor: Doctor) -> None:
    node(api, "nodes-0", nodeInfo={"kubeletVersion": "v1.37.0"})
    node(api, "nodes-1", nodeInfo={"kubeletVersion": "v1.32.9"})
    assert doctor.of("versions", "warning") == [
        "nodes-0 runs kubelet 1.37 under Kubernetes 1.36",
        "nodes-1 runs kubelet 1.32 under Kubernetes 1.36",
    ]


def test_crds(api: FakeApi, doctor: Doctor) -> None:
    api.remove(kinds.CRDS, "revisions.serving.knative.dev")
    crd(api, "routes.serving.knative.dev", "v1beta1")
    crd(api, "triggers.eventing.knative.dev", "v1", established="False")
    crd(api, "services.serving.knative.dev", "v1", release="1.21.0")
    api.remove(kinds.NODE_METRICS, "nodes-1")
    assert doctor.of("APIs") == [
        "metrics-server has no metrics of nodes-1",
        "Knative Serving has no revisions.serving.knative.dev",
        "routes.serving.knative.dev serves v1beta1, not v1",
        "Knative Serving is 1.22, but services.serving.knative.dev is from 1.21.0",
        "triggers.eventing.knative.dev is not established",
    ]
    assert doctor.code == 1


# Access


@pytest.mark.usefixtures("all_rights")
@pytest.mark.parametrize(
    ("denied", "verdict", "command", "text"),
    [
        (("create", "services"), "failed", "deploy, delete", "create services.serving.knative.dev in functions"),
        (("create", "pods/exec"), "failed", "trigger, extract-logs", "create pods/exec in workload-generator"),
        (("patch", "configmaps"), "failed", "scenario --platform cluster", "patch configmaps in knative-serving"),
        (("delete", "triggers"), "warning", "scenario eventing", "delete triggers.eventing.knative.dev in eventing"),
        (
            ("create", "jobs"),
            "warning",
            "trigger and scenario with several pods",
            "create jobs.batch in workload-generator-shards",
        ),
        (("delete", "replicasets"), "warning", "doctor --fix", "delete replicasets.apps in workload-generator"),
    ],
)
def test_a_right_that_is_missing(
    api: FakeApi, doctor: Doctor, denied: tuple[str, str], verdict: str, command: str, text: str
) -> None:
    api.forbidden = {denied}
    found = [each for each in doctor() if each["check"] == "access" and each["why"].startswith(f"kn-bench {command}")]
    assert [each["verdict"] for each in found if text in each["text"]] == [verdict]


def test_one_result_has_all_missing_rights_of_a_command(api: FakeApi, doctor: Doctor) -> None:
    api.forbidden = {("list", "nodes"), ("watch", "nodes"), ("watch", "pods")}
    (top,) = [each["text"] for each in doctor() if each["check"] == "access" and each["why"] == "kn-bench top needs it"]
    assert top == "you may not list nodes.metrics.k8s.io; list, watch nodes; watch pods"


# Admission and placement


def test_admission_plugins_that_are_off(api: FakeApi, doctor: Doctor) -> None:
    api.admit = admission(api, selector=False)
    off = doctor.of("admission", "failed")
    assert off[0] == "PodNodeSelector is off: a pod in knative-serving gets no dedicated=knative" and len(off) == 4
    api.admit = admission(api, tolerations=False)
    off = doctor.of("admission", "failed")
    assert len(off) == 4 and all(text.startswith("PodTolerationRestriction is off") for text in off)


def test_a_webhook_that_only_adds_labels_is_a_warning(api: FakeApi, doctor: Doctor) -> None:
    both = admission(api)

    def webhook(obj: Object) -> None:
        asked = obj["spec"].pop("nodeSelector", {}) if obj["kind"] == "Pod" else {}
        both(obj)
        if asked:
            obj["spec"]["nodeSelector"] = asked

    api.admit = webhook
    assert "a pod in knative-serving may select other nodes than dedicated=knative" in doctor.of("admission", "warning")


def test_a_refused_dry_run_is_unknown(api: FakeApi, doctor: Doctor) -> None:
    api.forbidden = {("create", "pods")}
    assert len(doctor.of("admission", "unknown")) == 4


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda api: namespace(api, "metrics"),
            "namespace metrics has no annotation scheduler.alpha.kubernetes.io/node-selector",
        ),
        (
            lambda api: namespace(api, "metrics", "metrix"),
            "namespace metrics selects nodes with dedicated=metrix: there is none",
        ),
        (
            lambda api: namespace(api, "metrics", "metrics", tolerations=[]),
            "namespace metrics does not tolerate dedicated=metrics:NoSchedule of its own nodes",
        ),
        (
            lambda api: namespace(api, "metrics", "metrics", tolerations=[toleration("knative")]),
            "namespace metrics does not tolerate dedicated=metrics:NoSchedule of its own nodes",
        ),
        (lambda api: namespace(api, "functions", "knative"), "namespace functions has the annotation"),
    ],
)
def test_annotations_without_a_matching_node(api: FakeApi, doctor: Doctor, make: Change, text: str) -> None:
    make(api)
    assert any(each.startswith(text) for each in doctor.of("admission"))


def test_malformed_annotations(api: FakeApi, doctor: Doctor) -> None:
    for written in (
        {"node-selector": "dedicated"},
        {"node-selector": "dedicated=metrics", "defaultTolerations": "{"},
    ):
        named = {f"scheduler.alpha.kubernetes.io/{key}": value for key, value in written.items()}
        api.put(kinds.NAMESPACES, {"metadata": {"name": "metrics", "annotations": named}})
        (text,) = doctor.of("admission", "failed")
        assert text.startswith("namespace metrics: scheduler.alpha.kubernetes.io/")


# Nodes


@pytest.mark.parametrize(
    ("make", "verdict", "text"),
    [
        (
            lambda api: api.remove(kinds.NODES, "workload-generator-0"),
            "failed",
            "no node is labelled dedicated=workload-generator",
        ),
        (lambda api: api.remove(kinds.NODES, "metrics-0"), "warning", "no node is labelled dedicated=metrics"),
        (
            lambda api: node(api, "metrics-0", "metrics", taint=False),
            "warning",
            "metrics-0 is not tainted dedicated=metrics:NoSchedule",
        ),
        (
            lambda api: change(
                api,
                kinds.NODES,
                "knative-0",
                "",
                spec={"taints": [{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]},
            ),
            "failed",
            "knative-0 is labelled dedicated=knative and tainted dedicated=x",
        ),
        (
            lambda api: change(api, kinds.NODES, "nodes-0", "", spec={"unschedulable": True}),
            "warning",
            "nodes-0 is cordoned",
        ),
        (
            lambda api: node(
                api, "nodes-0", conditions=[{"type": "Ready", "status": "False", "message": "kubelet stopped"}]
            ),
            "failed",
            "nodes-0 is not Ready: kubelet stopped",
        ),
        (
            lambda api: node(
                api,
                "nodes-0",
                conditions=[
                    {"type": "Ready", "status": "True"},
                    {"type": "DiskPressure", "status": "True", "reason": "Full"},
                ],
            ),
            "failed",
            "nodes-0 has DiskPressure: Full",
        ),
    ],
)
def test_a_node_with_a_problem(api: FakeApi, doctor: Doctor, make: Change, verdict: str, text: str) -> None:
    make(api)
    assert doctor.of("nodes", verdict) == [text]


def test_a_laptop_without_dedicated_nodes_gets_warnings(api: FakeApi, doctor: Doctor) -> None:
    for name in ("workload-generator-0", "knative-0", "metrics-0"):
        api.remove(kinds.NODES, name)
    for name in ("knative-serving", "knative-eventing", "kourier-system", "metrics"):
        namespace(api, name)
    containers = [{"name": "workload-generator", "image": "i"}]
    deployment(api, "workload-generator", "workload-generator", template={"spec": {"containers": containers}})
    assert len(doctor.of("nodes", "warning")) == 3 and not doctor.of("admission")
    assert doctor.code == 0


def test_nodes_for_functions(api: FakeApi, doctor: Doctor) -> None:
    change(
        api,
        kinds.NODES,
        "nodes-1",
        "",
        metadata={"name": "nodes-1", "labels": {"node.kubernetes.io/instance-type": "e2-small"}},
    )
    assert doctor.of("nodes", "warning")[0].startswith("functions run on machines of different types (nodes-0: n2")
    api.remove(kinds.NODES, "nodes-0")
    api.remove(kinds.NODES, "nodes-1")
    assert doctor.of("nodes", "failed") == ["no node takes functions"]


# Capacity


@pytest.mark.parametrize(
    ("taken", "bound", "verdict", "text"),
    [
        ({"cpu": "600m"}, False, "failed", "only one fits"),
        ({"cpu": "600m"}, True, "warning", "only one fits"),
        ({"cpu": "600m"}, None, "ok", "which requests 1 CPUs and 2 GiB"),
        ({"cpu": "1600m"}, True, "failed", "it does not fit"),
        ({"cpu": "1600m"}, None, "failed", "it does not fit"),
        ({"memory": "10Gi"}, False, "failed", "only one fits"),
        ({"cpu": "500m", "memory": "9Gi"}, False, "ok", "which requests 1 CPUs and 2 GiB"),
    ],
)
def test_the_generators_node_needs_room_for_two_where_a_source_has_to_roll(
    api: FakeApi, doctor: Doctor, taken: dict[str, str], bound: bool | None, verdict: str, text: str
) -> None:
    if bound is not None:
        source(api, bound=bound, where="workload-generator")
    others = {"nodeName": "workload-generator-0", "containers": [{"name": "x", "resources": {"requests": taken}}]}
    pod(api, "other", "runs", **others)
    pod(api, "other", "ended", {"phase": "Failed"}, **others)
    assert [each.endswith(text) for each in doctor.of("capacity", verdict) if "for the generator" in each] == [True]


def test_the_generators_requests_are_those_of_its_deployment(api: FakeApi, doctor: Doctor) -> None:
    generator(api, cpu="2")
    assert "for the generator, which requests 2 CPUs and 2 GiB" in doctor.of("capacity", "ok")[0]


def test_capacity_for_functions_by_cpu_memory_and_pods(api: FakeApi, doctor: Doctor) -> None:
    (text,) = [each for each in doctor.of("capacity", "ok") if each.startswith("functions")]
    # 2.5 CPUs a node, and 0.125 an instance with its sidecar: 20 each
    assert "5 CPUs and 26 GiB are free on 2 nodes: 40 more instances of empty-go-http-0" in text
    for number in range(2):
        node(api, f"nodes-{number}", allocatable={"cpu": "2500m", "memory": "13Gi", "pods": "3"})
    service(api, "empty-go-http-0", max_scale="400")
    (text,) = doctor.of("capacity", "warning")
    assert "6 more instances" in text and "empty-go-http-0 up to 400" in text
    for number in range(2):
        node(api, f"nodes-{number}", allocatable={"cpu": "2500m", "memory": "40Mi", "pods": "110"})
    (text,) = doctor.of("capacity", "failed")
    assert "0 more instances" in text


# Quotas and storage


def quota(api: FakeApi, where: str, hard: dict[str, str], used: dict[str, str]) -> None:
    api.put(
        kinds.RESOURCE_QUOTAS,
        {"metadata": {"name": "q", "namespace": where}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}},
    )


@pytest.mark.parametrize(
    ("where", "hard", "used", "verdict", "text"),
    [
        ("functions", {"pods": "10"}, {"pods": "10"}, "failed", "quota functions/q is used up: pods 10 of 10"),
        (
            "functions",
            {"requests.memory": "1Gi"},
            {"requests.memory": "900Mi"},
            "warning",
            "requests.memory 900Mi of 1Gi",
        ),
        ("functions", {"limits.cpu": "10"}, {}, "failed", "quota functions/q counts limits.cpu"),
        ("functions", {"pods": "10"}, {"pods": "7"}, "ok", "quota functions/q: pods 7 of 10"),
    ],
)
def test_a_quota(
    api: FakeApi, doctor: Doctor, where: str, hard: dict[str, str], used: dict[str, str], verdict: str, text: str
) -> None:
    quota(api, where, hard, used)
    assert any(text in each for each in doctor.of("quotas", verdict))


def test_quotas_of_other_namespaces_are_ignored(api: FakeApi, doctor: Doctor) -> None:
    quota(api, "other", {"pods": "1"}, {"pods": "1"})
    assert not doctor.of("quotas")


def test_a_default_limit_of_cpus(api: FakeApi, doctor: Doctor) -> None:
    limits = [{"type": "Container", "default": {"cpu": "500m"}}]
    api.put(kinds.LIMIT_RANGES, {"metadata": {"name": "l", "namespace": "functions"}, "spec": {"limits": limits}})
    assert doctor.of("quotas") == ["LimitRange functions/l limits containers to 500m CPUs by default"]


def claim(api: FakeApi, phase: str, storage: str = "disks") -> None:
    status = {"phase": phase, "capacity": {"storage": "20Gi"}}
    about = {"name": "event-logger", "namespace": "eventing"}
    api.put(kinds.VOLUME_CLAIMS, {"metadata": about, "spec": {"storageClassName": storage}, "status": status})


def test_claims(api: FakeApi, doctor: Doctor) -> None:
    claim(api, "Bound")
    assert "claim eventing/event-logger is bound: 20Gi" in doctor.of("storage", "ok")
    claim(api, "Pending")
    assert doctor.of("storage", "failed") == ["claim eventing/event-logger is Pending"]
    change(api, kinds.STORAGE_CLASSES, "disks", "", volumeBindingMode="WaitForFirstConsumer")
    assert "claim eventing/event-logger waits for its pod" in doctor.of("storage", "ok")
    claim(api, "Pending", "gone")
    assert doctor.of("storage", "failed") == [
        "claim eventing/event-logger is Pending: StorageClass gone does not exist"
    ]
    claim(api, "Lost")
    assert doctor.of("storage", "failed") == ["claim eventing/event-logger is Lost"]


def test_storage_classes(api: FakeApi, doctor: Doctor) -> None:
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    api.put(kinds.STORAGE_CLASSES, {"metadata": {"name": "more", "annotations": default}})
    assert doctor.of("storage", "warning") == ["StorageClasses disks, more are all marked as default"]
    api.remove(kinds.STORAGE_CLASSES, "more")
    api.remove(kinds.STORAGE_CLASSES, "disks")
    (text,) = doctor.of("storage", "failed")
    assert "workload-generator/logs, eventing/event-logger will need it" in text
    for spec, phase in (({"storageClassName": "other"}, "Available"), ({}, "Bound")):
        api.put(kinds.VOLUMES, {"metadata": {"name": "v"}, "spec": spec, "status": {"phase": phase}})
        assert doctor.of("storage", "failed") == [text]
    api.put(kinds.VOLUMES, {"metadata": {"name": "v"}, "spec": {}, "status": {"phase": "Available"}})
    assert not doctor.of("storage")


# What is deployed


def test_deployments_and_our_objects(api: FakeApi, doctor: Doctor) -> None:
    deployment(
        api,
        "kourier-system",
        "3scale-kourier-gateway",
        {"conditions": [{"type": "Available", "status": "False", "message": "no pod"}]},
    )
    api.remove(kinds.DEPLOYMENTS, "activator", "knative-serving")
    service(
        api,
        "sleep-go-http-0",
        {"conditions": [{"type": "Ready", "status": "False", "message": "Unable to fetch image"}]},
    )
    api.put(kinds.BROKERS, {"metadata": {"name": "default", "namespace": "eventing"}, "spec": {}})
    assert doctor.of("conditions") == [
        "Deployment kourier-system/3scale-kourier-gateway is not available: no pod",
        "knative-serving has no Deployment activator",
        "Service functions/sleep-go-http-0 is not ready: Unable to fetch image",
        "Broker eventing/default is not ready: it is not reconciled yet",
    ]


def test_a_broker_of_class_rabbitmq_needs_the_operators(api: FakeApi, doctor: Doctor) -> None:
    annotations = {"eventing.knative.dev/broker.class": "RabbitMQBroker"}
    about = {"name": "default", "namespace": "eventing", "annotations": annotations}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    api.put(kinds.BROKERS, {"metadata": about, "spec": {}, "status": ready})
    assert doctor.of("RabbitMQ") == [
        "the RabbitMQ cluster operator is not installed (rabbitmqclusters.rabbitmq.com)",
        "the RabbitMQ topology operator is not installed (exchanges.rabbitmq.com)",
        "Knative's RabbitMQ broker is not installed (rabbitmqbrokerconfigs.eventing.knative.dev)",
    ]
    for name in (
        "rabbitmqclusters.rabbitmq.com",
        "exchanges.rabbitmq.com",
        "rabbitmqbrokerconfigs.eventing.knative.dev",
    ):
        crd(api, name, "v1beta1")
    deployment(api, "rabbitmq-system", "rabbitmq-cluster-operator")
    deployment(api, "rabbitmq-system", "messaging-topology-operator", {})
    assert doctor.of("RabbitMQ") == [
        "the RabbitMQ topology operator is not available: it is not reconciled yet",
        "Knative's RabbitMQ broker is not running: no Deployment knative-eventing/rabbitmq-broker-controller",
    ]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            {
                "containerStatuses": [
                    {
                        "name": "f",
                        "image": "dev.local/f:1",
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}},
                    }
                ]
            },
            "pod functions/p: f is in ImagePullBackOff: no such host",
        ),
        (
            {"initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
            "pod functions/p: i is in CrashLoopBackOff: no message",
        ),
        (
            {
                "phase": "Pending",
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}],
            },
            "pod functions/p has no node: Insufficient cpu",
        ),
        (
            {
                "containerStatuses": [
                    {"name": "f", "state": {"running": {}}, "lastState": {"terminated": {"reason": "OOMKilled"}}}
                ]
            },
            "pod functions/p: f was killed: it exceeded its memory limit",
        ),
    ],
)
def test_a_pod_that_does_not_run(api: FakeApi, doctor: Doctor, status: Object, text: str) -> None:
    pod(api, "functions", "p", {"phase": "Running", **status})
    pod(api, "other", "p", {"phase": "Running", **status})
    assert doctor.of("pods") == [text]


def test_the_number_and_readiness_of_generators(api: FakeApi, doctor: Doctor) -> None:
    pod(api, "workload-generator", "second")
    assert doctor.of("generator") == ["2 pods in workload-generator: workload-generator-1, second"]
    pod(api, "workload-generator", "second", {"phase": "Succeeded"})
    assert not doctor.of("generator")
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "False", "message": "no K_SINK"}]}
    pod(api, "workload-generator", "workload-generator-1", status)
    assert doctor.of("generator", "failed") == ["generator workload-generator-1 is not ready: no K_SINK"]
    api.remove(kinds.PODS, "workload-generator-1", "workload-generator")
    assert doctor.of("generator", "warning") == ["no generator runs in workload-generator"]
