"""What an eventing scenario needs in a cluster: broker, triggers, receiver, event logger, the generator as a source.

Rules:
- a broker that is there is used; where there is none, the manifests' is made, with the images of the generator there is
- the triggers called `receiver-<n>` are the scenario's, so many as a cell asks for; all others are left alone
- the source is made after its sink is Ready, from the Deployment's pod, which gives way to it; both come back
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.deploy.deployment import BrokerKind, DeployPart
from workload_generator.cluster.deploy.eventing import is_rabbitmq, triggers, wait_for_dispatchers
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import apply, delete, label, stages, wait_ready
from workload_generator.cluster.deploy.readiness import is_waited_for
from workload_generator.cluster.deploy.services import Images
from workload_generator.cluster.deploy.sources import examine, mend
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, WaitTimeout
from workload_generator.kube.names import CHANGED_ANNOTATION, EVENTING, GENERATOR, LOGGER, PARALLELISM, RECEIVER
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import (
    BROKER_CONFIGS,
    BROKERS,
    CONTAINER_SOURCES,
    DEPLOYMENTS,
    PODS,
    RABBITMQ_CLUSTERS,
    TRIGGERS,
    Object,
    name_of,
)
from workload_generator.scenarios.changes import EVENTING_KEY, ChangeOwner, annotation

BROKER = "default"

_MISSING = f"no Deployment {GENERATOR} in {GENERATOR}: `kn-bench deploy generator` makes it"
_OURS = re.compile(rf"{RECEIVER}-\d+")
_ANNOTATIONS_OF_OTHERS = ("kubectl.kubernetes.io/", "eventing.knative.dev/creator", "eventing.knative.dev/lastModifier")

Say = Callable[[str], None]


async def refuse_source(kube: Kube) -> None:
    """Raises UsageError where the generator has no pod of its own."""
    deployment = await kube.find(DEPLOYMENTS, GENERATOR, GENERATOR)
    if deployment is None:
        raise UsageError(_MISSING)
    if deployment["spec"].get("replicas") == 0:
        raise UsageError(
            f"the Deployment {GENERATOR} in {GENERATOR} has no pod: the generator runs as a ContainerSource; "
            "`kn-bench delete eventing` gives it its pod back"
        )


async def read(kube: Kube) -> dict[str, Any]:
    """What is there now, for `put_back`: the generator's pods, whether it is a source, triggers. Raises ApiError."""
    deployment = await kube.find(DEPLOYMENTS, GENERATOR, GENERATOR)
    if deployment is None:
        raise UsageError(_MISSING)
    try:
        source = await kube.find(CONTAINER_SOURCES, GENERATOR, GENERATOR)
        found = await _triggers(kube)
    except ApiAbsent as absent:
        raise UsageError(f"Knative Eventing is not installed: {absent}") from None
    return {
        "replicas": deployment["spec"].get("replicas", 1),
        "source": source is not None,
        "triggers": [_bare(trigger) for trigger in found],
    }


async def restore(kube: Kube, found: Mapping[str, Any], within_s: float, say: Say) -> None:
    """As it was found. Raises ApiError, WaitTimeout."""
    known = {name_of(manifest): manifest for manifest in found["triggers"]}
    extra = [trigger for trigger in await _triggers(kube) if name_of(trigger) not in known]
    await delete(kube, extra, within_s, _nothing)
    for manifest in known.values():
        await apply(kube, manifest)
    if not found["source"]:
        source = await kube.find(CONTAINER_SOURCES, GENERATOR, GENERATOR)
        if source is not None:
            await delete(kube, [source], within_s, _nothing)
    back: Object = {"metadata": {"annotations": {CHANGED_ANNOTATION: None}}, "spec": {"replicas": found["replicas"]}}
    deployment = await kube.patch(DEPLOYMENTS, GENERATOR, back, GENERATOR)
    await wait_ready(kube, [deployment], within_s, _nothing)
    say("the generator is what it was")


class EventingSetup:
    """Sets it up, cell by cell."""

    def __init__(self, kube: Kube, manifests: Path, owner: ChangeOwner, within_s: float, say: Say) -> None:
        self._kube = kube
        self._manifests = manifests
        self._owner = owner
        self._within_s = within_s
        self._say = say

    async def mark(self, found: Mapping[str, Any]) -> None:
        """Write down at the generator's Deployment what is to be put back. Raises ApiError."""
        deployment = await self._kube.get(DEPLOYMENTS, GENERATOR, GENERATOR)
        if CHANGED_ANNOTATION not in (deployment["metadata"].get("annotations") or {}):
            note = {CHANGED_ANNOTATION: annotation(self._owner, {EVENTING_KEY: dict(found)})}
            await self._kube.patch(DEPLOYMENTS, GENERATOR, {"metadata": {"annotations": note}}, GENERATOR)

    async def set_up(self, count: int | None, parallelism: int | None) -> None:
        """All of it, ready; so many triggers, or at least one. Raises UsageError, WaitTimeout, ApiError."""
        deployment = await self._kube.get(DEPLOYMENTS, GENERATOR, GENERATOR)
        broker = await self._kube.find(BROKERS, BROKER, EVENTING)
        if broker is None:
            broker = await self._make_broker(deployment)
        await self._ready([broker, *[await self._kube.get(DEPLOYMENTS, name, EVENTING) for name in (RECEIVER, LOGGER)]])
        await self._set_triggers(broker, count, parallelism)
        await self._be_source(deployment)

    async def _ready(self, objects: Sequence[Object]) -> None:
        await wait_ready(self._kube, objects, self._within_s, _nothing)

    async def _make_broker(self, deployment: Object) -> Object:
        """The manifests' broker, receiver and event logger: RabbitMQ's where its operator and broker are installed."""
        kind = BrokerKind.RABBITMQ if await self._has_rabbitmq() else BrokerKind.IN_MEMORY
        objects = [obj for obj in render(self._manifests / "eventing" / kind) if obj["kind"] != TRIGGERS.kind]
        label(objects, DeployPart.EVENTING)
        image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
        place, _, rest = image.partition("@")[0].rpartition("/")
        Images(place or None, rest.partition(":")[2] or None).put_into(objects)
        self._say(f"no Broker {EVENTING}/{BROKER} yet: the {kind} one of the manifests is made")
        for stage in stages(objects):
            made = [(await apply(self._kube, obj)).object for obj in stage]
            await self._ready([obj for obj in made if is_waited_for(obj)])
        return await self._kube.get(BROKERS, BROKER, EVENTING)

    async def _has_rabbitmq(self) -> bool:
        for resource in (RABBITMQ_CLUSTERS, BROKER_CONFIGS):
            try:
                async for _ in self._kube.pages(resource, page=1):
                    break
            except ApiAbsent:
                return False
        return True

    async def _set_triggers(self, broker: Object, count: int | None, parallelism: int | None) -> None:
        rabbitmq = is_rabbitmq(broker)
        if parallelism is not None and not rabbitmq:
            raise UsageError(
                f"parallelism: only RabbitMQ's triggers have one, and the Broker {EVENTING}/{BROKER} is none"
            )
        there = await _triggers(self._kube)
        if count is None:
            count = max(1, len(there))
        folder = self._manifests / "eventing" / (BrokerKind.RABBITMQ if rabbitmq else BrokerKind.IN_MEMORY)
        (template,) = [obj for obj in render(folder) if obj["kind"] == TRIGGERS.kind]
        wanted = triggers(template, count, parallelism)
        label(wanted, DeployPart.EVENTING)
        names = {name_of(obj) for obj in wanted}
        extra = [trigger for trigger in there if name_of(trigger) not in names]
        await delete(self._kube, extra, self._within_s, _nothing)
        made = [(await apply(self._kube, obj)).object for obj in wanted]
        await self._ready(made)
        if rabbitmq:
            values = {
                obj["metadata"]["uid"]: obj["metadata"]["annotations"][PARALLELISM]
                for obj in made
                if PARALLELISM in (obj["metadata"].get("annotations") or {})
            }
            await wait_for_dispatchers(self._kube, EVENTING, values, self._within_s)

    async def _be_source(self, deployment: Object) -> None:
        """The ContainerSource in the Deployment's place, its pod ready with K_SINK."""
        source = await self._kube.find(CONTAINER_SOURCES, GENERATOR, GENERATOR)
        if source is None:
            none: Object = {"spec": {"replicas": 0}}
            await self._ready([await self._kube.patch(DEPLOYMENTS, GENERATOR, none, GENERATOR)])
            source = (await apply(self._kube, source_of(self._manifests, deployment))).object
        await self._until_bound(source)

    async def _until_bound(self, source: Object) -> None:
        text = "nothing has looked at it yet"
        try:
            async with asyncio.timeout(self._within_s), Reflector(self._kube, PODS, GENERATOR) as pods:
                while True:
                    seen = dict(pods.objects)
                    now = await self._kube.get(CONTAINER_SOURCES, name_of(source), GENERATOR)
                    state = await examine(self._kube, now)
                    text = state.text
                    if not state.fault:
                        return
                    if state.fault == "stuck":
                        self._say(f"{text}; {await mend(self._kube, state, self._within_s)}")
                        continue
                    await pods.until(lambda objects, seen=seen: objects != seen)  # type: ignore[misc]
        except TimeoutError:
            raise WaitTimeout(
                f"the ContainerSource has no pod with its sink after {self._within_s:g} s: {text}; "
                "`kn-bench doctor --fix` mends what can be"
            ) from None


async def count_triggers(kube: Kube) -> int:
    """How many receipts an event makes. Raises ApiError."""
    return len(await _triggers(kube))


def source_of(manifests: Path, deployment: Object) -> Object:
    """The ContainerSource of the manifests, with the pod of the Deployment that there is. Raises UsageError."""
    made = [obj for obj in render(manifests / "overlays" / "eventing") if obj["kind"] == CONTAINER_SOURCES.kind]
    if not made:
        raise BenchError(f"{manifests}/overlays/eventing has no ContainerSource")
    source = made[0]
    (own,) = source["spec"]["template"]["spec"]["containers"]
    pod = copy.deepcopy(deployment["spec"]["template"]["spec"])
    pod["containers"][0].update({key: own[key] for key in ("command", "env") if key in own})
    source["spec"]["template"]["spec"] = pod
    label([source], DeployPart.EVENTING)
    return source


async def _triggers(kube: Kube) -> list[Object]:
    """Those that are ours to change, by number."""
    found = [
        obj
        for obj in (await kube.list(TRIGGERS, EVENTING)).items
        if obj["spec"].get("broker") == BROKER and _OURS.fullmatch(name_of(obj))
    ]
    return sorted(found, key=lambda obj: int(name_of(obj).rpartition("-")[2]))


def _bare(trigger: Object) -> Object:
    """A manifest that makes the same trigger again."""
    about = trigger["metadata"]
    annotations = {
        key: value
        for key, value in (about.get("annotations") or {}).items()
        if not key.startswith(_ANNOTATIONS_OF_OTHERS)
    }
    kept = {"name": about["name"], "namespace": about["namespace"], "labels": about.get("labels") or {}}
    return {
        "apiVersion": TRIGGERS.api_version,
        "kind": TRIGGERS.kind,
        "metadata": {**kept, "annotations": annotations},
        "spec": trigger["spec"],
    }


def _nothing(_obj: Object, _why: str) -> None:
    """Nobody is told."""
