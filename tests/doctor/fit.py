"""A cluster on the fake API server that is fit for the benchmark, and its machine; tests break one thing of it."""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kube.fake_api import FakeApi
from workload_generator.cluster.doctor.apis import CUSTOM_RESOURCES
from workload_generator.cluster.doctor.placement import SELECTOR, TOLERATIONS
from workload_generator.commands import kn_bench
from workload_generator.kube import resources as kinds
from workload_generator.kube.resources import Object, Resource

READY = {"conditions": [{"type": "Ready", "status": "True"}]}
AVAILABLE = {"conditions": [{"type": "Available", "status": "True"}]}
ALLOCATABLE = {"cpu": "2500m", "memory": "13Gi", "pods": "110"}
TOOLS = {
    "kubectl": '{"clientVersion": {"major": "1", "minor": "36", "gitVersion": "v1.36.3"}}',
    "kn": "Version:      v1.22.0",
    "just": "just 1.46.0",
    "gcloud": "Google Cloud SDK 550.0.0",
    "terraform": "Terraform v1.15.1",
    "kops": "1.36.2",
    "helm": "v4.1.0+g4553a0a",
    "kind": "kind v0.32.0 go1.26.0 linux/amd64",
    "docker": "Docker version 29.4.0, build 9d7ad9f",
    "podman": "podman version 5.8.0",
}
EXAMPLES: Mapping[str, str] = {
    # Excerpts of what the ConfigMaps of a release have in `_example`.
    "config-autoscaler": """
        # Stable window must be in whole seconds.
        stable-window: "60s"
        panic-threshold-percentage: "200.0"
        target-burst-capacity: "211"
        enable-scale-to-zero: "true"
        scale-to-zero-grace-period: "30s"
        initial-scale: "1"
        allow-zero-initial-scale: "false"
        max-scale: "0"
    """,
    "config-defaults": """
        revision-timeout-seconds: "300"
        max-revision-timeout-seconds: "600"
        revision-cpu-request: "400m"
        revision-memory-request: "100M"
        revision-cpu-limit: "1000m"
        container-name-template: "user-container"
        container-concurrency: "0"
        allow-container-concurrency-zero: "true"
    """,
    "config-features": """
        multi-container: "enabled"
        kubernetes.podspec-affinity: "disabled"
        kubernetes.podspec-tolerations: "disabled"
        kubernetes.podspec-volumes-emptydir: "enabled"
        autodetect-http2: "disabled"
        secure-pod-defaults: "disabled"
    """,
    "config-network": """
        ingress-class: "istio.ingress.networking.knative.dev"
        namespace-wildcard-cert-selector: ""
        domain-template: "{{.Name}}.{{.Namespace}}.{{.Domain}}"
        autocreate-cluster-domain-claims: "false"
        http-protocol: "Enabled"
        rollout-duration: "0"
        cluster-local-domain-tls: "Disabled"
        system-internal-tls: "Disabled"
    """,
    "config-observability": """
        logging.enable-request-log: "false"
        logging.enable-probe-request-log: "false"
        metrics-protocol: prometheus
        metrics-export-interval: 60s
        request-metrics-protocol: prometheus
    """,
    "config-deployment": """
        registries-skipping-tag-resolving: "kind.local,ko.local,dev.local"
        digest-resolution-timeout: "10s"
        progress-deadline: "600s"
        queue-sidecar-cpu-request: "25m"
        queue-sidecar-cpu-limit: "1000m"
        queue-sidecar-memory-limit: "800Mi"
        runtime-class-name:
          gvisor:
            selector: {my-label: gvisor}
    """,
}
CONFIGS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("knative-serving", "config-autoscaler"): {"stable-window": "60s"},
    ("knative-serving", "config-defaults"): {},
    ("knative-serving", "config-features"): {"secure-pod-defaults": "enabled"},
    ("knative-serving", "config-network"): {"ingress-class": "kourier.ingress.networking.knative.dev"},
    ("knative-serving", "config-observability"): {
        "metrics-protocol": "prometheus",
        "request-metrics-protocol": "prometheus",
    },
    ("knative-serving", "config-deployment"): {},
    ("knative-serving", "config-domain"): {"example.com": ""},
    ("knative-eventing", "config-observability"): {"metrics-protocol": "prometheus"},
    ("knative-eventing", "config-features"): {"transport-encryption": "disabled"},
}


def make_tools(folder: Path, said: Mapping[str, str]) -> Path:
    """Programs that say their version, and nothing else on PATH but what a shell needs."""
    folder.mkdir(exist_ok=True)
    for name, text in said.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' '{text}'\n")
        path.chmod(0o755)
    return folder


def toleration(purpose: str) -> Object:
    return {"key": "dedicated", "operator": "Equal", "value": purpose, "effect": "NoSchedule"}


def make_fit(api: FakeApi) -> None:
    """All that a benchmark needs."""
    api.admit = admission(api)
    for purpose in ("workload-generator", "knative", "metrics"):
        node(api, f"{purpose}-0", purpose)
    for number in range(2):
        node(api, f"nodes-{number}")
    for name in ("workload-generator", "functions", "eventing"):
        api.put(kinds.NAMESPACES, {"metadata": {"name": name}})
    placed = {
        "knative-serving": "knative",
        "knative-eventing": "knative",
        "kourier-system": "knative",
        "metrics": "metrics",
    }
    for name, purpose in placed.items():
        namespace(api, name, purpose)
    for (where, name), data in CONFIGS.items():
        config(api, where, name, data)
    for resources in CUSTOM_RESOURCES.values():
        for resource in resources:
            crd(api, str(resource), resource.version)
    for name in ("activator", "autoscaler", "controller", "webhook"):
        deployment(api, "knative-serving", name)
    api.put(
        kinds.STORAGE_CLASSES,
        {
            "metadata": {"name": "disks", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        },
    )
    generator(api)
    service(api, "empty-go-http-0")


def node(api: FakeApi, name: str, purpose: str = "", *, taint: bool = True, **status: Any) -> None:
    labels = {"node.kubernetes.io/instance-type": "n2-standard-4", **({"dedicated": purpose} if purpose else {})}
    taints = [{"key": "dedicated", "value": purpose, "effect": "NoSchedule"}] if purpose and taint else []
    told = {"allocatable": ALLOCATABLE, "nodeInfo": {"kubeletVersion": "v1.36.3"}, **READY, **status}
    api.put(kinds.NODES, {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}, "status": told})
    api.put(kinds.NODE_METRICS, {"metadata": {"name": name}})


def namespace(api: FakeApi, name: str, purpose: str = "", *, tolerations: list[Object] | None = None) -> None:
    given = [toleration(purpose)] if tolerations is None else tolerations
    annotations = {SELECTOR: f"dedicated={purpose}", TOLERATIONS: json.dumps(given)} if purpose else {}
    api.put(kinds.NAMESPACES, {"metadata": {"name": name, "annotations": annotations}})


def config(api: FakeApi, where: str, name: str, data: Mapping[str, str], release: str = "1.22.1") -> None:
    labels = {"app.kubernetes.io/version": release}
    full = {"_example": textwrap.dedent(EXAMPLES.get(name, "")), **data}
    api.put(kinds.CONFIG_MAPS, {"metadata": {"name": name, "namespace": where, "labels": labels}, "data": full})


def crd(api: FakeApi, name: str, version: str, release: str = "1.22.1", established: str = "True") -> None:
    labels = {"app.kubernetes.io/version": release}
    spec = {"versions": [{"name": version, "served": True, "storage": True}]}
    status = {"conditions": [{"type": "Established", "status": established}]}
    api.put(kinds.CRDS, {"metadata": {"name": name, "labels": labels}, "spec": spec, "status": status})


def deployment(api: FakeApi, where: str, name: str, status: Object = AVAILABLE, **spec: Any) -> None:
    api.put(
        kinds.DEPLOYMENTS,
        {"metadata": {"name": name, "namespace": where}, "spec": {"replicas": 1, **spec}, "status": status},
    )


def pod(api: FakeApi, where: str, name: str, status: Object | None = None, **spec: Any) -> Object:
    """On `nodes-0` with 100m and 64Mi, unless `spec` says otherwise."""
    container = {"name": "c", "image": "dev.local/c:1", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    full = {"nodeName": "nodes-0", "containers": [container], **spec}
    told = {"phase": "Running", **READY} if status is None else status
    return api.put(kinds.PODS, {"metadata": {"name": name, "namespace": where}, "spec": full, "status": told})


def source(api: FakeApi, *, bound: bool, where: str = "ours") -> None:
    """A ContainerSource whose pod runs, with K_SINK or without, and its SinkBinding."""
    env = [{"name": "K_SINK", "value": "http://sink"}] if bound else []
    template = {"spec": {"containers": [{"name": "g", "env": env}]}}
    made: dict[str, Any] = {}
    for kind, name, spec in (
        (kinds.CONTAINER_SOURCES, "g", {}),
        (kinds.DEPLOYMENTS, "g", {"template": template}),
        (kinds.REPLICA_SETS, "g-1", {"replicas": 1, "template": template}),
        (kinds.PODS, "g-1-1", template["spec"]),
    ):
        owners = [{"uid": made["metadata"]["uid"]}] if made else []
        about = {"name": name, "namespace": where, "ownerReferences": owners}
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cause = {"type": "SinkBindingReady", "status": str(bound), "reason": "NotFound", "message": "no sink"}
        status = {"conditions": [*ready["conditions"], cause]} if kind == kinds.CONTAINER_SOURCES else ready
        made = api.put(kind, {"metadata": about, "spec": spec, "status": status})
    api.put(kinds.SINK_BINDINGS, {"metadata": {"name": "g-sinkbinding", "namespace": where}, "spec": {}})


def generator(api: FakeApi, cpu: str = "1", memory: str = "2Gi") -> None:
    requests = {"resources": {"requests": {"cpu": cpu, "memory": memory}}}
    spec = {
        "containers": [{"name": "workload-generator", "image": "dev.local/workload-generator:0.1.0", **requests}],
        "nodeSelector": {"dedicated": "workload-generator"},
    }
    deployment(api, "workload-generator", "workload-generator", template={"spec": spec})
    pod(
        api,
        "workload-generator",
        "workload-generator-1",
        nodeName="workload-generator-0",
        containers=spec["containers"],
    )


def service(api: FakeApi, name: str, status: Object = READY, image: str = "dev.local/f:1", **annotations: str) -> None:
    container = {"name": "function", "image": image, "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}
    named = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    template = {"metadata": {"annotations": named}, "spec": {"containers": [container]}}
    api.put(
        kinds.SERVICES,
        {"metadata": {"name": name, "namespace": "functions"}, "spec": {"template": template}, "status": status},
    )


def admission(api: FakeApi, *, selector: bool = True, tolerations: bool = True) -> Callable[[Object], None]:
    """What PodNodeSelector and PodTolerationRestriction do to a pod."""

    def admit(obj: Object) -> None:
        if obj["kind"] != "Pod":
            return
        found = api.find(kinds.NAMESPACES, obj["metadata"]["namespace"]) or {"metadata": {}}
        annotations = found["metadata"].get("annotations") or {}
        if selector and SELECTOR in annotations:
            key, _, value = annotations[SELECTOR].partition("=")
            if obj["spec"].setdefault("nodeSelector", {}).setdefault(key, value) != value:
                raise ValueError("pod node label selector conflicts with its namespace node label selector")
        if tolerations and TOLERATIONS in annotations:
            obj["spec"].setdefault("tolerations", copy.deepcopy(json.loads(annotations[TOLERATIONS])))

    return admit


def change(api: FakeApi, kind: Resource, name: str, where: str, **parts: Any) -> None:
    """Replace top-level parts of an object."""
    found = api.find(kind, name, where)
    assert found is not None
    api.put(kind, {**found, **parts})


class Doctor:
    """The command, run on the fake API server as a user would; `code` is its last exit code."""

    def __init__(self, api: FakeApi, folder: Path, captured: pytest.CaptureFixture[bytes]) -> None:
        self.config = api.write_kubeconfig(folder / "config")
        self.code = -1
        self._captured = captured

    def __call__(self, *flags: str) -> list[dict[str, str]]:
        """All findings."""
        self.code = kn_bench.main(["doctor", f"--kubeconfig={self.config}", "--output=json", *flags])
        findings: list[dict[str, str]] = json.loads(self._captured.readouterr().out)
        return findings

    def text(self, *flags: str) -> str:
        """What it prints for people."""
        self.code = kn_bench.main(["doctor", f"--kubeconfig={self.config}", *flags])
        return self._captured.readouterr().out.decode()

    def of(self, check: str, *verdicts: str) -> list[str]:
        """The texts of one check, of these verdicts."""
        return [
            each["text"]
            for each in self()
            if each["check"] == check and each["verdict"] in (verdicts or ("failed", "warning", "unknown"))
        ]
