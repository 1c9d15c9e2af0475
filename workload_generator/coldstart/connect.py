"""Makes the watcher of a run, from its target and its environment."""

from __future__ import annotations

import os
from collections.abc import Sequence

from workload_generator.coldstart.emulator import EmulatorSource
from workload_generator.coldstart.kubernetes import KubernetesSource
from workload_generator.coldstart.timeline import InstanceTimeline
from workload_generator.coldstart.watcher import Watcher
from workload_generator.kube.client import Kube
from workload_generator.kube.credentials import find_credentials, has_pod_credentials, pod_credentials

_PATIENCE_S = 3.0  # a run without the API works as well


def watcher_of_local(url: str) -> Watcher:
    """Observes the instances of the embedded platform at `url`."""
    timeline = InstanceTimeline()
    return Watcher(EmulatorSource(url, timeline), timeline)


def watcher_of_cluster(hosts: Sequence[str]) -> Watcher | None:
    """Observes the pods of the namespace in the first target's host (`<service>.<namespace>…`).

    None without access to the API: there is neither a service account's token nor $KUBECONFIG. Other kubeconfigs are
    not used, since they may lead to another cluster.
    """
    namespaces = [host.split(".")[1] for host in hosts if host.count(".") >= 1]
    named = "KUBECONFIG" in os.environ
    if not namespaces or not (named or has_pod_credentials()):
        return None
    timeline = InstanceTimeline()

    async def connect() -> Kube:
        credentials = find_credentials() if named else pod_credentials()
        return await Kube.connect(credentials=credentials, patience_s=_PATIENCE_S, timeout_s=10)

    return Watcher(KubernetesSource(namespaces[0], timeline, connect), timeline)
