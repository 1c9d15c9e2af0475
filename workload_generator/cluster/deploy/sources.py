"""ContainerSources whose generator cannot send: the fault, and its repair.

A pod has no `K_SINK` in two cases:
- the binding of the sink changed the Deployment, and the pod of the new ReplicaSet is Pending because there is no room
  beside the old pod, which has no `K_SINK`: the old ReplicaSet has to be deleted
- the source was created before its sink, and its SinkBinding is not reconciled again (knative/eventing#9189): the
  SinkBinding has to be touched. A touch of the source reconciles nothing, since its controller compares specs
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from workload_generator.cluster.deploy.readiness import message_of
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import Object, Resource, condition, is_ready, name_of, namespace_of, owned_by

SINK_VARIABLE = "K_SINK"
_TOUCHED = "knative-bench/touched"


Fault = Literal["", "stuck", "unbound", "starting"]


@dataclass(frozen=True, slots=True)
class SourceState:
    """The state of a ContainerSource. `old` are the ReplicaSets whose pods keep the new pod from being scheduled."""

    namespace: str
    name: str
    fault: Fault
    text: str
    old: tuple[str, ...] = ()


async def examine(kube: Kube, source: Object) -> SourceState:
    """Examine the source's Deployment, ReplicaSets and pods. Raises ApiError."""
    namespace, name = namespace_of(source), name_of(source)

    async def owned(resource: Resource, owners: list[Object]) -> list[Object]:
        uids = [owner["metadata"]["uid"] for owner in owners]
        found = (await kube.list(resource, namespace)).items
        return [obj for obj in found if any(owned_by(obj, uid) for uid in uids)]

    def state(fault: Fault, text: str, old: tuple[str, ...] = ()) -> SourceState:
        return SourceState(namespace, name, fault, text, old)

    deployments = await owned(kinds.DEPLOYMENTS, [source])
    if not deployments:
        return state("unbound", f"it has no Deployment: {_ready_text(source)}")
    every = await owned(kinds.REPLICA_SETS, deployments[:1])
    pods = await owned(kinds.PODS, every)
    sets = [one for one in every if one["spec"].get("replicas")]
    new = [one for one in sets if has_sink(one["spec"]["template"])]
    old = [one for one in sets if one not in new]
    new_pods = [pod for pod in pods if any(owned_by(pod, one["metadata"]["uid"]) for one in new)]
    for pod in new_pods if old else ():
        scheduled = condition(pod, "PodScheduled") or {}
        if scheduled.get("status") == "False":
            return state(
                "stuck",
                f"pod {name_of(pod)} has {SINK_VARIABLE} and is Pending behind ReplicaSet {name_of(old[0])}, whose "
                f"pod runs without it: {scheduled.get('message') or 'not scheduled'}",
                tuple(name_of(one) for one in old),
            )
    if any(map(is_ready, new_pods)) and not old:
        left = [pod for pod in pods if not has_sink(pod)]
        if left:
            return state("starting", f"pod {name_of(left[0])} without {SINK_VARIABLE} is terminating")
        return state("", f"its pod runs and has {SINK_VARIABLE}")
    if not has_sink(deployments[0]["spec"]["template"]):
        return state("unbound", f"its pods get no {SINK_VARIABLE}: {_ready_text(source)} (knative/eventing#9189)")
    return state("starting", f"no pod with {SINK_VARIABLE} is ready yet: {_ready_text(source)}")


async def mend(kube: Kube, state: SourceState, timeout_s: float) -> str:
    """Repair the fault and wait for a ready pod with K_SINK. Returns what was done. Raises WaitTimeout, ApiError."""
    if state.fault == "stuck":
        for name in state.old:
            await kube.delete(kinds.REPLICA_SETS, name, state.namespace)
        done = f"ReplicaSet {', '.join(state.old)} deleted"
    else:
        touch = {"metadata": {"annotations": {_TOUCHED: str(time.time_ns())}}}
        binding = f"{state.name}-sinkbinding"
        await kube.patch(kinds.SINK_BINDINGS, binding, touch, state.namespace)
        done = f"SinkBinding {binding} touched"
    began = time.monotonic()
    try:
        last = await wait_bound(kube, state.namespace, state.name, timeout_s)
    except WaitTimeout as error:
        raise WaitTimeout(f"{done}, but {error}") from None
    return f"{done}; after {time.monotonic() - began:.1f} s {last.text}"


async def wait_bound(
    kube: Kube,
    namespace: str,
    name: str,
    timeout_s: float,
    on_stuck: Callable[[SourceState], Awaitable[None]] | None = None,
) -> SourceState:
    """Wait until the source has a ready pod with K_SINK, and no pod without it. `on_stuck` may repair that fault.

    Raises WaitTimeout, ApiError.
    """
    last: SourceState | None = None
    try:
        async with asyncio.timeout(timeout_s), Reflector(kube, kinds.PODS, namespace) as pods:
            while True:
                seen = dict(pods.objects)
                last = await examine(kube, await kube.get(kinds.CONTAINER_SOURCES, name, namespace))
                if not last.fault:
                    return last
                if last.fault == "stuck" and on_stuck is not None:
                    await on_stuck(last)
                    continue
                await pods.until(lambda now, seen=seen: now != seen)  # type: ignore[misc]
    except TimeoutError:
        text = last.text if last else "it was not examined"
        raise WaitTimeout(
            f"ContainerSource {namespace}/{name} has no ready pod with {SINK_VARIABLE} after {timeout_s:g} s: {text} "
            "(see `kn-bench doctor`)"
        ) from None


def has_sink(pod: Object) -> bool:
    """Whether a container of a pod, or of a pod template, has a value for K_SINK."""
    return any(
        variable["name"] == SINK_VARIABLE and bool(variable.get("value"))
        for container in pod["spec"]["containers"]
        for variable in container.get("env") or ()
    )


def _ready_text(source: Object) -> str:
    for kind in ("SinkBindingReady", "Ready"):  # the cause, and what follows from it
        found = condition(source, kind)
        if found is not None and found["status"] != "True":
            return f"{kind} is {found['status']}: {message_of(found)}"
    return "the source is not reconciled yet" if found is None else "the source is Ready"
