"""Puts a watcher together for the generator, from what it can find around it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from workload_generator.coldstart.emulator import LocalSource
from workload_generator.coldstart.kubernetes import KubernetesSource
from workload_generator.coldstart.proof import Watcher
from workload_generator.coldstart.timeline import Ledger
from workload_generator.coldstart.watcher import LedgerWatcher
from workload_generator.kube.client import Kube
from workload_generator.kube.credentials import Credentials, PodCredentials, find_credentials

_PATIENCE_S = 3.0  # of a run that begins; one without the API works as well


def watcher_of_local(url: str) -> Watcher:
    """Sees the processes of the embedded platform at `url`."""
    ledger = Ledger()
    return LedgerWatcher(LocalSource(url, ledger), ledger)


def watcher_of_cluster(hosts: Sequence[str]) -> Watcher | None:
    """Sees the pods of the namespace that the targets' hosts name (`<service>.<namespace>…`).

    None where there is no API to ask: neither a service account's token, nor $KUBECONFIG.
    """
    namespaces = [host.split(".")[1] for host in hosts if host.count(".") >= 1]
    if not namespaces or not ("KUBECONFIG" in os.environ or PodCredentials.exist()):
        return None
    ledger = Ledger()

    async def connect() -> Kube:
        return await Kube.connect(credentials=_credentials(), patience_s=_PATIENCE_S, timeout_s=10)

    return LedgerWatcher(KubernetesSource(namespaces[0], ledger, connect), ledger)


def _credentials() -> Credentials:
    """A kubeconfig only when it is named: a laptop's own may lead to any cluster."""
    return find_credentials() if "KUBECONFIG" in os.environ else PodCredentials()
