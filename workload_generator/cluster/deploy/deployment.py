"""What is deployed: parts of the manifests, each with what a user may choose of it. Nothing here talks to a cluster.

Rules:
- the manifests are kustomize's rendering of `k8s/`; nothing that stands there is said here a second time
- generator and functions come from one overlay; as an event source, the generator comes with the component for it
- every object belongs to one part, and says so in a label
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.eventing import is_rabbitmq, triggers
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import label
from workload_generator.cluster.deploy.services import Images, Tuning, chosen, copies, functions_of, is_function
from workload_generator.kube.names import NAME_LABEL
from workload_generator.kube.resources import BROKERS, CONTAINER_SOURCES, TRIGGERS, Object, name_of, namespace_of


class DeployPart(StrEnum):
    """What can be deployed and deleted by itself."""

    FUNCTIONS = "functions"
    GENERATOR = "generator"
    EVENTING = "eventing"
    SEQUENCE = "sequence"


class BrokerKind(StrEnum):
    """The folders of `k8s/eventing` with a broker."""

    RABBITMQ = "rabbitmq"
    IN_MEMORY = "in-memory"


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """What a user asks for. `functions` are names of the catalog; empty means all of them.

    `overlay` is the name of one of `k8s/overlays`, or a folder of the user's own. Eventing brings the generator, as
    its source. `triggers` of None are as many as the manifests have.
    """

    parts: frozenset[DeployPart]
    functions: tuple[str, ...] = ()
    count: int = 1
    tuning: Tuning = Tuning()
    images: Images = Images()
    overlay: str | None = None
    components: tuple[str, ...] = ()
    broker: BrokerKind = BrokerKind.RABBITMQ
    triggers: int | None = None
    parallelism: int | None = None


def manifests(request: DeployRequest, root: Path) -> list[Object]:
    """The objects of a request, labelled, in no particular order. Raises UsageError; `root` is the folder `k8s/`."""
    made: list[Object] = []
    eventing = DeployPart.EVENTING in request.parts
    if request.parts & {DeployPart.FUNCTIONS, DeployPart.GENERATOR} or eventing:
        components = [*request.components, *(["eventing"] if eventing else [])]
        base = render(overlay(root, request.overlay), [_component(root, name) for name in components])
        made += _of_base(request, base)
    if eventing:
        made += _eventing(request, render(root / "eventing" / request.broker))
    if DeployPart.SEQUENCE in request.parts:
        common = {_identity(obj) for obj in render(root / "eventing" / "base")}
        known = {_identity(obj) for obj in made}
        for obj in render(root / "eventing" / "sequence"):
            label([obj], DeployPart.EVENTING if _identity(obj) in common else DeployPart.SEQUENCE)
            if _identity(obj) not in known:
                made.append(obj)
    request.images.put_into(made)
    return made


def namespaces(root: Path) -> list[str]:
    """All namespaces that the manifests name, whatever is deployed of them. Raises UsageError."""
    everything = [*render(root), *(obj for each in BrokerKind for obj in render(root / "eventing" / each))]
    return sorted({name_of(obj) for obj in everything if obj["kind"] == "Namespace"})


def namespace_of_functions(root: Path) -> str:
    """Where the functions' Services are. Raises UsageError."""
    return next(namespace_of(obj) for obj in render(root) if is_function(obj))


def overlay(root: Path, name: str | None) -> Path:
    """The folder of the generator and the functions. Raises UsageError, which lists those that exist."""
    if name is None:
        return root
    known = root / "overlays" / name
    if "/" not in name and (known / "kustomization.yaml").is_file():
        return known
    if Path(name).is_dir():
        return Path(name)
    names = ", ".join(sorted(path.name for path in (root / "overlays").iterdir()))
    raise UsageError(f"--overlay: {name} is neither a folder nor one of {names}")


def _component(root: Path, name: str) -> Path:
    folder = root / "components" / name
    if "/" in name or not (folder / "kustomization.yaml").is_file():
        names = ", ".join(sorted(path.name for path in (root / "components").iterdir()))
        raise UsageError(f"--component: {name} is none of {names}")
    return folder


def _of_base(request: DeployRequest, base: list[Object]) -> list[Object]:
    """Functions, generator and source, each with its namespace."""
    functions = [obj for obj in base if is_function(obj)]
    others = [obj for obj in base if not is_function(obj) and obj["kind"] != "Namespace"]
    made: list[Object] = []
    if DeployPart.FUNCTIONS in request.parts:
        found = functions_of(functions)
        for name in chosen(found, request.functions):
            made += copies(found[name], request.count, request.tuning)
        label(made, DeployPart.FUNCTIONS)
    own: list[Object] = []
    if request.parts & {DeployPart.GENERATOR, DeployPart.EVENTING}:
        source = [obj for obj in others if obj["kind"] == CONTAINER_SOURCES.kind]
        own = [obj for obj in others if obj not in source]
        label(own, DeployPart.GENERATOR)
        label(source, DeployPart.EVENTING)
        own += source
    # A namespace that nothing is in, Prometheus', is the generator's, whose network policy speaks of it.
    empty = {name_of(obj) for obj in base if obj["kind"] == "Namespace"} - {namespace_of(obj) for obj in base}
    spaces = [
        (obj, part)
        for obj in base
        if obj["kind"] == "Namespace"
        for part, there in ((DeployPart.GENERATOR, own), (DeployPart.FUNCTIONS, made))
        if _has(there, name_of(obj)) or (part is DeployPart.GENERATOR and own and name_of(obj) in empty)
    ]
    wanted: list[Object] = []
    for obj, part in spaces:
        if obj not in wanted:
            label([obj], part)
            wanted.append(obj)
    return [*wanted, *made, *own]


def _has(objects: Iterable[Object], namespace: str) -> bool:
    return any(namespace_of(obj) == namespace for obj in objects)


def _eventing(request: DeployRequest, folder: list[Object]) -> list[Object]:
    made = [obj for obj in folder if obj["kind"] != TRIGGERS.kind]
    found = [obj for obj in folder if obj["kind"] == TRIGGERS.kind]
    brokers = [obj for obj in folder if obj["kind"] == BROKERS.kind]
    if request.parallelism is not None and not all(is_rabbitmq(obj) for obj in brokers):
        raise UsageError(f"--parallelism: only RabbitMQ's triggers have one, and --broker is {request.broker}")
    for template in found:
        made += triggers(template, 1 if request.triggers is None else request.triggers, request.parallelism)
    label(made, DeployPart.EVENTING)
    return made


def _identity(obj: Object) -> tuple[str, str, str, str]:
    return obj["apiVersion"], obj["kind"], namespace_of(obj), name_of(obj)


def surplus(request: DeployRequest, made: Sequence[Object]) -> Callable[[Object], bool]:
    """Whether an object of the cluster is a copy that the request no longer has: a function's, or a trigger."""
    wanted = {_identity(obj) for obj in made}
    functions = {obj["metadata"]["labels"][NAME_LABEL] for obj in made if is_function(obj)}

    def is_surplus(obj: Object) -> bool:
        if _identity(obj) in wanted:
            return False
        if is_function(obj):
            return obj["metadata"]["labels"][NAME_LABEL] in functions
        return obj["kind"] == TRIGGERS.kind and DeployPart.EVENTING in request.parts

    return is_surplus
