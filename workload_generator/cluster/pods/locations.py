"""The benchmark's pods in a cluster."""

from __future__ import annotations

from workload_generator.cluster.deploy.readiness import why_pod_waits
from workload_generator.cluster.deploy.sources import has_sink
from workload_generator.cluster.pods.sessions import Find, Pod
from workload_generator.kube.client import Kube
from workload_generator.kube.names import EVENTING, GENERATOR, GENERATOR_LABELS, LOGGER, LOGGER_LABELS
from workload_generator.kube.reflector import Reflector, wait_until
from workload_generator.kube.resources import PODS, Key, Object, is_ready, name_of, namespace_of

_LABELS = {GENERATOR: GENERATOR_LABELS, LOGGER: LOGGER_LABELS}
"""The label selector of the pods that have such a container."""


async def generator(kube: Kube, *, event: bool, within_s: float) -> Pod:
    """The generator's pod once it is ready; that of the ContainerSource with `event`. Raises BenchError."""
    return (await ready_pods(kube, GENERATOR, GENERATOR, within_s, event=event))[0]


async def logger(kube: Kube, within_s: float) -> Pod:
    """The event logger's pod once it is ready. Raises BenchError."""
    return (await ready_pods(kube, EVENTING, LOGGER, within_s))[0]


async def ready_pods(
    kube: Kube, namespace: str, container: str, within_s: float, *, count: int = 1, event: bool | None = None
) -> list[Pod]:
    """The ready pods with such a container, by name, once there are `count`. Raises WaitTimeout, ApiError.

    With `event` true only pods with K_SINK, the ContainerSource's; with false only pods without it.
    """

    def ready(found: dict[Key, Object]) -> list[Object]:
        pods = [pod for pod in found.values() if "deletionTimestamp" not in pod["metadata"] and is_ready(pod)]
        return sorted((pod for pod in pods if event is None or has_sink(pod) == event), key=name_of)

    def why(found: dict[Key, Object]) -> str:
        if len(ready(found)) >= count:
            return ""
        there = "; ".join(f"{name_of(pod)} {state_of(pod)}" for pod in found.values()) or "there are no pods"
        return f"{len(ready(found))} of {count}; {there}"

    what = container if event is None else "the ContainerSource with K_SINK" if event else "the Deployment"
    failure = f"not enough ready pods of {what} in {namespace}"
    reflector = Reflector(kube, PODS, namespace, labels=_LABELS[container])
    pods = await wait_until(reflector, why, within_s, failure)
    return [_pod_of(pod, container) for pod in ready(pods)]


def state_of(pod: Object) -> str:
    """The state of a pod that is waited for, in a few words."""
    if "deletionTimestamp" in pod["metadata"]:
        return "is terminating"
    phase = pod.get("status", {}).get("phase", "Pending")
    if why := why_pod_waits(pod):
        return f"is {phase}: {why}"
    return f"is {phase} and {'ready' if is_ready(pod) else 'not ready'}"


async def running(kube: Kube, namespace: str, container: str) -> list[Pod]:
    """The pods whose container runs, by name. Raises BenchError."""
    found = [
        pod
        for pod in (await kube.list(PODS, namespace, labels=_LABELS[container])).items
        if any(
            each.get("name") == container and "running" in each.get("state", {})
            for each in pod.get("status", {}).get("containerStatuses") or ()
        )
    ]
    return [_pod_of(pod, container) for pod in sorted(found, key=name_of)]


def _pod_of(obj: Object, container: str) -> Pod:
    return Pod(namespace_of(obj), name_of(obj), container, str(obj["metadata"]["uid"]))


def always(pod: Pod) -> Find:
    """Finds this pod and no other."""

    async def find() -> Pod:
        return pod

    return find
