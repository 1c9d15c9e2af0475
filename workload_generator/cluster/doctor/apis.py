"""The APIs that we use: whether they are installed, in the versions that we write, and answer."""

from __future__ import annotations

from collections import defaultdict

from workload_generator.cluster.doctor.findings import Cluster, Findings, Verdict
from workload_generator.cluster.doctor.versions import eventing_release, serving_release
from workload_generator.kube.errors import ApiAbsent, ApiError
from workload_generator.kube.names import VERSION_LABEL
from workload_generator.kube.resources import (
    BROKERS,
    CRDS,
    NODE_METRICS,
    NODES,
    SERVICES,
    Object,
    Resource,
    is_ready,
    name_of,
)

SERVING, EVENTING, METRICS = "Knative Serving", "Knative Eventing", "metrics-server"
_NEED: dict[str, tuple[Resource, Verdict, str]] = {
    SERVING: (SERVICES, "failed", "there is nothing to measure"),
    EVENTING: (BROKERS, "warning", "eventing scenarios cannot run"),
    METRICS: (NODE_METRICS, "warning", "kn-bench top has nothing to read"),
}
_KINDS: dict[str, tuple[str, str]] = {
    # What has to be served, by the CRD's name: version, and whose it is.
    "services.serving.knative.dev": ("v1", SERVING),
    "configurations.serving.knative.dev": ("v1", SERVING),
    "revisions.serving.knative.dev": ("v1", SERVING),
    "routes.serving.knative.dev": ("v1", SERVING),
    "podautoscalers.autoscaling.internal.knative.dev": ("v1alpha1", SERVING),
    "brokers.eventing.knative.dev": ("v1", EVENTING),
    "triggers.eventing.knative.dev": ("v1", EVENTING),
    "containersources.sources.knative.dev": ("v1", EVENTING),
    "sinkbindings.sources.knative.dev": ("v1", EVENTING),
    "sequences.flows.knative.dev": ("v1", EVENTING),
    "inmemorychannels.messaging.knative.dev": ("v1", EVENTING),
}


async def check_apis(cluster: Cluster, found: Findings) -> None:
    """Whether each product answers; then the versions of its CRDs, and whether they are of its release."""
    absent = set()
    for product, (resource, verdict, why) in _NEED.items():
        try:
            async for _ in cluster.kube.pages(resource, page=1):
                break
        except ApiAbsent:
            absent.add(product)
            found.add(verdict, f"{product} is not installed ({resource})", why, f"install {product}")
        except ApiError as error:
            found.unknown(str(error))
        else:
            found.ok(f"{product} answers")
    if METRICS not in absent:
        await _check_metrics(cluster, found)
    crds = {name_of(crd): crd for crd in await cluster.all(CRDS)}
    releases = {SERVING: await serving_release(cluster), EVENTING: await eventing_release(cluster)}
    for product in (SERVING, EVENTING):
        if product not in absent:
            _check_kinds(crds, product, releases[product], found)


async def _check_metrics(cluster: Cluster, found: Findings) -> None:
    measured = {name_of(each) for each in await cluster.all(NODE_METRICS)}
    without = [name_of(node) for node in await cluster.all(NODES) if name_of(node) not in measured]
    if without:
        found.warning(
            f"metrics-server has no figures of {', '.join(without)}",
            "they are missing in what kn-bench top writes",
            "wait half a minute; then look at metrics-server's log",
        )


def _check_kinds(crds: dict[str, Object], product: str, release: int | None, found: Findings) -> None:
    _, verdict, why = _NEED[product]
    others: dict[str, list[str]] = defaultdict(list)
    good = 0
    for name, (version, owner) in _KINDS.items():
        if owner != product:
            continue
        crd = crds.get(name)
        if crd is None:
            found.add(verdict, f"{product} has no {name}", why, f"apply the CRDs of {product}'s release again")
            continue
        served = [each["name"] for each in crd["spec"]["versions"] if each.get("served")]
        if version not in served:
            text = f"{name} serves {', '.join(served) or 'nothing'}, not {version}"
            found.add(verdict, text, "our manifests are refused", f"upgrade {product}")
        elif not is_ready(crd, "Established"):
            found.add(verdict, f"{name} is not established", why, f"kubectl describe crd {name}")
        else:
            good += 1
        labelled = (crd["metadata"].get("labels") or {}).get(VERSION_LABEL, "")
        if release is not None and labelled and labelled.removeprefix("v").split(".")[:2] != ["1", str(release)]:
            others[labelled].append(name)
    if good:
        found.ok(f"{product}: {good} CRDs serve the versions that we use")
    for labelled, names in others.items():
        found.warning(
            f"{product} is of 1.{release}, but {', '.join(names)} of {labelled}",
            "an upgrade stopped half way: what is new is dropped, or refused",
            f"apply the CRDs of {product} 1.{release}",
        )
