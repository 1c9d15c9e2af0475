"""Nodes: labelled and tainted as our namespaces and manifests need them, and healthy."""

from __future__ import annotations

from collections import defaultdict

from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.cluster.doctor.placement import DEDICATED, is_open, labels_of, selected, taints_of
from workload_generator.kube.names import GENERATOR, METRICS
from workload_generator.kube.resources import DEPLOYMENTS, NODES, Object, condition, is_ready, name_of

_PURPOSES = {
    GENERATOR: "others run beside the generator, and take its CPU",
    "knative": "functions run beside Knative's activator and ingress, and take their CPU",
    METRICS: "functions run beside Prometheus, which takes their CPU",
}
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
_TYPE = "node.kubernetes.io/instance-type"


async def check_nodes(cluster: Cluster, found: Findings) -> None:
    """Each dedicated node by label and taint; nodes for functions; which are not Ready, cordoned or under pressure."""
    nodes = await cluster.all(NODES)
    for purpose, why in _PURPOSES.items():
        dedicated = selected(nodes, {DEDICATED: purpose})
        if not dedicated:
            await _check_missing(cluster, purpose, why, found)
        for node in dedicated:
            _check_taint(node, purpose, why, found)
    for node in nodes:
        _check_health(node, found)
    _check_functions(nodes, found)


async def _check_missing(cluster: Cluster, purpose: str, why: str, found: Findings) -> None:
    text, fix = f"no node is labelled {DEDICATED}={purpose}", f"kubectl label node NODE {DEDICATED}={purpose}"
    if purpose == GENERATOR and await _is_bound(cluster):
        found.failed(text, "the generator stays Pending", fix)
    else:
        found.warning(text, why, f"{fix}; on a laptop that is as it is")


async def _is_bound(cluster: Cluster) -> bool:
    """Whether the generator asks for its node: `k8s/overlays/kind` does not, and before it is deployed it will."""
    for each in await cluster.all(DEPLOYMENTS, GENERATOR):
        if name_of(each) == GENERATOR:
            return bool(each["spec"]["template"]["spec"].get("nodeSelector"))
    return True


def _check_taint(node: Object, purpose: str, why: str, found: Findings) -> None:
    name, taint = name_of(node), f"{DEDICATED}={purpose}:NoSchedule"
    ours = [(each["key"], each.get("value"), each["effect"]) for each in taints_of(node)]
    others = [each for each in ours if each[0] == DEDICATED and each[1] != purpose]
    if others:
        found.failed(
            f"{name} is labelled {DEDICATED}={purpose} and tainted {DEDICATED}={others[0][1]}",
            "the pods that belong there do not tolerate it",
            f"kubectl taint node {name} {DEDICATED}={others[0][1]}:{others[0][2]}-",
        )
    if (DEDICATED, purpose, "NoSchedule") in ours:
        found.ok(f"{name} is labelled and tainted {DEDICATED}={purpose}")
    else:
        found.warning(f"{name} is not tainted {taint}", why, f"kubectl taint node {name} {taint}")


def _check_health(node: Object, found: Findings) -> None:
    name, ready = name_of(node), condition(node, "Ready") or {}
    if not is_ready(node):
        text = ready.get("message") or ready.get("reason") or "its kubelet has said nothing yet"
        found.failed(f"{name} is not Ready: {text}", "it takes no pods", f"kubectl describe node {name}")
    elif node["spec"].get("unschedulable"):
        found.warning(f"{name} is cordoned", "it takes no new pods", f"kubectl uncordon {name}")
    for pressure in _PRESSURES:
        state = condition(node, pressure) or {}
        if state.get("status") == "True":
            text = state.get("message") or state.get("reason") or "no message"
            found.failed(f"{name} has {pressure}: {text}", "pods are evicted from it", f"kubectl describe node {name}")


def _check_functions(nodes: list[Object], found: Findings) -> None:
    free = [node for node in nodes if is_open(node) and DEDICATED not in labels_of(node)]
    if not free and not any(is_open(node) for node in nodes):
        return found.failed("no node takes functions", "they stay Pending", "add nodes without a taint")
    if not free:
        return found.warning(
            "functions run on dedicated nodes only",
            "they share CPUs with what is dedicated",
            "add nodes without a label",
        )
    types: dict[str, list[str]] = defaultdict(list)
    for node in free:
        types[labels_of(node).get(_TYPE, "")].append(name_of(node))
    if len(types) > 1:
        texts = "; ".join(f"{', '.join(names)}: {kind or 'unknown'}" for kind, names in types.items())
        return found.warning(
            f"functions run on machines of different types ({texts})",
            "an instance is faster or slower by where it lands",
            "use one machine type for all of them",
        )
    return found.ok(f"{', '.join(map(name_of, free))} for functions")
