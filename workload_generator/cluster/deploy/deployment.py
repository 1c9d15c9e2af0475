"""The manifests of a deployment: parts of `k8s/` with the user's choices. Nothing here talks to a cluster.

Rules:
- the manifests are rendered from `k8s/` by kustomize; nothing in them is repeated here
- generator and functions come from one overlay; as an event source, the generator comes with the component for it
- every object belongs to one part, by its label in the manifests; what a user's overlay adds is the generator's
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.services import Images, chosen, copies, functions_of, is_function
from workload_generator.cluster.deploy.tuning import Values, of_trigger
from workload_generator.kube.names import PART_LABEL, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import BROKERS, TRIGGERS, Object, name_of, namespace_of


class DeployPart(StrEnum):
    """A part that can be deployed and deleted separately."""

    FUNCTIONS = "functions"
    GENERATOR = "generator"
    EVENTING = "eventing"
    SEQUENCE = "sequence"


class BrokerKind(StrEnum):
    """The brokers, by their folders in `k8s/eventing`."""

    RABBITMQ = "rabbitmq"
    IN_MEMORY = "in-memory"


@dataclass(frozen=True, slots=True)
class DeployRequest:
    """What to deploy. `functions` are names of the catalog; empty means all of them. Each gets the `values`.

    `overlay` is the name of one of `k8s/overlays`, or a folder of the user. Eventing includes the generator, as its
    source. With `triggers` None there are as many as in the manifests.
    """

    parts: frozenset[DeployPart]
    functions: tuple[str, ...] = ()
    count: int = 1
    values: Values = field(default_factory=dict)
    images: Images = Images()
    overlay: str | None = None
    components: tuple[str, ...] = ()
    broker: BrokerKind = BrokerKind.RABBITMQ
    triggers: int | None = None
    parallelism: int | None = None


def manifests(request: DeployRequest, root: Path) -> list[Object]:
    """The labelled objects of a request, in no particular order. `root` is the folder `k8s/`. Raises UsageError."""
    eventing = DeployPart.EVENTING in request.parts
    made: list[Object] = []
    if eventing or request.parts & {DeployPart.FUNCTIONS, DeployPart.GENERATOR}:
        components = [*request.components, *(["eventing"] if eventing else [])]
        base = render(overlay(root, request.overlay), [_folder_of(root, "component", name) for name in components])
        made += _of_base(request, base)
    if eventing:
        made += _eventing(request, render(root / "eventing" / request.broker))
    if DeployPart.SEQUENCE in request.parts:
        known = {identity(obj) for obj in made}
        made += [obj for obj in render(root / "eventing" / "sequence") if identity(obj) not in known]
    request.images.put_into(made)
    return made


def namespaces(root: Path) -> list[str]:
    """All namespaces in the manifests. Raises UsageError."""
    everything = [*render(root), *(obj for each in BrokerKind for obj in render(root / "eventing" / each))]
    return sorted({name_of(obj) for obj in everything if obj["kind"] == "Namespace"})


def namespace_of_functions(root: Path) -> str:
    """The namespace of the functions' Services. Raises UsageError."""
    return next(namespace_of(obj) for obj in render(root) if is_function(obj))


def overlay(root: Path, name: str | None) -> Path:
    """The folder of the generator and the functions. Raises UsageError that lists the overlays."""
    if name is None:
        return root
    if Path(name).is_dir() and ("/" in name or not (root / "overlays" / name).is_dir()):
        return Path(name)
    return _folder_of(root, "overlay", name)


def _folder_of(root: Path, kind: str, name: str) -> Path:
    folder = root / f"{kind}s" / name
    if "/" in name or not (folder / "kustomization.yaml").is_file():
        names = ", ".join(sorted(path.name for path in (root / f"{kind}s").iterdir()))
        raise UsageError(f"--{kind}: {name} is not one of {names}")
    return folder


def _of_base(request: DeployRequest, base: list[Object]) -> list[Object]:
    """Functions, generator and source, with their namespaces."""
    made: list[Object] = []
    for obj in base:
        own = obj["metadata"].setdefault("labels", {})
        own.setdefault(PART_OF_LABEL, PRODUCT)
        own.setdefault(PART_LABEL, str(DeployPart.FUNCTIONS if is_function(obj) else DeployPart.GENERATOR))
        of_functions = own[PART_LABEL] == DeployPart.FUNCTIONS
        parts = {DeployPart.FUNCTIONS} if of_functions else {DeployPart.GENERATOR, DeployPart.EVENTING}
        if request.parts & parts and not is_function(obj):
            made.append(obj)
    if DeployPart.FUNCTIONS in request.parts:
        known = functions_of(base)
        for name in chosen(known, request.functions):
            made += copies(known[name], request.count, request.values)
    used = {namespace_of(obj) for obj in made}
    spaces = [obj for obj in base if obj["kind"] == "Namespace" and obj not in made]
    return [*(obj for obj in spaces if name_of(obj) in used), *made]


def _eventing(request: DeployRequest, folder: list[Object]) -> list[Object]:
    made = [obj for obj in folder if obj["kind"] != TRIGGERS.kind]
    found = [obj for obj in folder if obj["kind"] == TRIGGERS.kind]
    brokers = [obj for obj in folder if obj["kind"] == BROKERS.kind]
    if request.parallelism is not None and not all(is_rabbitmq(obj) for obj in brokers):
        raise UsageError(f"--parallelism: only RabbitMQ triggers have a parallelism, and --broker is {request.broker}")
    for template in found:
        made += copies(template, request.triggers or 1, of_trigger(request.parallelism))
    return made


def identity(obj: Object) -> tuple[str, str, str, str]:
    """API version, kind, namespace and name."""
    return obj["apiVersion"], obj["kind"], namespace_of(obj), name_of(obj)
