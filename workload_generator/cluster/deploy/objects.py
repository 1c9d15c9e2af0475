"""Objects applied in the order in which they need each other, waited for, and taken away again in the other order.

Rules:
- apply is server-side and says all: what we had set once and no longer say is taken back, what others set stays
- nothing sleeps: an object is ready when it says so of its present generation, and gone when the API has none
- a timeout names every object that is not ready, with what that says of itself
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from workload_generator.cluster.deploy.readiness import explain, is_waited_for, why_not_ready
from workload_generator.kube.client import FIELD_MANAGER, Kube
from workload_generator.kube.errors import ApiAbsent, ApiConflict, WaitTimeout
from workload_generator.kube.names import PART_LABEL, PART_OF_LABEL, PRODUCT, SERVICE_LABEL
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import (
    DEPLOYMENTS,
    PODS,
    REPLICA_SETS,
    Object,
    Resource,
    name_of,
    namespace_of,
    owned_by,
)

_STAGES: tuple[tuple[str, ...], ...] = (
    ("Namespace",),
    (),  # whatever is not named here
    ("apps/Deployment", "Job", "serving.knative.dev/Service", "rabbitmq.com/RabbitmqCluster"),
    ("eventing.knative.dev/RabbitmqBrokerConfig",),
    ("eventing.knative.dev/Broker", "flows.knative.dev/Sequence"),
    ("eventing.knative.dev/Trigger",),
    ("sources.knative.dev/ContainerSource",),  # after its sink: knative/eventing#9189
)
_TRIES = 10
Outcome = Literal["created", "changed", "unchanged"]
Tell = Callable[[Object, str], None]
"""Called with an object and what it waits for: empty when it is ready (or deleted)."""


def _ignore(_obj: Object, _why: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Applied:
    """What the server made of a manifest."""

    object: Object
    outcome: Outcome


def label(objects: Iterable[Object], part: str) -> None:
    """Say in every object that it is ours, and of which part: `delete` finds it by that."""
    for obj in objects:
        obj["metadata"].setdefault("labels", {}).update({PART_OF_LABEL: PRODUCT, PART_LABEL: str(part)})


def stages(objects: Iterable[Object]) -> list[list[Object]]:
    """The objects in the order in which they are to be applied; those of one stage do not need each other."""
    order: list[list[Object]] = [[] for _ in _STAGES]
    for obj in objects:
        group = obj["apiVersion"].rpartition("/")[0]
        kind = f"{group}/{obj['kind']}" if "." in group or group == "apps" else obj["kind"]
        order[next((place for place, kinds in enumerate(_STAGES) if kind in kinds), 1)].append(obj)
    return [stage for stage in order if stage]


async def apply(kube: Kube, obj: Object, *, dry_run: bool = False) -> Applied:
    """Server-side apply; our manifest's fields win. With `dry_run` nothing is stored. Raises ApiError."""
    resource = await kube.resource_of(obj)
    before = await kube.find(resource, name_of(obj), namespace_of(obj))
    if before is not None and not dry_run:
        before = await _adopted(kube, resource, before)
    after = await kube.apply(obj, dry_run=dry_run)
    if before is None:
        return Applied(after, "created")
    return Applied(after, "unchanged" if _told(before) == _told(after) else "changed")


async def wait_ready(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Until every object that becomes ready is ready, those scaled to none without pods. Raises WaitTimeout, ApiError.

    `tell` is called for each object when what it waits for changes, and when it is ready.
    """
    groups: dict[tuple[Resource, str], set[str]] = {}
    for obj in objects:
        if is_waited_for(obj):
            groups.setdefault((await kube.resource_of(obj), namespace_of(obj)), set()).add(name_of(obj))
    last: dict[tuple[Resource, str, str], str] = {
        (*group, name): "it was not looked at" for group, names in groups.items() for name in names
    }

    def look(resource: Resource, namespace: str, names: set[str], found: dict[tuple[str, str], Object]) -> bool:
        waiting = False
        for name in sorted(names):
            obj = found.get((namespace, name))
            why = why_not_ready(obj)
            waiting = waiting or bool(why)
            if last[resource, namespace, name] != why:
                tell(obj or _placeholder(resource, namespace, name), why)
            last[resource, namespace, name] = why
        return not waiting

    async def follow(resource: Resource, namespace: str, names: set[str]) -> None:
        async with Reflector(kube, resource, namespace) as reflector:
            await reflector.until(lambda found: look(resource, namespace, names, found))
            for name in names if resource == DEPLOYMENTS else ():
                deployment = reflector.objects[namespace, name]
                if deployment["spec"].get("replicas") == 0:
                    last[resource, namespace, name] = "its last pod is ending"
                    await _without_pods(kube, deployment)
                    last[resource, namespace, name] = ""

    try:
        async with asyncio.timeout(timeout_s):
            await _all(follow(*group, names) for group, names in groups.items())
    except TimeoutError:
        lines = []
        for (resource, namespace, name), why in last.items():
            if why:
                found = await kube.find(resource, name, namespace)
                said = await explain(kube, found) if found else ""
                lines.append(f"{resource} {namespace}/{name}: {said or why}")
        raise WaitTimeout("\n  ".join(["not ready in time:", *lines])) from None


async def find_ours(kube: Kube, kinds: Iterable[Resource], namespaces: Sequence[str], labels: str) -> list[Object]:
    """Everything of these kinds that has the labels, in these namespaces; a kind that is not installed has none."""
    places = [(resource, where) for resource in kinds for where in (namespaces if resource.namespaced else ("",))]
    found: dict[tuple[Resource, str], list[Object]] = {}

    async def look(resource: Resource, namespace: str) -> None:
        with contextlib.suppress(ApiAbsent):
            found[resource, namespace] = (await kube.list(resource, namespace, labels=labels)).items

    await _all(look(*place) for place in places)
    return [obj for place in places for obj in found.get(place, ())]


async def delete(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Delete them, the dependents first, and wait until all are gone with their pods. Raises WaitTimeout, ApiError."""
    deadline = time.monotonic() + timeout_s
    for stage in reversed(stages(objects)):
        await _delete_stage(kube, stage, max(deadline - time.monotonic(), 0.0), tell)


async def _delete_stage(kube: Kube, stage: list[Object], timeout_s: float, tell: Tell) -> None:
    groups: dict[tuple[Resource, str], dict[str, str]] = {}
    for obj in stage:
        resource = await kube.resource_of(obj)
        groups.setdefault((resource, namespace_of(obj)), {})[name_of(obj)] = obj["metadata"]["uid"]
        await kube.delete(resource, name_of(obj), namespace_of(obj), uid=obj["metadata"]["uid"])
    left: dict[tuple[Resource, str, str], str] = {
        (*group, name): "it is still there" for group, uids in groups.items() for name in uids
    }

    def look(resource: Resource, namespace: str, uids: dict[str, str], found: dict[tuple[str, str], Object]) -> bool:
        there = {obj["metadata"]["uid"] for obj in found.values()}
        for name, uid in uids.items():
            if uid not in there and left[resource, namespace, name]:
                left[resource, namespace, name] = ""
                tell(_placeholder(resource, namespace, name), "")
        return not there & set(uids.values())

    async def follow(resource: Resource, namespace: str, uids: dict[str, str]) -> None:
        async with Reflector(kube, resource, namespace) as reflector:
            await reflector.until(lambda found: look(resource, namespace, uids, found))
        if resource.kind == "Service" and resource.group:
            selector = f"{SERVICE_LABEL} in ({','.join(uids)})"
            async with Reflector(kube, PODS, namespace, labels=selector) as pods:
                left[PODS, namespace, f"of {', '.join(uids)}"] = "they are ending"
                await pods.until(lambda found: not found)
                left[PODS, namespace, f"of {', '.join(uids)}"] = ""

    try:
        async with asyncio.timeout(timeout_s):
            await _all(follow(*group, uids) for group, uids in groups.items())
    except TimeoutError:
        lines = [f"{resource} {namespace}/{name}: {why}" for (resource, namespace, name), why in left.items() if why]
        raise WaitTimeout("\n  ".join(["not gone in time:", *lines])) from None


async def _without_pods(kube: Kube, deployment: Object) -> None:
    """Until the pods of a Deployment are gone; those that only have the same labels are not its."""
    namespace = namespace_of(deployment)
    uid = deployment["metadata"]["uid"]
    sets = {one["metadata"]["uid"] for one in (await kube.list(REPLICA_SETS, namespace)).items if owned_by(one, uid)}
    async with Reflector(kube, PODS, namespace) as pods:
        await pods.until(lambda found: not any(owned_by(pod, each) for pod in found.values() for each in sets))


async def _adopted(kube: Kube, resource: Resource, obj: Object) -> Object | None:
    """The object with what we patched as a part of what we applied: an apply that does not say it takes it back.

    For the server a patch and an apply of the same field manager are two owners (as for kubectl, which upgrades
    client-side apply in this way). Controllers write meanwhile: what they were faster with is read again.
    """
    tries = _TRIES
    here: Object | None = obj
    while here is not None:
        about = _adoption(here)
        if about is None:
            break
        try:
            return await kube.patch(resource, name_of(obj), {"metadata": about}, namespace_of(obj))
        except ApiConflict:
            tries -= 1
            if not tries:
                raise
            here = await kube.find(resource, name_of(obj), namespace_of(obj))
    return here


def _adoption(obj: Object) -> Object | None:
    """The metadata to be patched; None when there is nothing to take over."""
    entries = obj["metadata"].get("managedFields") or []
    ours = [entry for entry in entries if entry.get("manager") == FIELD_MANAGER and not entry.get("subresource")]
    patched = [entry for entry in ours if entry["operation"] == "Update"]
    if not patched:
        return None
    owned: Object = {}
    for entry in ours:
        owned = _united(owned, entry.get("fieldsV1") or {})
    newest = {**patched[-1], "operation": "Apply", "fieldsV1": owned}
    rest = [entry for entry in entries if not any(entry is one for one in ours)]
    return {"resourceVersion": obj["metadata"]["resourceVersion"], "managedFields": [*rest, newest]}


def _united(one: Object, other: Object) -> Object:
    return {key: _united(one.get(key) or {}, other.get(key) or {}) for key in dict.fromkeys([*one, *other])}


def _told(obj: Object) -> Object:
    """What was asked for, without what the server and controllers say of it."""
    about = obj["metadata"]
    kept = {key: about.get(key) for key in ("labels", "annotations", "generation")}
    return {**{key: value for key, value in obj.items() if key not in ("status", "metadata")}, "metadata": kept}


def _placeholder(resource: Resource, namespace: str, name: str) -> Object:
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": about}


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Everything at once; the first failure ends the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)  # type: ignore[arg-type]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
