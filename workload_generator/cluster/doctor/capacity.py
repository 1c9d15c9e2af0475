"""Free CPU and memory on nodes, after what their pods request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from workload_generator.base.quantities import parse_quantity
from workload_generator.cluster.deploy.sources import SINK_VARIABLE, examine
from workload_generator.cluster.doctor.placement import DEDICATED, annotations_of, is_open, labels_of, selected
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube import resources as kinds
from workload_generator.kube.names import FUNCTIONS, GENERATOR, MAX_SCALE, SERVICE_LABEL, SHARDS
from workload_generator.kube.resources import Object, name_of, namespace_of

_NONE = Fraction(0)


@dataclass(frozen=True, slots=True)
class Compute:
    """CPUs and bytes of memory, requested or free."""

    cpu: Fraction = _NONE
    memory: Fraction = _NONE

    def __add__(self, other: Compute) -> Compute:
        return Compute(self.cpu + other.cpu, self.memory + other.memory)

    def __sub__(self, other: Compute) -> Compute:
        return Compute(self.cpu - other.cpu, self.memory - other.memory)

    def max(self, other: Compute) -> Compute:
        """The larger CPU and the larger memory."""
        return Compute(max(self.cpu, other.cpu), max(self.memory, other.memory))

    def times(self, other: Compute) -> int | None:
        """How often `other` fits; None when it requests nothing."""
        each = [have // want for have, want in ((self.cpu, other.cpu), (self.memory, other.memory)) if want]
        return max(min(each), 0) if each else None

    def __str__(self) -> str:
        return f"{float(self.cpu):.4g} CPUs and {float(self.memory) / 2**30:.3g} GiB"


_GENERATOR = Compute(Fraction(1), Fraction(2 * 2**30))  # of k8s/base/generator
_LARGEST = ("empty-springboot-http-0", Compute(Fraction(1, 10), Fraction(512 * 2**20)))  # of k8s/base/functions
_SIDECAR = Compute(Fraction(25, 1000))  # queue-proxy, by the default of config-deployment


def requests_of(pod: Object) -> Compute:
    """What the scheduler counts for the `spec` of a pod. Raises ValueError for an invalid quantity.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
    """
    running = sum((_container(each) for each in pod["containers"]), Compute())
    peak = before = Compute()
    for each in pod.get("initContainers") or ():
        if each.get("restartPolicy") == "Always":  # a sidecar: it keeps running
            before += _container(each)
            peak = peak.max(before)
        else:
            peak = peak.max(before + _container(each))
    whole = (running + before).max(peak)
    own = (pod.get("resources") or {}).get("requests") or {}  # pod-level resources, since Kubernetes 1.34
    return _compute(own, whole) + _compute(pod.get("overhead") or {})


def _container(container: Object) -> Compute:
    """The requests; a limit without a request counts as one."""
    resources = container.get("resources") or {}
    return _compute({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _compute(amounts: Object, default: Compute = Compute()) -> Compute:
    return Compute(
        parse_quantity(str(amounts["cpu"])) if "cpu" in amounts else default.cpu,
        parse_quantity(str(amounts["memory"])) if "memory" in amounts else default.memory,
    )


def _free_on(node: Object, pods: Iterable[Object]) -> Compute:
    requested = sum((requests_of(pod["spec"]) for pod in _on_node(node, pods)), Compute())
    return _compute(node["status"]["allocatable"]) - requested


def _on_node(node: Object, pods: Iterable[Object]) -> list[Object]:
    """The pods whose requests count there: all but those that ended."""
    ended = ("Succeeded", "Failed")
    return [
        pod for pod in pods if pod["spec"].get("nodeName") == name_of(node) and pod["status"].get("phase") not in ended
    ]


async def check_capacity(cluster: Cluster, reporter: Reporter) -> None:
    """The generator's node, which needs room for two of it where a ContainerSource rolls; and the functions' nodes."""
    nodes, pods = await cluster.all(kinds.NODES), await cluster.all(kinds.PODS)
    requests = await _generator_requests(cluster)
    others = [pod for pod in pods if namespace_of(pod) not in (GENERATOR, SHARDS)]
    sources = await cluster.installed(kinds.CONTAINER_SOURCES, GENERATOR)
    has_to_roll = any([(await examine(cluster.kube, source)).fault for source in sources])
    for node in selected(nodes, {DEDICATED: GENERATOR}):
        free = _free_on(node, others)
        text = f"{name_of(node)}: {free} are free for the generator, which requests {requests}"
        count = free.times(requests)
        one = f"{text}: only one fits"
        why = "starts the new pod before the old one ends: it would wait forever"
        fix = "use a larger node, or a smaller request"
        if count is None or count > 1 or (count == 1 and not sources):
            reporter.ok(text)
        elif not count:
            reporter.failed(f"{text}: it does not fit", "its pod cannot start", fix)
        elif has_to_roll:
            reporter.failed(one, f"the ContainerSource has no {SINK_VARIABLE} yet, and its rollout {why}", fix)
        else:
            reporter.warning(one, f"a change of the ContainerSource, such as another image, {why}", fix)
    await _check_functions(cluster, nodes, pods, reporter)


async def _generator_requests(cluster: Cluster) -> Compute:
    """The requests of the generator as deployed, else by our manifests."""
    for resource in (kinds.CONTAINER_SOURCES, kinds.DEPLOYMENTS):
        for each in await cluster.installed(resource, GENERATOR):
            if name_of(each) == GENERATOR:
                return requests_of(each["spec"]["template"]["spec"])
    return _GENERATOR


async def _check_functions(cluster: Cluster, nodes: list[Object], pods: list[Object], reporter: Reporter) -> None:
    opened = [node for node in nodes if is_open(node)]
    own = [node for node in opened if DEDICATED not in labels_of(node)] or opened
    if not own:
        return  # reported by the check of nodes
    services = await cluster.installed(kinds.SERVICES, FUNCTIONS)
    requests = {name_of(each): requests_of(each["spec"]["template"]["spec"]) + _SIDECAR for each in services}
    name, largest = max(requests.items(), key=lambda item: (item[1].memory, item[1].cpu), default=_LARGEST)
    free = [_free_on(node, pods) for node in own]
    slots = [_pod_slots(node, pods) for node in own]
    count = sum(min(each.times(largest) or 0, most) for each, most in zip(free, slots, strict=True))
    more = f"{count} more instances of {name} ({largest} each)"
    text = f"functions: {sum(free, Compute())} are free on {len(own)} nodes: {more}"
    why, fix = "instances stay Pending, and requests wait for them", "add nodes, or use larger ones"
    if not count:
        return reporter.failed(text, why, fix)
    limits = {name_of(each): _max_scale(each) for each in services}
    above = [f"{each} up to {limit}" for each, limit in limits.items() if limit > count + _instances(each, pods)]
    if above:
        return reporter.warning(f"{text}; max-scale allows {', '.join(above)}", why, f"{fix}, or lower max-scale")
    return reporter.ok(text)


def _pod_slots(node: Object, pods: Iterable[Object]) -> int:
    """How many more pods the kubelet accepts."""
    limit = node["status"]["allocatable"].get("pods")
    return max(int(parse_quantity(str(limit))) - len(_on_node(node, pods)), 0) if limit is not None else 0


def _max_scale(service: Object) -> int:
    template = {"metadata": {}, **service["spec"]["template"]}
    text = annotations_of(template).get(MAX_SCALE, "0")
    return int(text) if text.isdecimal() else 0


def _instances(service: str, pods: Iterable[Object]) -> int:
    return sum(labels_of(pod).get(SERVICE_LABEL) == service for pod in pods)
