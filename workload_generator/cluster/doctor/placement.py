"""Labels, taints, selectors and tolerations: which node takes which pod.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/ and, for the annotations,
https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#podnodeselector
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson

from workload_generator.kube.resources import Object, is_ready

SELECTOR = "scheduler.alpha.kubernetes.io/node-selector"
TOLERATIONS = "scheduler.alpha.kubernetes.io/defaultTolerations"
DEDICATED = "dedicated"
_KEEPS_OUT = ("NoSchedule", "NoExecute")


def annotations_of(namespace: Object) -> Mapping[str, str]:
    """Of any object; none is empty."""
    return namespace["metadata"].get("annotations") or {}


def selector_of(namespace: Object) -> dict[str, str]:
    """The labels that PodNodeSelector asks of this namespace's nodes. Raises ValueError for what it cannot read."""
    labels = {}
    for term in filter(None, annotations_of(namespace).get(SELECTOR, "").split(",")):
        key, equal, value = term.partition("=")
        if not equal:
            raise ValueError(f"{SELECTOR}: {term!r} is not label=value")
        labels[key.strip()] = value.strip().lstrip("=")
    return labels


def tolerations_of(namespace: Object) -> list[Object]:
    """What PodTolerationRestriction adds to pods that bring none of their own. Raises ValueError."""
    text = annotations_of(namespace).get(TOLERATIONS)
    if text is None:
        return []
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{TOLERATIONS} is not JSON: {error}") from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ValueError(f"{TOLERATIONS} is not a list of tolerations")
    return found


def labels_of(obj: Object) -> Mapping[str, str]:
    """Of any object; none is empty."""
    return obj["metadata"].get("labels") or {}


def selected(nodes: Iterable[Object], labels: Mapping[str, str]) -> list[Object]:
    """The nodes that have all of these labels."""
    return [node for node in nodes if all(labels_of(node).get(key) == value for key, value in labels.items())]


def taints_of(node: Object) -> list[Object]:
    """Those that keep pods out."""
    return [taint for taint in node["spec"].get("taints") or () if taint["effect"] in _KEEPS_OUT]


def not_tolerated(node: Object, tolerations: Iterable[Object]) -> list[Object]:
    """The taints of a node that keep a pod with these tolerations out."""
    tolerations = list(tolerations)
    return [taint for taint in taints_of(node) if not any(_tolerates(each, taint) for each in tolerations)]


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def is_open(node: Object) -> bool:
    """Whether the scheduler gives it pods that ask for nothing."""
    return is_ready(node) and not node["spec"].get("unschedulable") and not taints_of(node)


def taint_text(taint: Object) -> str:
    """As `kubectl taint` writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"
