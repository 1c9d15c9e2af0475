"""Where the benchmark's pods are in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from workload_generator.cluster.deploy.sources import has_sink
from workload_generator.cluster.pods.sessions import Pod
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.names import EVENTING, GENERATOR, GENERATOR_LABELS, LOGGER, LOGGER_LABELS
from workload_generator.kube.reflector import Key, Reflector
from workload_generator.kube.resources import PODS, Object, is_ready, name_of, namespace_of


def pod_of(obj: Object, container: str) -> Pod:
    """The container of a pod from the API."""
    return Pod(namespace_of(obj), name_of(obj), container, str(obj["metadata"]["uid"]))


async def generator(kube: Kube, *, event: bool, within_s: float) -> Pod:
    """The generator's pod as soon as it is ready; the ContainerSource's with `event`. Raises BenchError."""

    def fits(pod: Object) -> bool:
        return is_ready(pod) and has_sink(pod) == event

    what = f"{GENERATOR}: no pod of the {'ContainerSource with K_SINK' if event else 'Deployment'} is ready"
    return pod_of(await _ready(kube, GENERATOR, GENERATOR_LABELS, fits, what, within_s), GENERATOR)


async def logger(kube: Kube, within_s: float) -> Pod:
    """The event logger's pod as soon as it is ready. Raises BenchError."""
    what = f"{EVENTING}: no pod of the event logger is ready"
    return pod_of(await _ready(kube, EVENTING, LOGGER_LABELS, is_ready, what, within_s), LOGGER)


async def _ready(
    kube: Kube, namespace: str, labels: str, fits: Callable[[Object], bool], what: str, within_s: float
) -> Object:
    seen: dict[Key, Object] = {}

    def look(objects: dict[Key, Object]) -> bool:
        seen.clear()
        seen.update(objects)
        return any(_stays(pod) and fits(pod) for pod in objects.values())

    try:
        async with asyncio.timeout(within_s), Reflector(kube, PODS, namespace, labels=labels) as pods:
            await pods.until(look)
    except TimeoutError:
        there = "; ".join(f"{name_of(pod)} {state_of(pod)}" for pod in seen.values()) or "there is none"
        raise WaitTimeout(f"{what} after {within_s:g} s: {there}") from None
    return min((pod for pod in seen.values() if _stays(pod) and fits(pod)), key=name_of)


def _stays(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def state_of(pod: Object) -> str:
    """In a few words how a pod is, for whoever waits for it."""
    if not _stays(pod):
        return "is terminating"
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or ():
        state = container.get("state", {})
        waiting = state.get("waiting") or state.get("terminated")
        if waiting:
            return f"is {waiting.get('reason', 'waiting')}"
    for found in status.get("conditions") or ():
        if found.get("type") in ("PodScheduled", "Ready") and found.get("status") != "True" and found.get("message"):
            return f"is {status.get('phase', 'Pending')}: {found['message']}"
    ready = "ready" if is_ready(pod) else "not ready"
    return f"is {status.get('phase', 'Pending')} and {ready}"


async def running(kube: Kube, namespace: str, labels: str, container: str) -> list[Pod]:
    """The pods in which a session can be had, by name. Raises BenchError."""
    found = [
        pod
        for pod in (await kube.list(PODS, namespace, labels=labels)).items
        if any(
            each.get("name") == container and "running" in each.get("state", {})
            for each in pod.get("status", {}).get("containerStatuses") or ()
        )
    ]
    return [pod_of(pod, container) for pod in sorted(found, key=name_of)]


def always(pod: Pod) -> Callable[[], asyncio.Future[Pod]]:
    """A `Find` that knows no other one."""

    def find() -> asyncio.Future[Pod]:
        future: asyncio.Future[Pod] = asyncio.get_running_loop().create_future()
        future.set_result(pod)
        return future

    return find
