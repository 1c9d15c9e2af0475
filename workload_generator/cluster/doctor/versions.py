"""Versions of Kubernetes and Knative, and whether they go together."""

from __future__ import annotations

import re

from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.kube.names import CONFIG_AUTOSCALER, KNATIVE_EVENTING, KNATIVE_SERVING, VERSION_LABEL
from workload_generator.kube.resources import NODES, Object, name_of

MINIMUM = ((22, 34), (21, 33), (18, 31))
"""Knative 1.x from x on needs Kubernetes 1.y. Source: the release notes of knative/serving and knative/eventing."""
_PRODUCTS = (
    ("Knative Serving", CONFIG_AUTOSCALER, KNATIVE_SERVING),
    ("Knative Eventing", "config-features", KNATIVE_EVENTING),
)
_KUBELET_SKEW = 3  # https://kubernetes.io/releases/version-skew-policy/#kubelet
_OLDEST = 18
"""The oldest Knative that this was made for."""


async def check_versions(cluster: Cluster, found: Findings) -> None:
    """Kubernetes against what each product needs, and kubelets against the server."""
    for product, config, namespace in _PRODUCTS:
        release = await release_of(cluster, config, namespace)
        if release is None:
            found.unknown(f"Kubernetes 1.{cluster.minor}; the release of {product} cannot be told")
            continue
        text = f"Kubernetes 1.{cluster.minor}, {product} {_label(await cluster.config(config, namespace))}"
        needed = next((least for knative, least in MINIMUM if release >= knative), 0)
        if cluster.minor < needed:
            found.failed(
                f"{text}, which needs Kubernetes 1.{needed}",
                "its controllers refuse to start",
                f"upgrade Kubernetes to 1.{needed} or newer",
            )
        elif release < _OLDEST:
            found.warning(text, f"nothing here was made for Knative before 1.{_OLDEST}", f"upgrade {product}")
        else:
            found.ok(text)
    for node in await cluster.all(NODES):
        kubelet = re.match(r"v1\.(\d+)", node["status"].get("nodeInfo", {}).get("kubeletVersion", ""))
        if kubelet and not cluster.minor - _KUBELET_SKEW <= int(kubelet[1]) <= cluster.minor:
            found.warning(
                f"{name_of(node)} runs kubelet 1.{kubelet[1]} under Kubernetes 1.{cluster.minor}",
                f"a kubelet may be up to {_KUBELET_SKEW} minor versions older than the server, and never newer",
                "upgrade the nodes",
            )


async def release_of(cluster: Cluster, config: str, namespace: str) -> int | None:
    """x of Knative 1.x, as the ConfigMap's label says; None when it does not. Raises ApiError."""
    match = re.fullmatch(r"1\.(\d+)(\..*)?", _label(await cluster.config(config, namespace)))
    return int(match[1]) if match else None


def _label(config: Object | None) -> str:
    labels = (config or {}).get("metadata", {}).get("labels") or {}
    return str(labels.get(VERSION_LABEL, "")).removeprefix("v")


async def serving_release(cluster: Cluster) -> int | None:
    """x of Knative Serving 1.x."""
    return await release_of(cluster, _PRODUCTS[0][1], KNATIVE_SERVING)


async def eventing_release(cluster: Cluster) -> int | None:
    """x of Knative Eventing 1.x."""
    return await release_of(cluster, _PRODUCTS[1][1], KNATIVE_EVENTING)
