"""What has to be true of a cluster before a benchmark runs on it, one check at a time."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from workload_generator.cluster.sources import examine, mend
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, WaitTimeout
from workload_generator.kube.resources import (
    BROKERS,
    CONFIG_MAPS,
    CONTAINER_SOURCES,
    NODE_METRICS,
    NODES,
    PODS,
    SERVICES,
    Object,
    Resource,
    name_of,
    namespace_of,
)

Verdict = Literal["ok", "warning", "failed", "unknown"]
MINIMUM = ((1, 22, 34), (1, 21, 33), (1, 18, 31))  # Knative Serving from 1.x on needs Kubernetes 1.y (release notes)
DEDICATED = "dedicated"
GENERATOR = "workload-generator"
_APIS: tuple[tuple[Resource, str, Verdict], ...] = (
    (SERVICES, "Knative Serving", "failed"),
    (BROKERS, "Knative Eventing", "warning"),
    (NODE_METRICS, "metrics-server", "warning"),
)
_UNITS = {"": Decimal(1), "m": Decimal("1e-3"), "u": Decimal("1e-6"), "n": Decimal("1e-9")}
GENERATOR_CPU = Decimal(1)  # of k8s/base/generator: what has to fit twice, since a ContainerSource rolls


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was seen, and, unless it is ok, what to do."""

    check: str
    verdict: Verdict
    text: str
    fix: str = ""


async def check_all(kube: Kube, *, fix: bool, timeout_s: float) -> list[Finding]:
    """All checks in order; one that the API refuses is `unknown`. ApiError when the cluster does not answer at all."""
    version = await kube.version()  # a cluster that does not answer at all is an error, not a finding
    minor = int(re.sub(r"\D.*", "", str(version["minor"])) or 0)
    findings = []
    for name, check in _CHECKS.items():
        try:
            findings += await check(kube, name, minor)
        except ApiError as error:
            findings.append(Finding(name, "unknown", str(error)))
    findings += await _sources(kube, fix=fix, timeout_s=timeout_s)
    return findings


async def _versions(kube: Kube, check: str, minor: int) -> list[Finding]:
    """Knative's controllers say their release in the namespace's label or the ConfigMaps' labels."""
    try:
        config = await kube.find(CONFIG_MAPS, "config-autoscaler", "knative-serving")
    except ApiError as error:
        return [Finding(check, "unknown", str(error))]
    release = (config or {}).get("metadata", {}).get("labels", {}).get("app.kubernetes.io/version", "")
    found = re.fullmatch(r"v?1\.(\d+)\..*", release)
    if found is None:
        return [Finding(check, "unknown", f"Kubernetes 1.{minor}; the release of Knative Serving cannot be told")]
    needed = next((least for _, knative, least in MINIMUM if int(found[1]) >= knative), 0)
    text = f"Kubernetes 1.{minor}, Knative Serving {release}"
    if minor < needed:
        return [Finding(check, "failed", f"{text} needs 1.{needed}", f"upgrade Kubernetes to 1.{needed} or newer")]
    return [Finding(check, "ok", text)]


async def _apis(kube: Kube, check: str, _minor: int) -> list[Finding]:
    findings = []
    for resource, what, verdict in _APIS:
        try:
            async for _ in kube.pages(resource, page=1):
                break
        except ApiAbsent:
            findings.append(Finding(check, verdict, f"{what} is not installed ({resource})", f"install {what}"))
        except ApiError as error:
            findings.append(Finding(check, "unknown", str(error)))
        else:
            findings.append(Finding(check, "ok", f"{what} answers"))
    return findings


async def _nodes(kube: Kube, check: str, _minor: int) -> list[Finding]:
    """The dedicated node: labelled, tainted, and with room for the generator twice."""
    nodes = (await kube.list(NODES, labels=f"{DEDICATED}={GENERATOR}")).items
    if not nodes:
        label = f"kubectl label node NODE {DEDICATED}={GENERATOR}"
        return [Finding(check, "failed", f"no node is labelled {DEDICATED}={GENERATOR}", label)]
    findings = []
    for node in nodes:
        name = name_of(node)
        taints = [(taint["key"], taint.get("value"), taint["effect"]) for taint in node["spec"].get("taints") or ()]
        if (DEDICATED, GENERATOR, "NoSchedule") not in taints:
            taint = f"kubectl taint node {name} {DEDICATED}={GENERATOR}:NoSchedule"
            findings.append(Finding(check, "warning", f"{name} is not tainted: others may run beside us", taint))
        pods = (await kube.list(PODS, fields=f"spec.nodeName={name}")).items
        others = sum((_cpu(pod) for pod in pods if pod["metadata"].get("namespace") != GENERATOR), Decimal(0))
        free = cores(node["status"]["allocatable"]["cpu"]) - others
        text = f"{name}: {free} CPUs are free for the generator, which asks for {GENERATOR_CPU} and rolls in eventing"
        if free < 2 * GENERATOR_CPU:
            findings.append(Finding(check, "failed", f"{text}: two do not fit", "a larger node, or a smaller request"))
        else:
            findings.append(Finding(check, "ok", text))
    return findings


async def _sources(kube: Kube, *, fix: bool, timeout_s: float) -> list[Finding]:
    check = "container sources"
    try:
        sources = (await kube.list(CONTAINER_SOURCES)).items
    except ApiAbsent:
        return []
    except ApiError as error:
        return [Finding(check, "unknown", str(error))]
    findings = []
    for source in sources:
        try:
            state = await examine(kube, source)
        except ApiError as error:
            findings.append(Finding(check, "unknown", f"{namespace_of(source)}/{name_of(source)}: {error}"))
            continue
        text = f"{state.namespace}/{state.name}: {state.text}"
        if not state.fault:
            findings.append(Finding(check, "ok", text))
        elif state.fault == "starting":
            findings.append(Finding(check, "warning", text, "wait, and look again"))
        elif not fix:
            findings.append(Finding(check, "failed", text, "kn-bench doctor --fix"))
        else:
            try:
                done = await mend(kube, state, timeout_s)
            except (WaitTimeout, ApiError) as error:
                findings.append(Finding(check, "failed", f"{text}; {error}", "look at its events: kubectl describe"))
            else:
                findings.append(Finding(check, "ok", f"mended: {text}; {done}"))
    return findings


def cores(quantity: str) -> Decimal:
    """CPUs of a quantity: `2500m` is 2.5. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([num]?)", quantity)
    if found is None:
        raise ValueError(f"{quantity!r} is no amount of CPUs")
    return Decimal(found[1]) * _UNITS[found[2]]


def _cpu(pod: Object) -> Decimal:
    if pod["status"].get("phase") in ("Succeeded", "Failed"):
        return Decimal(0)
    requests = (container.get("resources", {}).get("requests", {}) for container in pod["spec"]["containers"])
    return sum((cores(str(request.get("cpu", "0"))) for request in requests), Decimal(0))


_CHECKS: dict[str, Callable[[Kube, str, int], Awaitable[list[Finding]]]] = {
    "versions": _versions,
    "APIs": _apis,
    "nodes": _nodes,
}
