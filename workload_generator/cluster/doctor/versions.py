"""Versions of Kubernetes and Knative, and whether they go together."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube.names import CONFIG_AUTOSCALER, KNATIVE_EVENTING, KNATIVE_SERVING, VERSION_LABEL
from workload_generator.kube.resources import NODES, name_of

MINIMUM = ((22, 34), (21, 33), (18, 31))
"""Knative 1.x from x on needs Kubernetes 1.y. Source: the release notes of knative/serving and knative/eventing."""
_KUBELET_SKEW = 3  # https://kubernetes.io/releases/version-skew-policy/#kubelet
_OLDEST = 18
"""The oldest Knative that is supported."""


@dataclass(frozen=True, slots=True)
class Product:
    """A part of Knative, with the ConfigMap whose label has its version."""

    name: str
    namespace: str
    config: str

    async def version(self, cluster: Cluster) -> str:
        """The version without its `v`; empty when the label is missing. Raises ApiError."""
        config = await cluster.config(self.namespace, self.config) or {}
        labels = config.get("metadata", {}).get("labels") or {}
        return str(labels.get(VERSION_LABEL, "")).removeprefix("v")

    async def release(self, cluster: Cluster) -> int | None:
        """The x of release 1.x; None when it is unknown. Raises ApiError."""
        match = re.fullmatch(r"1\.(\d+)(\..*)?", await self.version(cluster))
        return int(match[1]) if match else None


SERVING = Product("Knative Serving", KNATIVE_SERVING, CONFIG_AUTOSCALER)
EVENTING = Product("Knative Eventing", KNATIVE_EVENTING, "config-features")


async def check_versions(cluster: Cluster, reporter: Reporter) -> None:
    """Kubernetes against what each product needs, and kubelets against the API server."""
    for product in (SERVING, EVENTING):
        release = await product.release(cluster)
        if release is None:
            reporter.unknown(f"Kubernetes 1.{cluster.minor}; the version of {product.name} is unknown")
            continue
        text = f"Kubernetes 1.{cluster.minor}, {product.name} {await product.version(cluster)}"
        needed = next((least for knative, least in MINIMUM if release >= knative), 0)
        if cluster.minor < needed:
            reporter.failed(
                f"{text}, which needs Kubernetes 1.{needed}",
                "its controllers refuse to start",
                f"upgrade Kubernetes to 1.{needed} or newer",
            )
        elif release < _OLDEST:
            why = f"releases of Knative before 1.{_OLDEST} are not supported"
            reporter.warning(text, why, f"upgrade {product.name}")
        else:
            reporter.ok(text)
    for node in await cluster.all(NODES):
        kubelet = re.match(r"v1\.(\d+)", node["status"].get("nodeInfo", {}).get("kubeletVersion", ""))
        if kubelet and not cluster.minor - _KUBELET_SKEW <= int(kubelet[1]) <= cluster.minor:
            reporter.warning(
                f"{name_of(node)} runs kubelet 1.{kubelet[1]} under Kubernetes 1.{cluster.minor}",
                f"a kubelet may be up to {_KUBELET_SKEW} minor versions older than the API server, never newer",
                "upgrade the nodes",
            )
