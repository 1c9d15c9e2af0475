"""The parts of API objects that matter to a cold start: the points that they show, with their whole seconds.

Nothing else is kept of an object, since a namespace may have thousands of pods.
"""

from __future__ import annotations

from workload_generator.base.clock import NS_PER_S, parse_rfc3339
from workload_generator.kube.names import SERVICE_LABEL
from workload_generator.kube.resources import Object, condition, is_ready

QUEUE_PROXY = "queue-proxy"
_EVENT_POINTS = {"Scheduled": "scheduled", "Pulled": "pulled"}


def pod(obj: Object) -> Object:
    """`service`, and `points`: each point with its second (ns since the epoch), None when the object does not give it.

    A pod does not show when its image was pulled.
    """
    spec, status = obj.get("spec", {}), obj.get("status", {})
    points: dict[str, int | None] = {"created": _ns(obj["metadata"].get("creationTimestamp"))}
    if spec.get("nodeName"):
        points["scheduled"] = _transition(obj, "PodScheduled")
    containers = status.get("containerStatuses") or []
    begun = [_started_at(each.get("state") or {}) for each in containers]
    if begun and len(begun) >= len(spec.get("containers") or ()) and None not in begun:
        points["started"] = max(_ns(each) or 0 for each in begun) or None
    if any(each.get("name") == QUEUE_PROXY and each.get("ready") for each in containers):
        points["queue_ready"] = None
    if is_ready(obj):
        points["ready"] = _transition(obj, "Ready")
    return {**meta(obj), "points": points}


def autoscaler(obj: Object) -> Object:
    """`service`, `wanted` (instances; None: undecided) and `since`, the second of its Active condition."""
    wanted = obj.get("status", {}).get("desiredScale")
    known = isinstance(wanted, int) and wanted >= 0
    return {**meta(obj), "wanted": wanted if known else None, "since": _transition(obj, "Active")}


def event(obj: Object) -> Object:
    """`pod`, `point` (None: not one of ours), `second`, and `exact` in ns where the event has microseconds."""
    about = obj.get("involvedObject") or {}
    point = _EVENT_POINTS.get(obj.get("reason", "")) if about.get("kind") == "Pod" else None
    exact = obj.get("eventTime")
    second = exact or obj.get("lastTimestamp") or obj.get("firstTimestamp")
    return {**meta(obj), "pod": about.get("name", ""), "point": point, "second": _second(second), "exact": _ns(exact)}


def version_of(obj: Object) -> int | None:
    """The resourceVersion as a number, greater when later; None when the server's versions are not numbers."""
    text = str(obj["metadata"].get("resourceVersion", ""))
    return int(text) if text.isascii() and text.isdigit() else None


def meta(obj: Object) -> Object:
    """`service`, and `written`: when the object was stored last, if it is known. A revision needs no more."""
    about = obj["metadata"]
    kept = {name: about[name] for name in ("name", "namespace", "resourceVersion") if name in about}
    written = [_ns(each.get("time")) for each in about.get("managedFields") or ()]
    return {
        "metadata": kept,
        "service": str((about.get("labels") or {}).get(SERVICE_LABEL) or ""),
        "written": max((each for each in [*written, _ns(about.get("creationTimestamp"))] if each), default=None),
    }


def _started_at(state: Object) -> object:
    """The start of a container, also of one that has ended since; None before."""
    return (state.get("running") or state.get("terminated") or {}).get("startedAt") or None


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
