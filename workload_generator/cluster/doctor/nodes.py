"""Nodes: the labels and taints that our namespaces and manifests need, and their health."""

from __future__ import annotations

from collections import defaultdict

from workload_generator.cluster.deploy.readiness import message_of, why_not
from workload_generator.cluster.doctor.placement import DEDICATED, is_open, labels_of, selected, taints_of
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube.names import GENERATOR, METRICS
from workload_generator.kube.resources import DEPLOYMENTS, NODES, Object, condition, is_ready, name_of

_PURPOSES = {
    GENERATOR: "other pods share the generator's node and take its CPU",
    "knative": "functions share the node of Knative's activator and ingress and take their CPU",
    METRICS: "functions share the node of Prometheus, which takes their CPU",
}
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable")
_TYPE = "node.kubernetes.io/instance-type"


async def check_nodes(cluster: Cluster, reporter: Reporter) -> None:
    """The label and taint of each dedicated node; nodes for functions; nodes not Ready, cordoned or under pressure."""
    nodes = await cluster.all(NODES)
    for purpose, why in _PURPOSES.items():
        dedicated = selected(nodes, {DEDICATED: purpose})
        for node in dedicated:
            _check_taint(node, purpose, why, reporter)
        if dedicated:
            continue
        text, fix = f"no node is labelled {DEDICATED}={purpose}", f"kubectl label node NODE {DEDICATED}={purpose}"
        if purpose == GENERATOR and await _generator_selects_nodes(cluster):
            reporter.failed(text, "the generator stays Pending", fix)
        else:
            reporter.warning(text, why, f"{fix}; not possible on a laptop with one node")
    for node in nodes:
        _check_health(node, reporter)
    _check_functions(nodes, reporter)


async def _generator_selects_nodes(cluster: Cluster) -> bool:
    """Whether the generator has a node selector (`k8s/overlays/kind` has none), or will have one when deployed."""
    for each in await cluster.all(DEPLOYMENTS, GENERATOR):
        if name_of(each) == GENERATOR:
            return bool(each["spec"]["template"]["spec"].get("nodeSelector"))
    return True


def _check_taint(node: Object, purpose: str, why: str, reporter: Reporter) -> None:
    name, taint = name_of(node), f"{DEDICATED}={purpose}:NoSchedule"
    taints = [(each["key"], each.get("value"), each["effect"]) for each in taints_of(node)]
    for key, value, effect in taints:
        if key == DEDICATED and value != purpose:
            reporter.failed(
                f"{name} is labelled {DEDICATED}={purpose} and tainted {DEDICATED}={value}",
                "the pods for this node do not tolerate the taint",
                f"kubectl taint node {name} {DEDICATED}={value}:{effect}-",
            )
            break
    if (DEDICATED, purpose, "NoSchedule") in taints:
        reporter.ok(f"{name} is labelled and tainted {DEDICATED}={purpose}")
    else:
        reporter.warning(f"{name} is not tainted {taint}", why, f"kubectl taint node {name} {taint}")


def _check_health(node: Object, reporter: Reporter) -> None:
    name, describe = name_of(node), f"kubectl describe node {name_of(node)}"
    if why := why_not(node):
        reporter.failed(f"{name} is not Ready: {why}", "it takes no pods", describe)
    elif node["spec"].get("unschedulable"):
        reporter.warning(f"{name} is cordoned", "it takes no new pods", f"kubectl uncordon {name}")
    for pressure in _PRESSURES:
        if is_ready(node, pressure):
            text = message_of(condition(node, pressure) or {})
            reporter.failed(f"{name} has {pressure}: {text}", "pods are evicted from it", describe)


def _check_functions(nodes: list[Object], reporter: Reporter) -> None:
    opened = [node for node in nodes if is_open(node)]
    free = [node for node in opened if DEDICATED not in labels_of(node)]
    if not opened:
        return reporter.failed("no node takes functions", "they stay Pending", "add nodes without a taint")
    if not free:
        text, why = "functions run on dedicated nodes only", "they share CPUs with the pods of that purpose"
        return reporter.warning(text, why, "add nodes without a label")
    types: dict[str, list[str]] = defaultdict(list)
    for node in free:
        types[labels_of(node).get(_TYPE, "")].append(name_of(node))
    if len(types) > 1:
        texts = "; ".join(f"{', '.join(names)}: {kind or 'unknown'}" for kind, names in types.items())
        return reporter.warning(
            f"functions run on machines of different types ({texts})",
            "the speed of an instance depends on its node",
            "use one machine type for all of them",
        )
    return reporter.ok(f"{', '.join(map(name_of, free))} for functions")
