"""Initial objects of our plane: nodes as in our instance groups, volumes, CRDs, metrics.k8s.io."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import yaml

from tests.cluster.api import Api, Doc, Refused

CAPACITY = {"cpu": "4", "memory": "16393244Ki", "ephemeral-storage": "98831908Ki", "pods": "110"}
# An n2-standard-4 without the reserved resources: 1.5 CPUs and 2 GiB for the system, and the eviction threshold.
ALLOCATABLE = {"cpu": "2500m", "memory": "14193692Ki", "ephemeral-storage": "91083486Ki", "pods": "110"}
DEDICATED = ("knative", "workload-generator", "metrics")
FREE_NODES = 3
VOLUMES = 40


def add_nodes(api: Api, kubelet_port: int) -> None:
    """Nodes with the labels and taints of the instance groups: `dedicated` ones, and free ones for functions."""
    for purpose in DEDICATED:
        api.create(_node(f"{purpose}-0", kubelet_port, purpose))
    for number in range(FREE_NODES):
        api.create(_node(f"nodes-{number}", kubelet_port, None))


def _node(name: str, port: int, dedicated: str | None) -> Doc:
    labels = {
        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "n2-standard-4", "type": "kwok",
    }  # fmt: skip
    spec: Doc = {}
    if dedicated:
        labels["dedicated"] = dedicated
    if dedicated:
        spec["taints"] = [{"key": "dedicated", "value": dedicated, "effect": "NoSchedule"}]
    annotations = {
        "kwok.x-k8s.io/node": "fake",
        "metrics.k8s.io/resource-metrics-path": f"/metrics/nodes/{name}/metrics/resource",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": spec,
        "status": {
            "capacity": CAPACITY,
            "allocatable": ALLOCATABLE,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.36.3", "bootID": "",
                "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "machineID": "",
                "osImage": "", "systemUUID": "",
            },
        },
    }  # fmt: skip


def add_agents(api: Api) -> None:
    """A DaemonSet, as cilium is one. Without pods, a node would have no metrics."""
    labels = {"app.kubernetes.io/name": "node-agent"}
    container = {"name": "agent", "image": "dev.local/agent:1", "resources": {"requests": {"cpu": "200m"}}}
    spec = {
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels, "annotations": {"knative-bench.test/cpu": "50m"}},
            "spec": {"containers": [container], "tolerations": [{"operator": "Exists"}]},
        },
    }
    meta = {"name": "node-agent", "namespace": "kube-system"}
    api.create({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta, "spec": spec})


def nodes_ready(api: Api) -> bool:
    """Whether the node is ready, and its initial taint removed."""
    nodes = api.list("v1", "Node")
    return all(
        any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"].get("conditions", []))
        and not any(taint["key"].startswith("node.kubernetes.io/") for taint in node["spec"].get("taints", []))
        for node in nodes
    )


def has_accounts(api: Api) -> bool:
    """Whether the controllers have created what pods in the namespace need."""
    return (
        api.find("v1", "ServiceAccount", "default", "default") is not None
        and api.find("v1", "ConfigMap", "default", "kube-root-ca.crt") is not None
    )


def add_volumes(api: Api) -> None:
    """Volumes for claims, since there is no provisioner; nothing is written to them."""
    for number in range(VOLUMES):
        spec = {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/nonexistent/{number}"},
        }
        api.create(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"volume-{number}"}, "spec": spec}
        )


def add_crds(api: Api) -> None:
    """Knative's CRDs from the folder KNATIVE_CRDS; none if it is not set."""
    where = os.environ.get("KNATIVE_CRDS")
    for path in sorted(Path(where).glob("*.yaml")) if where else ():
        for doc in yaml.safe_load_all(path.read_text()):
            if doc and doc["kind"] == "CustomResourceDefinition":
                api.create(without_conversion(doc))


def without_conversion(crd: Doc) -> Doc:
    """The CRD without conversion between versions, since the webhook for it is missing."""
    crd["spec"].pop("conversion", None)
    return crd


def add_metrics(api: Api, port: int, authority: Path, host: str) -> None:
    """The API metrics.k8s.io, served by metrics-server on loopback."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "metrics-server", "namespace": "kube-system"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    api.create(service)
    api.create(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(authority.read_bytes()).decode(),
                "service": {"name": "metrics-server", "namespace": "kube-system", "port": port},
            },
        }
    )


def crds_established(api: Api) -> bool:
    crds = api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    return all(
        any(
            each["type"] == "Established" and each["status"] == "True" for each in crd["status"].get("conditions") or []
        )
        for crd in crds
    )


def has_metrics(api: Api) -> bool:
    """Whether metrics-server has scraped every node."""
    try:
        return len(api.list("metrics.k8s.io/v1beta1", "NodeMetrics")) == len(api.list("v1", "Node"))
    except Refused as refused:
        if refused.code in (404, 503):
            return False
        raise
