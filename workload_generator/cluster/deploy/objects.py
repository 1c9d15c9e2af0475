"""Applies objects in the order of their dependencies, waits for them, and deletes them in the reverse order.

Rules:
- server-side apply of whole manifests: a field that we set before and no longer have is removed, others' fields stay
- there are no fixed pauses: an object is ready when its status is, at its present generation
- a timeout names every object that is not ready, with the reason in its status
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workload_generator.cluster.deploy.readiness import explain, is_waited_for, why_not_ready
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import FIELD_MANAGER, Kube
from workload_generator.kube.errors import ApiAbsent, ApiConflict, WaitTimeout
from workload_generator.kube.names import PART_LABEL, PART_OF_LABEL, PRODUCT, SERVICE_LABEL
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import Key, Object, Resource, name_of, namespace_of, owned_by

_STAGES: tuple[tuple[str, ...], ...] = (
    ("Namespace",),
    (),  # all other kinds
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
    """The server's object after an apply."""

    object: Object
    outcome: Outcome


def label(objects: Iterable[Object], part: str) -> None:
    """Label every object as ours and with its part, by which `kn-bench delete` finds it."""
    for obj in objects:
        obj["metadata"].setdefault("labels", {}).update({PART_OF_LABEL: PRODUCT, PART_LABEL: str(part)})


def stages(objects: Iterable[Object]) -> list[list[Object]]:
    """The objects in the order to apply them; the objects of a stage are independent of each other."""
    order: list[list[Object]] = [[] for _ in _STAGES]
    for obj in objects:
        group = obj["apiVersion"].rpartition("/")[0]
        kind = f"{group}/{obj['kind']}" if "." in group or group == "apps" else obj["kind"]
        order[next((place for place, kinds in enumerate(_STAGES) if kind in kinds), 1)].append(obj)
    return [stage for stage in order if stage]


async def apply(kube: Kube, obj: Object, *, dry_run: bool = False) -> Applied:
    """Server-side apply that forces conflicts. With `dry_run` nothing is stored. Raises ApiError."""
    resource = await kube.resource_of(obj)
    before = await kube.find(resource, name_of(obj), namespace_of(obj))
    if before is not None and not dry_run:
        before = await _adopted(kube, resource, before)
    after = await kube.apply(obj, dry_run=dry_run)
    if before is None:
        return Applied(after, "created")
    return Applied(after, "unchanged" if _specified(before) == _specified(after) else "changed")


class _Wait:
    """Waits for a state of objects; `reasons` has what each of them still waits for."""

    def __init__(self, kube: Kube, tell: Tell) -> None:
        self._kube = kube
        self._tell = tell
        self.reasons: dict[tuple[Resource, str, str], str] = {}

    async def until(
        self, resource: Resource, namespace: str, names: Iterable[str], why: Callable[[str, Object | None], str]
    ) -> dict[Key, Object]:
        """Wait until `why` is empty for every object. Returns the objects of this resource and namespace."""
        keys = {name: (resource, namespace, name) for name in sorted(names)}
        self.reasons.update(dict.fromkeys(keys.values(), "the API server has not answered"))

        def holds(found: dict[Key, Object]) -> bool:
            for name, key in keys.items():
                obj = found.get((namespace, name))
                reason = why(name, obj)
                if reason != self.reasons[key]:
                    self.reasons[key] = reason
                    self._tell(obj or _placeholder(*key), reason)
            return not any(self.reasons[key] for key in keys.values())

        async with Reflector(self._kube, resource, namespace) as reflector:
            await reflector.until(holds)
            return dict(reflector.objects)

    async def until_no_pods(self, key: tuple[Resource, str, str], done: Awaitable[None]) -> None:
        """Wait for `done`, which is when the object's pods are gone."""
        self.reasons[key] = "its pods are terminating"
        await done
        self.reasons[key] = ""


async def wait_ready(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Wait until every object is ready; those scaled to zero until their pods are gone. Raises WaitTimeout, ApiError.

    `tell` is called when an object waits for something else, and when it is ready.
    """
    wait = _Wait(kube, tell)

    async def follow(resource: Resource, namespace: str, names: Iterable[str]) -> None:
        found = await wait.until(resource, namespace, names, lambda _name, obj: why_not_ready(obj))
        for name in names if resource == kinds.DEPLOYMENTS else ():
            deployment = found[namespace, name]
            if deployment["spec"].get("replicas") == 0:
                await wait.until_no_pods((resource, namespace, name), _without_pods(kube, deployment))

    groups = await _grouped(kube, filter(is_waited_for, objects))
    try:
        async with asyncio.timeout(timeout_s):
            await _all(follow(*group, names) for group, names in groups.items())
    except TimeoutError:
        lines = []
        for (resource, namespace, name), why in wait.reasons.items():
            if why:
                obj = await kube.find(resource, name, namespace)
                explained = await explain(kube, obj) if obj else ""
                lines.append(f"{resource} {namespace}/{name}: {explained or why}")
        raise WaitTimeout("\n  ".join(["not ready in time:", *lines])) from None


async def find_ours(kube: Kube, resources: Iterable[Resource], namespaces: Sequence[str], labels: str) -> list[Object]:
    """All objects of these kinds with the labels in these namespaces; none of a kind that is not installed."""
    places = [(resource, where) for resource in resources for where in (namespaces if resource.namespaced else ("",))]
    found: dict[tuple[Resource, str], list[Object]] = {}

    async def look(resource: Resource, namespace: str) -> None:
        with contextlib.suppress(ApiAbsent):
            found[resource, namespace] = (await kube.list(resource, namespace, labels=labels)).items

    await _all(look(*place) for place in places)
    return [obj for place in places for obj in found.get(place, ())]


async def delete(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Delete the objects, dependents first, and wait until their pods are gone too. Raises WaitTimeout, ApiError."""
    deadline = time.monotonic() + timeout_s
    for stage in reversed(stages(objects)):
        await _delete_stage(kube, stage, max(deadline - time.monotonic(), 0.0), tell)


async def _delete_stage(kube: Kube, stage: list[Object], timeout_s: float, tell: Tell) -> None:
    wait = _Wait(kube, tell)
    groups = await _grouped(kube, stage)
    for (resource, namespace), uids in groups.items():
        for name, uid in uids.items():
            await kube.delete(resource, name, namespace, uid=uid)

    async def follow(resource: Resource, namespace: str, uids: Mapping[str, str]) -> None:
        def why(name: str, obj: Object | None) -> str:
            return "it still exists" if obj is not None and obj["metadata"]["uid"] == uids[name] else ""

        await wait.until(resource, namespace, uids, why)
        if resource == kinds.SERVICES:
            async with Reflector(kube, kinds.PODS, namespace, labels=f"{SERVICE_LABEL} in ({','.join(uids)})") as pods:
                key = (resource, namespace, ", ".join(uids))
                await wait.until_no_pods(key, pods.until(lambda found: not found))

    try:
        async with asyncio.timeout(timeout_s):
            await _all(follow(*group, uids) for group, uids in groups.items())
    except TimeoutError:
        lines = [
            f"{resource} {namespace}/{name}: {why}" for (resource, namespace, name), why in wait.reasons.items() if why
        ]
        raise WaitTimeout("\n  ".join(["not deleted in time:", *lines])) from None


async def _grouped(kube: Kube, objects: Iterable[Object]) -> dict[tuple[Resource, str], dict[str, str]]:
    """The uids by name ("" for a manifest), by resource and namespace."""
    groups: dict[tuple[Resource, str], dict[str, str]] = {}
    for obj in objects:
        group = groups.setdefault((await kube.resource_of(obj), namespace_of(obj)), {})
        group[name_of(obj)] = obj["metadata"].get("uid", "")
    return groups


async def _without_pods(kube: Kube, deployment: Object) -> None:
    """Wait until the pods that a Deployment owns are gone."""
    namespace = namespace_of(deployment)
    uid = deployment["metadata"]["uid"]
    sets = {
        one["metadata"]["uid"] for one in (await kube.list(kinds.REPLICA_SETS, namespace)).items if owned_by(one, uid)
    }
    async with Reflector(kube, kinds.PODS, namespace) as pods:
        await pods.until(lambda found: not any(owned_by(pod, each) for pod in found.values() for each in sets))


async def _adopted(kube: Kube, resource: Resource, obj: Object) -> Object | None:
    """The object with the fields that we patched owned by our applies: an apply without them then removes them.

    For the server a patch and an apply of one field manager are two owners; kubectl upgrades client-side apply in the
    same way. When a controller changes the object meanwhile, it is read and patched again.
    """
    here: Object | None = obj
    for tries_left in reversed(range(_TRIES)):
        about = None if here is None else _adoption(here)
        if about is None:
            return here
        try:
            return await kube.patch(resource, name_of(obj), {"metadata": about}, namespace_of(obj))
        except ApiConflict:
            if not tries_left:
                raise
            here = await kube.find(resource, name_of(obj), namespace_of(obj))
    return here


def _adoption(obj: Object) -> Object | None:
    """The patch of the metadata; None when no field was patched by us."""
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


def _specified(obj: Object) -> Object:
    """The object without its status and the metadata of the server."""
    about = obj["metadata"]
    kept = {key: about.get(key) for key in ("labels", "annotations", "generation")}
    return {**{key: value for key, value in obj.items() if key not in ("status", "metadata")}, "metadata": kept}


def _placeholder(resource: Resource, namespace: str, name: str) -> Object:
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": about}


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Run everything at once. The first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for each in work:
                tasks.create_task(each)  # type: ignore[arg-type]
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
