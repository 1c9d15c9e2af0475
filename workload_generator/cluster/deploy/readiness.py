"""Whether an object is ready, and the reason in its status if it is not."""

from __future__ import annotations

from collections.abc import Callable

from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiError
from workload_generator.kube.resources import PODS, Object, condition, is_ready, name_of, namespace_of


def is_waited_for(obj: Object) -> bool:
    """Whether the object has a readiness to wait for."""
    return obj["kind"] in _READINESS and _READINESS[obj["kind"]][0] == str(obj["apiVersion"]).partition("/")[0]


def why_not_ready(obj: Object | None) -> str:
    """Empty when the object is ready at its present generation; otherwise the reason why it is not."""
    if obj is None:
        return "it does not exist"
    if "deletionTimestamp" in obj["metadata"]:
        return "it is being deleted"
    return _READINESS[obj["kind"]][1](obj)


async def explain(kube: Kube, obj: Object | None, why: str) -> str:
    """Why it is not ready, or else `why`; with the reason of a pod if its own status does not include that."""
    if obj is None or not is_waited_for(obj):
        return why
    text = why_not_ready(obj) or why
    try:
        pods = (await kube.list(PODS, namespace_of(obj))).items
    except ApiError as error:
        return f"{text} (its pods cannot be listed: {error})"
    own = [pod for pod in pods if name_of(pod).startswith(f"{name_of(obj)}-")]
    said = [(name_of(pod), reason) for pod in own if (reason := why_pod_waits(pod))]
    return f"{text}; pod {': '.join(said[0])}" if said and said[0][1] not in text else text


def message_of(found: Object) -> str:
    """The reason and message of a condition."""
    reason, message = found.get("reason") or "", found.get("message") or ""
    return (
        f"{reason}: {message}" if reason and message else message or reason or f"{found['type']} is {found['status']}"
    )


def why_not(obj: Object, kind: str = "Ready") -> str:
    """Empty when the condition is true of the object's present generation; otherwise the reason why it is not."""
    if is_ready(obj, kind):
        return ""
    found = condition(obj, kind)
    if found is None:
        return "it is not reconciled yet"
    if found["status"] == "True":
        return "its last change is not reconciled yet"
    return message_of(found)


def _service(obj: Object) -> str:
    text = why_not(obj)
    status = obj.get("status", {})
    if text or status.get("latestReadyRevisionName") == status.get("latestCreatedRevisionName"):
        return text
    return f"its revision {status.get('latestCreatedRevisionName')} is not ready"


def _deployment(obj: Object) -> str:
    wanted = obj["spec"].get("replicas", 1)
    status = obj.get("status", {})
    if status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        return "its last change is not reconciled yet"
    for kind, bad in (("ReplicaFailure", "True"), ("Progressing", "False")):
        found = condition(obj, kind)
        if found is not None and found["status"] == bad:
            return message_of(found)
    all_, updated, available = (status.get(f"{key}eplicas", 0) for key in ("r", "updatedR", "availableR"))
    if updated < wanted:
        return f"{updated} of {wanted} pods are updated"
    if all_ > updated:
        return f"{all_ - updated} old pods still exist"
    if available < wanted:
        return f"{available} of {wanted} pods are available"
    return ""


def _rabbitmq(obj: Object) -> str:
    return why_not(obj, "AllReplicasReady") or why_not(obj, "ClusterAvailable")


_READINESS: dict[str, tuple[str, Callable[[Object], str]]] = {
    "Service": ("serving.knative.dev", _service),
    "Broker": ("eventing.knative.dev", why_not),
    "Trigger": ("eventing.knative.dev", why_not),
    "Sequence": ("flows.knative.dev", why_not),
    "ContainerSource": ("sources.knative.dev", why_not),
    "Deployment": ("apps", _deployment),
    "RabbitmqCluster": ("rabbitmq.com", _rabbitmq),
}


def why_pod_waits(pod: Object) -> str:
    """What keeps a pod from running; empty if nothing does."""
    for each in pod.get("status", {}).get("containerStatuses") or ():
        state = each.get("state", {})
        found = state.get("waiting") or state.get("terminated") or {}
        if found.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return message_of(found)
    scheduled = condition(pod, "PodScheduled")
    return message_of(scheduled) if scheduled is not None and scheduled["status"] == "False" else ""
