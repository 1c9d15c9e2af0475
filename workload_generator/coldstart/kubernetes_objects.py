"""What objects of the API say of a cold start: points that they show, and the whole seconds that they give for them.

Only that is kept of an object; a namespace may have thousands of pods.
"""

from __future__ import annotations

from typing import Any

from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.kube.names import SERVICE_LABEL
from workload_generator.kube.resources import Object, condition

QUEUE_PROXY = "queue-proxy"
_EVENT_POINTS = {"Scheduled": "scheduled", "Pulled": "pulled"}


def pod(obj: Object) -> Object:
    """`service`, and `points`: the point to its second (ns since the epoch), None when it has none.

    A pod's image is pulled some time before its containers have started: the pod itself does not say when.
    """
    spec, status = obj.get("spec", {}), obj.get("status", {})
    points: dict[str, int | None] = {"created": _ns(obj["metadata"].get("creationTimestamp"))}
    if spec.get("nodeName"):
        points["scheduled"] = _transition(obj, "PodScheduled")
    containers = status.get("containerStatuses") or []
    begun = [_begun(each) for each in containers]
    if begun and len(begun) >= len(spec.get("containers") or ()) and None not in begun:
        points["started"] = max(_ns(each) or 0 for each in begun) or None
    if any(each.get("name") == QUEUE_PROXY and each.get("ready") for each in containers):
        points["queue_ready"] = None
    if (condition(obj, "Ready") or {}).get("status") == "True":
        points["ready"] = _transition(obj, "Ready")
    return {**_meta(obj), "points": points}


def autoscaler(obj: Object) -> Object:
    """`service`, `wanted` (instances; None: not decided yet) and `since`, the second of its Active condition."""
    wanted = obj.get("status", {}).get("desiredScale")
    known = isinstance(wanted, int) and wanted >= 0
    return {**_meta(obj), "wanted": wanted if known else None, "since": _transition(obj, "Active")}


def revision(obj: Object) -> Object:
    """`service`."""
    return _meta(obj)


def event(obj: Object) -> Object:
    """`pod` and `point` (None: it says nothing of ours), `second`, and `exact` in ns where its writer says more."""
    about = obj.get("involvedObject") or {}
    point = _EVENT_POINTS.get(obj.get("reason", "")) if about.get("kind") == "Pod" else None
    exact = obj.get("eventTime")
    second = exact or obj.get("lastTimestamp") or obj.get("firstTimestamp")
    return {**_meta(obj), "pod": about.get("name", ""), "point": point, "second": _second(second), "exact": _ns(exact)}


def service_of(obj: Object) -> str:
    """The Knative Service that an object belongs to, empty when none."""
    return str((obj["metadata"].get("labels") or {}).get(SERVICE_LABEL) or "")


def version_of(obj: Object) -> int | None:
    """Its resourceVersion as a number: later is greater. None where a server has others."""
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else None


def _meta(obj: Object) -> Object:
    about = obj["metadata"]
    kept = {name: about[name] for name in ("name", "namespace", "resourceVersion") if name in about}
    written = [_ns(each.get("time")) for each in about.get("managedFields") or ()]
    return {
        "metadata": kept,
        "service": service_of(obj),
        "written": max((each for each in [*written, _ns(about.get("creationTimestamp"))] if each), default=None),
    }


def _begun(container: Any) -> str | None:
    """When a container began to run, also one that has ended since."""
    state = container.get("state") or {}
    found = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    return str(found) if found else None


def _transition(obj: Object, kind: str) -> int | None:
    return _second((condition(obj, kind) or {}).get("lastTransitionTime"))


def _second(value: object) -> int | None:
    ns = _ns(value)
    return None if ns is None else ns // NS_PER_S * NS_PER_S


def _ns(value: object) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_rfc3339(value)
    except ValueError:
        return None
