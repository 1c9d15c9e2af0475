"""The set-up of an eventing scenario in a cluster: broker, triggers, receiver, event logger, the generator as a source.

Rules:
- an existing broker is used; otherwise that of the manifests is created, with the registry and tag of the generator
- the triggers `receiver-<n>` belong to the scenario, as many as a cell needs; other triggers are left alone
- the source is created when its sink is Ready, with the pod of the Deployment, which is scaled to zero meanwhile
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.deploy.deployment import BrokerKind
from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import apply, delete, manifest_of, stages, wait_ready
from workload_generator.cluster.deploy.services import Images, copies
from workload_generator.cluster.deploy.sources import SourceState, mend, wait_bound
from workload_generator.cluster.deploy.tuning import of_trigger
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent
from workload_generator.kube.names import CHANGED_ANNOTATION, EVENTING, GENERATOR, LOGGER, RECEIVER
from workload_generator.kube.resources import Object, name_of
from workload_generator.scenarios.changes import EVENTING_KEY, ChangeOwner, annotation

BROKER = "default"

_OURS = re.compile(rf"{RECEIVER}-\d+")

Say = Callable[[str], None]


async def refuse_source(kube: Kube) -> None:
    """Raises UsageError when the generator's Deployment has no pod, ApiError."""
    if (await _deployment(kube))["spec"].get("replicas") == 0:
        raise UsageError(
            f"Deployment {GENERATOR}/{GENERATOR} has no pod, because the generator runs as a ContainerSource: "
            "run `kn-bench delete eventing`"
        )


async def _deployment(kube: Kube) -> Object:
    deployment = await kube.find(kinds.DEPLOYMENTS, GENERATOR, GENERATOR)
    if deployment is None:
        raise UsageError(f"Deployment {GENERATOR}/{GENERATOR} does not exist: run `kn-bench deploy generator`")
    return deployment


async def refuse_parallelism(kube: Kube) -> None:
    """Raises UsageError when the triggers of the broker, or of the one that would be created, have none; ApiError."""
    broker = await kube.find(kinds.BROKERS, BROKER, EVENTING)
    if not (is_rabbitmq(broker) if broker else await _has_rabbitmq(kube)):
        there = f"Broker {EVENTING}/{BROKER} is not one" if broker else "its operators are not installed"
        raise UsageError(f"parallelism: only the triggers of a RabbitMQ broker have one, and {there}")


async def _has_rabbitmq(kube: Kube) -> bool:
    for resource in (kinds.RABBITMQ_CLUSTERS, kinds.BROKER_CONFIGS):
        try:
            async for _ in kube.pages(resource, page=1):
                break
        except ApiAbsent:
            return False
    return True


async def read(kube: Kube) -> dict[str, Any]:
    """The present state, for `restore`: the generator's replicas, whether it is a source, the triggers.

    Raises UsageError, ApiError.
    """
    deployment = await _deployment(kube)
    try:
        source = await kube.find(kinds.CONTAINER_SOURCES, GENERATOR, GENERATOR)
        triggers_now = await triggers_of(kube)
    except ApiAbsent as absent:
        raise UsageError(f"Knative Eventing is not installed: {absent}") from None
    return {
        "replicas": deployment["spec"].get("replicas", 1),
        "source": source is not None,
        "triggers": [manifest_of(trigger) for trigger in triggers_now],
    }


async def restore(kube: Kube, found: Mapping[str, Any], within_s: float, say: Say) -> None:
    """Restore what `read` returned. Raises ApiError, WaitTimeout."""
    known = {name_of(manifest): manifest for manifest in found["triggers"]}
    await _delete_triggers(kube, known, within_s, say)
    for manifest in known.values():
        await apply(kube, manifest)
    if not found["source"]:
        source = await kube.find(kinds.CONTAINER_SOURCES, GENERATOR, GENERATOR)
        if source is not None:
            await delete(kube, [source], within_s)
    back: Object = {"metadata": {"annotations": {CHANGED_ANNOTATION: None}}, "spec": {"replicas": found["replicas"]}}
    await wait_ready(kube, [await kube.patch(kinds.DEPLOYMENTS, GENERATOR, back, GENERATOR)], within_s)
    say("the generator is restored")


class EventingSetup:
    """Sets eventing up for one cell after the other."""

    def __init__(self, kube: Kube, manifests: Path, owner: ChangeOwner, within_s: float, say: Say) -> None:
        self._kube = kube
        self._manifests = manifests
        self._owner = owner
        self._within_s = within_s
        self._say = say

    async def record(self, found: Mapping[str, Any]) -> None:
        """Record in the generator's Deployment what is to be restored. Raises ApiError."""
        deployment = await self._kube.get(kinds.DEPLOYMENTS, GENERATOR, GENERATOR)
        if CHANGED_ANNOTATION not in (deployment["metadata"].get("annotations") or {}):
            note = {CHANGED_ANNOTATION: annotation(self._owner, {EVENTING_KEY: dict(found)})}
            await self._kube.patch(kinds.DEPLOYMENTS, GENERATOR, {"metadata": {"annotations": note}}, GENERATOR)

    async def set_up(self, count: int | None, parallelism: int | None) -> None:
        """Wait until all of it is ready, with `count` triggers, or as many as there are, at least one.

        Raises UsageError, WaitTimeout, ApiError.
        """
        deployment = await self._kube.get(kinds.DEPLOYMENTS, GENERATOR, GENERATOR)
        broker = await self._kube.find(kinds.BROKERS, BROKER, EVENTING)
        if broker is None:
            broker = await self._make_broker(deployment)
        services = [await self._kube.get(kinds.DEPLOYMENTS, name, EVENTING) for name in (RECEIVER, LOGGER)]
        await wait_ready(self._kube, [broker, *services], self._within_s)
        await self._set_triggers(broker, count, parallelism)
        await self._become_source(deployment)

    async def _make_broker(self, deployment: Object) -> Object:
        """The broker, receiver and event logger of the manifests; RabbitMQ's where its operators are installed."""
        kind = BrokerKind.RABBITMQ if await _has_rabbitmq(self._kube) else BrokerKind.IN_MEMORY
        objects = [obj for obj in render(self._manifests / "eventing" / kind) if obj["kind"] != kinds.TRIGGERS.kind]
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        registry, _, rest = image.partition("@")[0].rpartition("/")
        Images(registry or None, rest.partition(":")[2] or None).put_into(objects)
        self._say(f"Broker {EVENTING}/{BROKER} does not exist: creating the {kind} broker of the manifests")
        for stage in stages(objects):
            await wait_ready(self._kube, [(await apply(self._kube, obj)).object for obj in stage], self._within_s)
        return await self._kube.get(kinds.BROKERS, BROKER, EVENTING)

    async def _set_triggers(self, broker: Object, count: int | None, parallelism: int | None) -> None:
        rabbitmq = is_rabbitmq(broker)
        there = await triggers_of(self._kube)
        folder = self._manifests / "eventing" / (BrokerKind.RABBITMQ if rabbitmq else BrokerKind.IN_MEMORY)
        (template,) = [obj for obj in render(folder) if obj["kind"] == kinds.TRIGGERS.kind]
        wanted = copies(template, max(1, len(there)) if count is None else count, of_trigger(parallelism))
        names = {name_of(obj) for obj in wanted}
        await _delete_triggers(self._kube, names, self._within_s, self._say)
        made = [(await apply(self._kube, obj)).object for obj in wanted]
        await wait_ready(self._kube, made, self._within_s)

    async def _become_source(self, deployment: Object) -> None:
        """Replace the Deployment's pod by a ContainerSource, and wait for its pod with K_SINK."""
        if await self._kube.find(kinds.CONTAINER_SOURCES, GENERATOR, GENERATOR) is None:
            none: Object = {"spec": {"replicas": 0}}
            scaled = await self._kube.patch(kinds.DEPLOYMENTS, GENERATOR, none, GENERATOR)
            await wait_ready(self._kube, [scaled], self._within_s)
            await apply(self._kube, source_of(self._manifests, deployment))
        await wait_bound(self._kube, GENERATOR, GENERATOR, self._within_s, self._repair)

    async def _repair(self, state: SourceState) -> None:
        self._say(f"{state.text}; {await mend(self._kube, state, self._within_s)}")


def source_of(manifests: Path, deployment: Object) -> Object:
    """The manifests' ContainerSource with the pod of the present Deployment. Raises UsageError."""
    made = [obj for obj in render(manifests / "overlays" / "eventing") if obj["kind"] == kinds.CONTAINER_SOURCES.kind]
    if not made:
        raise BenchError(f"{manifests}/overlays/eventing has no ContainerSource")
    source = made[0]
    (own,) = source["spec"]["template"]["spec"]["containers"]
    pod = copy.deepcopy(deployment["spec"]["template"]["spec"])
    pod["containers"][0].update({key: own[key] for key in ("command", "env") if key in own})
    source["spec"]["template"]["spec"] = pod
    return source


async def _delete_triggers(kube: Kube, keep: Collection[str], within_s: float, say: Say) -> None:
    """Delete the scenario's other triggers, which takes about a second for each, and end interrupted deletions."""
    found = await triggers_of(kube)
    left = [each for each in found if name_of(each) not in keep or "deletionTimestamp" in each["metadata"]]
    count = len(left)

    def tell(trigger: Object, why: str) -> None:
        nonlocal count
        if not why:
            count -= 1
            say(f"Trigger {EVENTING}/{name_of(trigger)} is deleted; {count} left")

    await delete(kube, left, within_s, tell)


async def triggers_of(kube: Kube) -> list[Object]:
    """The scenario's triggers, by number: each gives a receipt for each event. Raises ApiError."""
    found = [
        obj
        for obj in (await kube.list(kinds.TRIGGERS, EVENTING)).items
        if obj["spec"].get("broker") == BROKER and _OURS.fullmatch(name_of(obj))
    ]
    return sorted(found, key=lambda obj: int(name_of(obj).rpartition("-")[2]))
