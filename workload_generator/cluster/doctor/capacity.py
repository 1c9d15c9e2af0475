"""Room on nodes, by CPU and memory, beside what is requested there already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from workload_generator.base.quantities import parse_quantity
from workload_generator.cluster.doctor.findings import Cluster, Findings
from workload_generator.cluster.doctor.placement import DEDICATED, is_open, labels_of, selected
from workload_generator.kube.errors import ApiAbsent
from workload_generator.kube.names import FUNCTIONS, GENERATOR, MAX_SCALE, SERVICE_LABEL, SHARDS
from workload_generator.kube.resources import CONTAINER_SOURCES, DEPLOYMENTS, NODES, PODS, SERVICES, Object, name_of

_NONE = Fraction(0)


@dataclass(frozen=True, slots=True)
class Room:
    """CPUs and bytes of memory: requested, or free."""

    cpu: Fraction = _NONE
    memory: Fraction = _NONE

    def __add__(self, other: Room) -> Room:
        return Room(self.cpu + other.cpu, self.memory + other.memory)

    def __sub__(self, other: Room) -> Room:
        return Room(self.cpu - other.cpu, self.memory - other.memory)

    def most(self, other: Room) -> Room:
        """The larger of each."""
        return Room(max(self.cpu, other.cpu), max(self.memory, other.memory))

    def times(self, other: Room) -> int | None:
        """How often `other` fits; None when it asks for nothing."""
        each = [have // want for have, want in ((self.cpu, other.cpu), (self.memory, other.memory)) if want]
        return max(min(each), 0) if each else None

    def __str__(self) -> str:
        return f"{float(self.cpu):.4g} CPUs and {float(self.memory) / 2**30:.3g} GiB"


GENERATORS = Room(Fraction(1), Fraction(2 * 2**30))  # of k8s/base/generator
_LARGEST = ("empty-springboot-http-0", Room(Fraction(1, 10), Fraction(512 * 2**20)))  # of k8s/base/functions
_SIDECAR = Room(Fraction(25, 1000))  # queue-proxy's, unless config-deployment says otherwise


def requests_of(pod: Object) -> Room:
    """What the scheduler counts for a pod (its `spec` as `pod`). Raises ValueError for a quantity that is none.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
    """
    running = _sum(_of(each) for each in pod["containers"])
    peak = before = Room()
    for each in pod.get("initContainers") or ():
        if each.get("restartPolicy") == "Always":  # a sidecar: it stays
            before += _of(each)
            peak = peak.most(before)
        else:
            peak = peak.most(before + _of(each))
    whole = (running + before).most(peak)
    own = (pod.get("resources") or {}).get("requests") or {}  # since 1.34 a pod may say it for all of its containers
    whole = Room(_amount(own, "cpu", whole.cpu), _amount(own, "memory", whole.memory))
    overhead = pod.get("overhead") or {}
    return whole + Room(_amount(overhead, "cpu"), _amount(overhead, "memory"))


def _of(container: Object) -> Room:
    """Requests; a limit without a request is one."""
    resources = container.get("resources") or {}
    wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Room(_amount(wanted, "cpu"), _amount(wanted, "memory"))


def _amount(amounts: Object, name: str, otherwise: Fraction = _NONE) -> Fraction:
    return parse_quantity(str(amounts[name])) if name in amounts else otherwise


def _sum(rooms: Iterable[Room]) -> Room:
    return sum(rooms, Room())


def free_on(node: Object, pods: Iterable[Object]) -> Room:
    """What is left of what a node gives to pods."""
    given = node["status"]["allocatable"]
    taken = _sum(requests_of(pod["spec"]) for pod in on_node(node, pods))
    return Room(_amount(given, "cpu"), _amount(given, "memory")) - taken


def on_node(node: Object, pods: Iterable[Object]) -> list[Object]:
    """The pods that have their requests there: those that ended have not."""
    name = name_of(node)
    ended = ("Succeeded", "Failed")
    return [pod for pod in pods if pod["spec"].get("nodeName") == name and pod["status"].get("phase") not in ended]


async def check_capacity(cluster: Cluster, found: Findings) -> None:
    """The generator's node, where it has to fit twice, and the functions' nodes."""
    nodes, pods = await cluster.all(NODES), await cluster.all(PODS)
    wanted = await _generators(cluster)
    others = [pod for pod in pods if pod["metadata"].get("namespace") not in (GENERATOR, SHARDS)]
    for node in selected(nodes, {DEDICATED: GENERATOR}):
        free = free_on(node, others)
        text = f"{name_of(node)}: {free} are free for the generator, which asks for {wanted}"
        fits = free.times(wanted)
        if fits is not None and fits < 2:
            found.failed(
                f"{text}: {'only one fits' if fits else 'it does not fit'}",
                "in eventing it rolls when it gets its sink, and the new one waits for the old one's place for ever",
                "a larger node, or a smaller request",
            )
        else:
            found.ok(text)
    await _check_functions(cluster, nodes, pods, found)


async def _generators(cluster: Cluster) -> Room:
    """What the generator asks for, as it is deployed, or will be."""
    try:
        sources = await cluster.all(CONTAINER_SOURCES, GENERATOR)
    except ApiAbsent:
        sources = []
    for each in [*sources, *await cluster.all(DEPLOYMENTS, GENERATOR)]:
        if name_of(each) == GENERATOR:
            return requests_of(each["spec"]["template"]["spec"])
    return GENERATORS


async def _check_functions(cluster: Cluster, nodes: list[Object], pods: list[Object], found: Findings) -> None:
    open_nodes = [node for node in nodes if is_open(node)]
    theirs = [node for node in open_nodes if DEDICATED not in labels_of(node)] or open_nodes
    if not theirs:
        return  # the check of nodes says so
    try:
        services = await cluster.all(SERVICES, FUNCTIONS)
    except ApiAbsent:
        services = []
    wanted = {name_of(each): requests_of(each["spec"]["template"]["spec"]) + _SIDECAR for each in services}
    name, most = max(wanted.items(), key=lambda item: (item[1].memory, item[1].cpu), default=_LARGEST)
    free = [free_on(node, pods) for node in theirs]
    places = [_places(node, pods) for node in theirs]
    fit = sum(min(room.times(most) or 0, count) for room, count in zip(free, places, strict=True))
    where = f"functions: {_sum(free)} are free on {len(theirs)} nodes"
    text = f"{where}: {fit} more instances of {name}, which asks for {most}"
    why, fix = "instances stay Pending, and requests wait for them", "more or larger nodes"
    if not fit:
        return found.failed(text, why, fix)
    limits = {name_of(each): _max_scale(each) for each in services}
    asking = [f"{each} up to {limit}" for each, limit in limits.items() if limit > fit + _instances(each, pods)]
    if asking:
        return found.warning(f"{text}; {', '.join(asking)} may be asked for", why, f"{fix}, or a smaller max-scale")
    return found.ok(text)


def _places(node: Object, pods: Iterable[Object]) -> int:
    """How many more pods the kubelet takes."""
    given = node["status"]["allocatable"].get("pods")
    return max(int(parse_quantity(str(given))) - len(on_node(node, pods)), 0) if given is not None else 0


def _max_scale(service: Object) -> int:
    text = (service["spec"]["template"].get("metadata", {}).get("annotations") or {}).get(MAX_SCALE, "0")
    return int(text) if text.isdecimal() else 0


def _instances(service: str, pods: Iterable[Object]) -> int:
    return sum(labels_of(pod).get(SERVICE_LABEL) == service for pod in pods)
