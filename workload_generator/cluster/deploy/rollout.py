"""Deploys and deletes parts in a cluster, and reports the progress at any moment.

Rules:
- a request that cannot be right is refused before anything is applied
- the next stage begins when the objects of the stage before are Ready
- when it is interrupted or fails, every applied object is complete, and the same command resumes
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.deployment import DeployPart, DeployRequest, identity, manifests, namespaces
from workload_generator.cluster.deploy.objects import Applied, apply, delete, find_ours, stages, title, wait_ready
from workload_generator.cluster.deploy.readiness import is_waited_for
from workload_generator.cluster.deploy.services import is_function
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, NotFound
from workload_generator.kube.names import NAME_LABEL, PART_LABEL, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import Object, Resource, name_of, namespace_of

KINDS = (
    kinds.CONTAINER_SOURCES,
    kinds.TRIGGERS,
    kinds.SEQUENCES,
    kinds.BROKERS,
    kinds.BROKER_CONFIGS,
    kinds.RABBITMQ_CLUSTERS,
    kinds.SERVICES,
    kinds.DEPLOYMENTS,
    kinds.CORE_SERVICES,
    kinds.NETWORK_POLICIES,
    kinds.ROLE_BINDINGS,
    kinds.ROLES,
    kinds.SERVICE_ACCOUNTS,
    kinds.CONFIG_MAPS,
)
"""The kinds that are always deleted. Volumes hold logs and events; namespaces may hold objects of others."""

_ADVICE = "two generators would measure each other; use `kn-bench deploy eventing`, or `kn-bench delete eventing` first"


@dataclass(slots=True)
class RolloutProgress:
    """What was done, what is left, and what objects wait for. `say` is called with a line for each event."""

    say: Callable[[str], None]
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def did(self, what: str, name: str) -> None:
        """Something was done; it may be `name` of what was left."""
        self.done.append(what)
        if name in self.left:
            self.left.remove(name)

    def tell(self, obj: Object, why: str, outcome: str = "ready") -> None:
        """An object is ready (or `gone`), or waits for something (`objects.Tell`)."""
        name = title(obj)
        if why:
            self.waiting[name] = why
            return
        self.waiting.pop(name, None)
        self.say(f"{outcome:<10} {name} ({time.monotonic() - self.began:.1f} s)")
        if outcome == "gone":
            self.did(f"deleted {name}", name)


async def deploy(
    kube: Kube, request: DeployRequest, root: Path, timeout_s: float, progress: RolloutProgress, dry_run: bool = False
) -> list[Applied]:
    """Apply the objects of a request, wait until they are ready, and delete surplus copies. Returns what was applied.

    The server checks everything first; a `dry_run` tells what would be created, changed and deleted, and ends there.
    Raises UsageError and ApiError before anything is changed, WaitTimeout with the reasons, ApiError.
    """
    made = manifests(request, root)
    await _refuse_source(kube, request.parts, made, _ADVICE)
    deadline = time.monotonic() + timeout_s
    order = stages(made)
    too_many = await _surplus(kube, request, made)
    if dry_run:
        for obj in too_many:
            progress.say(f"deleted    {title(obj)}")
    await _check(kube, order, progress.say if dry_run else lambda _line: None)
    if dry_run:
        return []
    progress.left = [title(obj) for stage in order for obj in stage]
    await delete(kube, too_many, timeout_s, partial(progress.tell, outcome="gone"))
    applied = []
    for stage in order:
        for obj in stage:
            applied.append(await apply(kube, obj))
            progress.say(str(applied[-1]))
            progress.did(" ".join(str(applied[-1]).split()), title(obj))
        progress.waiting = {title(obj): "applied" for obj in stage if is_waited_for(obj)}
        await wait_ready(kube, stage, max(deadline - time.monotonic(), 0.0), progress.tell)
    return applied


async def _check(kube: Kube, order: Iterable[Sequence[Object]], say: Callable[[str], None]) -> None:
    """Have the server check all objects. Raises ApiError."""
    missing: set[str] = set()
    for obj in (each for stage in order for each in stage):
        if namespace_of(obj) in missing:
            say(f"unchecked  {title(obj)}: its namespace does not exist yet")
            continue
        checked = await apply(kube, obj, dry_run=True)
        if obj["kind"] == "Namespace" and checked.outcome == "created":
            missing.add(name_of(obj))
        say(str(checked))


async def find_deployed(
    kube: Kube, parts: Collection[DeployPart], functions: Sequence[str], root: Path, more: Sequence[Resource]
) -> list[Object]:
    """What was deployed, by its labels: objects of KINDS and of the kinds in `more`. `functions` limits it to these.

    Raises UsageError when the generator would lose its Deployment but not its source, ApiError.
    """
    selector = f"{PART_OF_LABEL}={PRODUCT},{PART_LABEL} in ({','.join(sorted(parts))})"
    if functions:
        selector += f",{NAME_LABEL} in ({','.join(functions)})"
    where = namespaces(root)
    found = [
        obj
        for obj in await find_ours(kube, (*KINDS, *more), where, selector)
        if obj["kind"] != "Namespace" or name_of(obj) in where
    ]
    await _refuse_source(kube, parts, found, "delete eventing first, or both")
    return found


async def remove(kube: Kube, objects: Sequence[Object], timeout_s: float, progress: RolloutProgress) -> None:
    """Delete objects and wait until they and their pods are gone. Raises WaitTimeout, ApiError.

    Without the event source, the generator's Deployment gets its pod back.
    """
    progress.left = [title(obj) for obj in objects]
    deadline = time.monotonic() + timeout_s
    await delete(kube, objects, timeout_s, partial(progress.tell, outcome="gone"))
    for source in objects:
        if source["kind"] == kinds.CONTAINER_SOURCES.kind:
            await _wake(kube, source, max(deadline - time.monotonic(), 0.0), progress)


async def _refuse_source(kube: Kube, parts: Collection[DeployPart], objects: Iterable[Object], advice: str) -> None:
    """Refuse the generator without eventing while it runs as a source. Raises UsageError, ApiError."""
    if DeployPart.GENERATOR not in parts or DeployPart.EVENTING in parts:
        return
    with contextlib.suppress(ApiAbsent):
        for obj in objects:
            if obj["kind"] == kinds.DEPLOYMENTS.kind:
                source = await kube.find(kinds.CONTAINER_SOURCES, name_of(obj), namespace_of(obj))
                if source is not None:
                    raise UsageError(f"the generator runs as {title(source)}: {advice}")


async def _surplus(kube: Kube, request: DeployRequest, made: Sequence[Object]) -> list[Object]:
    """The copies of functions and the triggers in the cluster that the request no longer has."""
    wanted = {identity(obj) for obj in made}
    functions = {obj["metadata"]["labels"][NAME_LABEL] for obj in made if is_function(obj)}
    where = sorted({namespace_of(obj) for obj in made} - {""})
    there = await find_ours(kube, (kinds.TRIGGERS, kinds.SERVICES), where, f"{PART_OF_LABEL}={PRODUCT}")

    def is_surplus(obj: Object) -> bool:
        if is_function(obj):
            return obj["metadata"]["labels"][NAME_LABEL] in functions
        return obj["kind"] == kinds.TRIGGERS.kind and DeployPart.EVENTING in request.parts

    return [obj for obj in there if identity(obj) not in wanted and is_surplus(obj)]


async def _wake(kube: Kube, source: Object, timeout_s: float, progress: RolloutProgress) -> None:
    """Scale the generator's Deployment, which has the source's name, to one pod again."""
    try:
        deployment = await kube.get(kinds.DEPLOYMENTS, name_of(source), namespace_of(source))
    except NotFound:
        return
    if deployment["spec"].get("replicas") == 0 and "deletionTimestamp" not in deployment["metadata"]:
        one = {"spec": {"replicas": 1}}
        deployment = await kube.patch(kinds.DEPLOYMENTS, name_of(source), one, namespace_of(source))
        progress.say(f"changed    {title(deployment)}: scaled to one pod")
        await wait_ready(kube, [deployment], timeout_s, progress.tell)
