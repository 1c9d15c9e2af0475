"""Applies objects in the order of their dependencies, waits for them, and deletes them in the reverse order.

Rules:
- server-side apply of whole manifests: a field that we set before and no longer have is removed, others' fields stay
- an existing volume claim stays as it is: its size cannot be changed, or only with some storage classes
- there are no fixed pauses: an object is ready when its status is, at its present generation
- a timeout names every object that is not ready, with the reason in its status
- triggers are deleted one after the other, each until its Subscription is gone (see `subscribers`)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workload_generator.base.quantities import parse_quantity
from workload_generator.cluster.deploy.eventing import is_rabbitmq, why_no_dispatcher
from workload_generator.cluster.deploy.readiness import explain, is_waited_for, why_not_ready
from workload_generator.cluster.deploy.sources import wait_bound
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import FIELD_MANAGER, Kube
from workload_generator.kube.errors import ApiAbsent, ApiConflict, WaitTimeout
from workload_generator.kube.names import SERVICE_LABEL
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
_ANNOTATIONS_OF_OTHERS = ("kubectl.kubernetes.io/", "eventing.knative.dev/creator", "eventing.knative.dev/lastModifier")
_TRIES = 10
Outcome = Literal["created", "changed", "unchanged", "kept"]
Tell = Callable[[Object, str], None]
"""Called with an object and what it waits for: empty when it is ready (or deleted)."""
Why = Callable[[str, dict[Key, Object]], str]
Groups = dict[tuple[Resource, str], dict[str, str]]
"""The uids of objects by their names, by resource and namespace."""


def _ignore(_obj: Object, _why: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Applied:
    """The server's object after an apply. The note says what was kept, and what the manifest asks for."""

    object: Object
    outcome: Outcome
    note: str = ""

    def __str__(self) -> str:
        """`created    Service functions/empty-go-http-0`"""
        return f"{self.outcome:<10} {title(self.object)}{self.note and f': {self.note}'}"


def title(obj: Object) -> str:
    """`Service functions/empty-go-http-0`"""
    return f"{obj['kind']} {'/'.join(filter(None, (namespace_of(obj), name_of(obj))))}"


def stages(objects: Iterable[Object]) -> list[list[Object]]:
    """The objects in the order to apply them; the objects of a stage are independent of each other."""
    order: list[list[Object]] = [[] for _ in _STAGES]
    for obj in objects:
        group = obj["apiVersion"].rpartition("/")[0]
        kind = f"{group}/{obj['kind']}" if "." in group or group == "apps" else obj["kind"]
        order[next((place for place, kinds in enumerate(_STAGES) if kind in kinds), 1)].append(obj)
    return [stage for stage in order if stage]


async def apply(kube: Kube, obj: Object, *, dry_run: bool = False) -> Applied:
    """Server-side apply that forces conflicts; of a volume claim that exists, only the metadata.

    With `dry_run` nothing is stored. Raises ApiError.
    """
    resource = await kube.resource_of(obj)
    before = await kube.find(resource, name_of(obj), namespace_of(obj))
    if before is not None and not dry_run:
        before = await _adopted(kube, resource, before)
    if before is not None and resource == kinds.VOLUME_CLAIMS:
        about = {key: obj["metadata"][key] for key in ("labels", "annotations") if key in obj["metadata"]}
        after = await kube.patch(resource, name_of(obj), {"metadata": about}, namespace_of(obj), dry_run=dry_run)
        if note := _differing_claim(before, obj):
            return Applied(after, "kept", note)
    else:
        after = await kube.apply(obj, dry_run=dry_run)
    if before is None:
        return Applied(after, "created")
    return Applied(after, "unchanged" if _specified(before) == _specified(after) else "changed")


def _differing_claim(claim: Object, wanted: Object) -> str:
    """What an existing claim has instead of what the manifest asks for; empty if it has all of that."""
    has, asked = claim["spec"], wanted["spec"]
    sizes = [str(spec["resources"]["requests"]["storage"]) for spec in (has, asked)]
    differing = [("storage", *sizes)] if len(set(map(parse_quantity, sizes))) > 1 else []
    differing += [(key, has.get(key), asked[key]) for key in asked if key != "resources" and has.get(key) != asked[key]]
    return "; ".join(f"its {key} stays {here}, and the manifests ask for {there}" for key, here, there in differing)


class _Wait:
    """Waits for a state of objects; `reasons` has what each of them still waits for."""

    def __init__(self, kube: Kube, tell: Tell) -> None:
        self._kube = kube
        self._tell = tell
        self.reasons: dict[tuple[Resource, str, str], str] = {}

    async def until(
        self, resource: Resource, namespace: str, names: Iterable[str], why: Why, watched: Resource | None = None
    ) -> dict[Key, Object]:
        """Wait until `why` is empty for every object. Returns the objects of the kind `watched`, by default their own.

        `why` gets a name and those objects. The progress of waits for other kinds is not reported.
        """
        keys = {name: (resource, namespace, name) for name in sorted(names)}
        self.reasons.update(dict.fromkeys(keys.values(), "the API server has not answered"))

        def holds(found: dict[Key, Object]) -> bool:
            for name, key in keys.items():
                reason = why(name, found)
                if reason != self.reasons[key]:
                    self.reasons[key] = reason
                    if watched is None:
                        self._tell(_placeholder(*key), reason)
            return not any(self.reasons[key] for key in keys.values())

        async with Reflector(self._kube, watched or resource, namespace) as reflector:
            await reflector.until(holds)
            return dict(reflector.objects)


async def _follow_all(
    kube: Kube,
    groups: Groups,
    follow: Callable[..., Coroutine[Any, Any, None]],
    timeout_s: float,
    failure: str,
    tell: Tell,
) -> None:
    """Follow every group at once: `follow(wait, resource, namespace, uids)`. Raises WaitTimeout, ApiError."""
    wait = _Wait(kube, tell)
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as tasks:
            for group, uids in groups.items():
                tasks.create_task(follow(wait, *group, uids))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    except TimeoutError:
        lines = []
        for (resource, namespace, name), why in wait.reasons.items():
            if why:
                obj = await kube.find(resource, name, namespace)
                lines.append(f"{resource} {namespace}/{name}: {await explain(kube, obj, why)}")
        raise WaitTimeout("\n  ".join([failure, *lines])) from None


async def wait_ready(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Wait until every object is ready, and does what Ready does not include. Raises WaitTimeout, ApiError.

    That is: the pods of a Deployment that was scaled to zero are gone, the dispatcher of a RabbitMQ trigger has its
    parallelism, and the pod of a ContainerSource has K_SINK. `tell` is called when an object waits for something else,
    and when it is ready.
    """
    deadline = time.monotonic() + timeout_s

    async def follow(wait: _Wait, resource: Resource, namespace: str, names: Mapping[str, str]) -> None:
        def why(name: str, objects: dict[Key, Object]) -> str:
            return why_not_ready(objects.get((namespace, name)))

        own = {name_of(obj): obj for obj in (await wait.until(resource, namespace, names, why)).values()}
        if resource == kinds.DEPLOYMENTS:
            asleep = [name for name in names if own[name]["spec"].get("replicas") == 0]
            sets = (await kube.list(kinds.REPLICA_SETS, namespace)).items if asleep else []

            def why_pods(name: str, pods: dict[Key, Object]) -> str:
                uids = [one["metadata"]["uid"] for one in sets if owned_by(one, own[name]["metadata"]["uid"])]
                left = any(owned_by(pod, uid) for pod in pods.values() for uid in uids)
                return "its pods are terminating" if left else ""

            if asleep:
                await wait.until(resource, namespace, asleep, why_pods, kinds.PODS)
        if resource == kinds.TRIGGERS:
            brokers = (await kube.list(kinds.BROKERS, namespace)).items
            rabbits = {name_of(broker) for broker in brokers if is_rabbitmq(broker)}
            parallel = [name for name in names if own[name]["spec"]["broker"] in rabbits]

            def why_dispatcher(name: str, deployments: dict[Key, Object]) -> str:
                return why_no_dispatcher(own[name], deployments.values())

            if parallel:
                await wait.until(resource, namespace, parallel, why_dispatcher, kinds.DEPLOYMENTS)

    groups = await _grouped(kube, filter(is_waited_for, objects))
    await _follow_all(kube, groups, follow, timeout_s, "not ready in time:", tell)
    for (resource, namespace), names in groups.items():
        for name in names if resource == kinds.CONTAINER_SOURCES else ():
            await wait_bound(kube, namespace, name, max(deadline - time.monotonic(), 0.0))


async def find_ours(kube: Kube, resources: Iterable[Resource], namespaces: Sequence[str], labels: str) -> list[Object]:
    """All objects of these kinds with the labels in these namespaces; none of a kind that is not installed."""

    async def look(resource: Resource, namespace: str) -> list[Object]:
        with contextlib.suppress(ApiAbsent):
            return (await kube.list(resource, namespace, labels=labels)).items
        return []

    places = [(resource, where) for resource in resources for where in (namespaces if resource.namespaced else ("",))]
    return [obj for found in await asyncio.gather(*(look(*place) for place in places)) for obj in found]


async def delete(kube: Kube, objects: Iterable[Object], timeout_s: float, tell: Tell = _ignore) -> None:
    """Delete the objects, dependents first, and wait until their pods are gone too. Raises WaitTimeout, ApiError."""
    deadline = time.monotonic() + timeout_s

    async def follow(wait: _Wait, resource: Resource, namespace: str, uids: Mapping[str, str]) -> None:
        def why(name: str, objects: dict[Key, Object]) -> str:
            obj = objects.get((namespace, name))
            return "it still exists" if obj is not None and obj["metadata"]["uid"] == uids[name] else ""

        def why_pods(name: str, pods: dict[Key, Object]) -> str:
            services = [(pod["metadata"].get("labels") or {}).get(SERVICE_LABEL) for pod in pods.values()]
            return "its pods are terminating" if name in services else ""

        def why_ending(_name: str, subscriptions: dict[Key, Object]) -> str:
            ending = any("deletionTimestamp" in obj["metadata"] for obj in subscriptions.values())
            return "a Subscription is being deleted" if ending else ""

        def why_subscription(name: str, subscriptions: dict[Key, Object]) -> str:
            own = any(owned_by(obj, uids[name]) for obj in subscriptions.values())
            return "its Subscription still exists" if own else why_ending(name, subscriptions)

        async def until(why: Why) -> None:
            if resource == kinds.TRIGGERS:
                with contextlib.suppress(ApiAbsent):  # brokers without channels
                    await wait.until(resource, namespace, uids, why, kinds.SUBSCRIPTIONS)

        await until(why_ending)
        for name, uid in uids.items():
            await kube.delete(resource, name, namespace, uid=uid)
        await until(why_subscription)
        await wait.until(resource, namespace, uids, why)
        if resource == kinds.SERVICES:
            await wait.until(resource, namespace, uids, why_pods, kinds.PODS)

    for turn in (turn for stage in reversed(stages(objects)) for turn in _turns(stage)):
        groups = await _grouped(kube, turn)
        left_s = max(deadline - time.monotonic(), 0.0)
        await _follow_all(kube, groups, follow, left_s, "not deleted in time:", tell)


def _turns(stage: list[Object]) -> list[list[Object]]:
    """What of a stage is deleted at the same time: one trigger, beginning with those that are being deleted already."""
    if stage[0]["kind"] != kinds.TRIGGERS.kind:
        return [stage]
    return [[each] for each in sorted(stage, key=lambda obj: "deletionTimestamp" not in obj["metadata"])]


async def _grouped(kube: Kube, objects: Iterable[Object]) -> Groups:
    """The uids by name ("" for a manifest), by resource and namespace."""
    groups: Groups = {}
    for obj in objects:
        group = groups.setdefault((await kube.resource_of(obj), namespace_of(obj)), {})
        group[name_of(obj)] = obj["metadata"].get("uid", "")
    return groups


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


def manifest_of(obj: Object) -> Object:
    """A manifest that creates the same object."""
    about = obj["metadata"]
    annotations = {
        key: value
        for key, value in (about.get("annotations") or {}).items()
        if not key.startswith(_ANNOTATIONS_OF_OTHERS)
    }
    kept = {"name": about["name"], "namespace": about["namespace"], "labels": about.get("labels") or {}}
    parts = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "spec": obj["spec"]}
    return {**parts, "metadata": {**kept, "annotations": annotations}}


def _placeholder(resource: Resource, namespace: str, name: str) -> Object:
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": about}
