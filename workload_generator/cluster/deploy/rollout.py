"""Deploys and deletes parts in a cluster, and reports the progress at any moment.

Rules:
- a request that cannot be right is refused before anything is applied
- the next stage begins when the objects of the stage before are Ready
- when it is interrupted, every applied object is complete, and the same command resumes
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.deployment import DeployPart, DeployRequest, manifests, namespaces, surplus
from workload_generator.cluster.deploy.eventing import is_rabbitmq, parallelism_of, wait_for_dispatchers
from workload_generator.cluster.deploy.objects import Applied, apply, delete, find_ours, stages, wait_ready
from workload_generator.cluster.deploy.readiness import is_waited_for
from workload_generator.cluster.deploy.sources import wait_bound
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, NotFound
from workload_generator.kube.names import NAME_LABEL, PART_LABEL, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import Object, name_of, namespace_of

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


@dataclass(slots=True)
class RolloutProgress:
    """What was applied, what is left, and what objects wait for. `say` is called with a line for each event."""

    say: Callable[[str], None]
    applied: list[Applied] = field(default_factory=list)
    left: list[Object] = field(default_factory=list)
    waiting: dict[str, str] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def tell(self, obj: Object, why: str) -> None:
        """An object is ready, or waits for something (`objects.Tell`)."""
        name = title(obj)
        if why:
            self.waiting[name] = why
        else:
            self.waiting.pop(name, None)
            self.say(f"ready      {name} ({time.monotonic() - self.began:.1f} s)")

    def gone(self, obj: Object, why: str) -> None:
        """An object is deleted, or is not yet (`objects.Tell`)."""
        if not why:
            self.say(f"gone       {title(obj)} ({time.monotonic() - self.began:.1f} s)")


def title(obj: Object) -> str:
    """`Service functions/empty-go-http-0`"""
    return f"{obj['kind']} {'/'.join(filter(None, (namespace_of(obj), name_of(obj))))}"


async def deploy(
    kube: Kube, request: DeployRequest, root: Path, timeout_s: float, progress: RolloutProgress
) -> list[Applied]:
    """Apply the objects of a request, wait until they are ready, and delete surplus copies. Returns what was applied.

    Raises UsageError before anything is changed, WaitTimeout with the reasons, ApiError.
    """
    made = manifests(request, root)
    await _refuse(kube, request, made)
    deadline = time.monotonic() + timeout_s
    await delete(kube, await _surplus(kube, request, made), timeout_s, progress.gone)
    order = stages(made)
    progress.left = [obj for stage in order for obj in stage]
    for stage in order:
        for obj in stage:
            done = await apply(kube, obj)
            progress.applied.append(done)
            progress.left.remove(obj)
            progress.say(f"{done.outcome:<10} {title(done.object)}")
        waited = [obj for obj in stage if is_waited_for(obj)]
        progress.waiting = {title(obj): "applied" for obj in waited}
        await wait_ready(kube, waited, max(deadline - time.monotonic(), 0.0), progress.tell)
        await _wait_deliverers(kube, stage, made, max(deadline - time.monotonic(), 0.0))
    return progress.applied


async def _wait_deliverers(kube: Kube, stage: Sequence[Object], made: Sequence[Object], timeout_s: float) -> None:
    """Wait for what Ready does not include: the dispatchers' parallelism, and K_SINK in the source's pod."""
    rabbits = {
        (namespace_of(obj), name_of(obj)) for obj in made if obj["kind"] == kinds.BROKERS.kind and is_rabbitmq(obj)
    }
    wanted: dict[str, dict[str, str]] = {}
    for obj in stage:
        namespace, name = namespace_of(obj), name_of(obj)
        if obj["kind"] == kinds.TRIGGERS.kind and (namespace, obj["spec"]["broker"]) in rabbits:
            uid = (await kube.get(kinds.TRIGGERS, name, namespace))["metadata"]["uid"]
            wanted.setdefault(namespace, {})[uid] = parallelism_of(obj)
        elif obj["kind"] == kinds.CONTAINER_SOURCES.kind:
            await wait_bound(kube, namespace, name, timeout_s)
    for namespace, uids in wanted.items():
        await wait_for_dispatchers(kube, namespace, uids, timeout_s)


async def check(kube: Kube, request: DeployRequest, root: Path, progress: RolloutProgress) -> None:
    """A server-side dry run that reports what would be created, changed and deleted. Raises UsageError, ApiError."""
    made = manifests(request, root)
    await _refuse(kube, request, made)
    for obj in await _surplus(kube, request, made):
        progress.say(f"deleted    {title(obj)}")
    missing: set[str] = set()
    for obj in (each for stage in stages(made) for each in stage):
        if namespace_of(obj) in missing:
            progress.say(f"unchecked  {title(obj)}: its namespace does not exist yet")
            continue
        done = await apply(kube, obj, dry_run=True)
        if obj["kind"] == "Namespace" and done.outcome == "created":
            missing.add(name_of(obj))
        progress.say(f"{done.outcome:<10} {title(obj)}")


async def remove(
    kube: Kube,
    parts: Collection[DeployPart],
    functions: Sequence[str],
    root: Path,
    timeout_s: float,
    progress: RolloutProgress,
    *,
    volumes: bool = False,
    spaces: bool = False,
    dry_run: bool = False,
) -> list[Object]:
    """Delete what was deployed, by its labels, and wait until it and its pods are gone. Returns the objects.

    `functions` limits it to these of the catalog; `spaces` deletes the namespaces with everything in them. With the
    event source deleted, the generator's Deployment gets its pod back. Raises WaitTimeout, ApiError.
    """
    selector = f"{PART_OF_LABEL}={PRODUCT},{PART_LABEL} in ({','.join(sorted(parts))})"
    if functions:
        selector += f",{NAME_LABEL} in ({','.join(functions)})"
    wanted = (*KINDS, *((kinds.VOLUME_CLAIMS,) if volumes or spaces else ()), *((kinds.NAMESPACES,) if spaces else ()))
    where = namespaces(root)
    found = [
        obj
        for obj in await find_ours(kube, wanted, where, selector)
        if obj["kind"] != "Namespace" or name_of(obj) in where
    ]
    if DeployPart.GENERATOR in parts and DeployPart.EVENTING not in parts:
        await _refuse_source(kube, found, "delete eventing first, or both")
    if dry_run:
        for obj in found:
            progress.say(f"deleted    {title(obj)}")
        return found
    progress.left = list(found)
    deadline = time.monotonic() + timeout_s
    await delete(kube, found, timeout_s, progress.gone)
    progress.left = []
    sources = [obj for obj in found if obj["kind"] == kinds.CONTAINER_SOURCES.kind]
    for source in sources:
        await _wake(kube, source, max(deadline - time.monotonic(), 0.0), progress)
    return found


async def _refuse(kube: Kube, request: DeployRequest, made: Sequence[Object]) -> None:
    """Refuse a second generator: two would measure each other."""
    if DeployPart.GENERATOR in request.parts and DeployPart.EVENTING not in request.parts:
        await _refuse_source(kube, made, "use `kn-bench deploy eventing`, or `kn-bench delete eventing` first")


async def _refuse_source(kube: Kube, objects: Iterable[Object], advice: str) -> None:
    for obj in objects:
        if obj["kind"] == kinds.DEPLOYMENTS.kind:
            try:
                source = await kube.find(kinds.CONTAINER_SOURCES, name_of(obj), namespace_of(obj))
            except ApiAbsent:
                return
            if source is not None:
                raise UsageError(f"the generator runs as {title(source)}: {advice}")


async def _surplus(kube: Kube, request: DeployRequest, made: Sequence[Object]) -> list[Object]:
    where = sorted({namespace_of(obj) for obj in made} - {""})
    found = await find_ours(kube, (kinds.TRIGGERS, kinds.SERVICES), where, f"{PART_OF_LABEL}={PRODUCT}")
    is_surplus = surplus(request, made)
    return [obj for obj in found if is_surplus(obj)]


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
