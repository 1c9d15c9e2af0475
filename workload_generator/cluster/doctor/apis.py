"""The APIs that the benchmark uses: whether they are installed, answer, and serve the right versions."""

from __future__ import annotations

from collections import defaultdict

from workload_generator.cluster.doctor.reporter import Cluster, Reporter, Verdict
from workload_generator.cluster.doctor.versions import EVENTING, SERVING, Product
from workload_generator.kube import resources as kinds
from workload_generator.kube.errors import ApiAbsent, ApiError
from workload_generator.kube.names import VERSION_LABEL
from workload_generator.kube.resources import Object, Resource, is_ready, name_of

CUSTOM_RESOURCES: dict[Product, tuple[Resource, ...]] = {
    SERVING: (kinds.SERVICES, kinds.CONFIGURATIONS, kinds.REVISIONS, kinds.ROUTES, kinds.POD_AUTOSCALERS),
    EVENTING: (
        kinds.BROKERS, kinds.TRIGGERS, kinds.CONTAINER_SOURCES, kinds.SINK_BINDINGS, kinds.SEQUENCES, kinds.CHANNELS,
        kinds.SUBSCRIPTIONS,
    ),
}  # fmt: skip
_MISSING: dict[str, tuple[Verdict, str]] = {
    # Verdict and consequence when a product is not there.
    SERVING.name: ("failed", "there is nothing to measure"),
    EVENTING.name: ("warning", "eventing scenarios cannot run"),
    "metrics-server": ("warning", "kn-bench top has nothing to read"),
}


async def check_apis(cluster: Cluster, reporter: Reporter) -> None:
    """Whether each product answers, and the versions and releases of its CRDs."""
    serving = await _answers(cluster, SERVING.name, kinds.SERVICES, reporter)
    eventing = await _answers(cluster, EVENTING.name, kinds.BROKERS, reporter)
    if await _answers(cluster, "metrics-server", kinds.NODE_METRICS, reporter):
        measured = {name_of(each) for each in await cluster.all(kinds.NODE_METRICS)}
        missing = [name_of(node) for node in await cluster.all(kinds.NODES) if name_of(node) not in measured]
        if missing:
            reporter.warning(
                f"metrics-server has no metrics of {', '.join(missing)}",
                "kn-bench top cannot record them",
                "wait half a minute; then read metrics-server's log",
            )
    crds = {name_of(crd): crd for crd in await cluster.all(kinds.CRDS)}
    for product, is_installed in ((SERVING, serving), (EVENTING, eventing)):
        if is_installed:
            _check_crds(crds, product, await product.release(cluster), reporter)


async def _answers(cluster: Cluster, product: str, resource: Resource, reporter: Reporter) -> bool:
    """Report whether the API answers; False only if it is not installed."""
    try:
        async for _ in cluster.kube.pages(resource, page=1):
            break
    except ApiAbsent:
        verdict, why = _MISSING[product]
        reporter.add(verdict, f"{product} is not installed ({resource})", why, f"install {product}")
        return False
    except ApiError as error:
        reporter.unknown(str(error))
    else:
        reporter.ok(f"{product} answers")
    return True


def _check_crds(crds: dict[str, Object], product: Product, release: int | None, reporter: Reporter) -> None:
    verdict, why = _MISSING[product.name]
    others: dict[str, list[str]] = defaultdict(list)
    good = 0
    for resource in CUSTOM_RESOURCES[product]:
        name, version = str(resource), resource.version
        crd = crds.get(name)
        if crd is None:
            reporter.add(verdict, f"{product.name} has no {name}", why, f"apply the CRDs of {product.name} again")
            continue
        served = [each["name"] for each in crd["spec"]["versions"] if each.get("served")]
        if version not in served:
            text = f"{name} serves {', '.join(served) or 'nothing'}, not {version}"
            reporter.add(verdict, text, "the API server refuses our manifests", f"upgrade {product.name}")
        elif not is_ready(crd, "Established"):
            reporter.add(verdict, f"{name} is not established", why, f"kubectl describe crd {name}")
        else:
            good += 1
        label = (crd["metadata"].get("labels") or {}).get(VERSION_LABEL, "")
        if release is not None and label and label.removeprefix("v").split(".")[:2] != ["1", str(release)]:
            others[label].append(name)
    if good:
        reporter.ok(f"{product.name}: {good} CRDs serve the versions that the benchmark uses")
    for label, names in others.items():
        reporter.warning(
            f"{product.name} is 1.{release}, but {', '.join(names)} is from {label}",
            "an upgrade is incomplete: new fields are dropped or refused",
            f"apply the CRDs of {product.name} 1.{release}",
        )
