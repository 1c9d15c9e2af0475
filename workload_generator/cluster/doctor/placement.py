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


def annotations_of(obj: Object) -> Mapping[str, str]:
    """The annotations of any object."""
    return obj["metadata"].get("annotations") or {}


def labels_of(obj: Object) -> Mapping[str, str]:
    """The labels of any object."""
    return obj["metadata"].get("labels") or {}


def label_text(labels: Mapping[str, str]) -> str:
    """`key=value,…`"""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def selector_of(namespace: Object) -> dict[str, str]:
    """The node labels that PodNodeSelector adds to pods of this namespace. Raises ValueError if it is malformed."""
    labels = {}
    for term in filter(None, annotations_of(namespace).get(SELECTOR, "").split(",")):
        key, equal, value = term.partition("=")
        if not equal:
            raise ValueError(f"{SELECTOR}: {term!r} is not label=value")
        labels[key.strip()] = value.strip().lstrip("=")
    return labels


def tolerations_of(namespace: Object) -> list[Object]:
    """What PodTolerationRestriction adds to pods without tolerations. Raises ValueError if it is malformed."""
    text = annotations_of(namespace).get(TOLERATIONS)
    if text is None:
        return []
    try:
        tolerations = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{TOLERATIONS} is not JSON: {error}") from None
    if not isinstance(tolerations, list) or not all(isinstance(each, dict) for each in tolerations):
        raise ValueError(f"{TOLERATIONS} is not a list of tolerations")
    return tolerations


def selected(nodes: Iterable[Object], labels: Mapping[str, str]) -> list[Object]:
    """The nodes that have all of these labels."""
    return [node for node in nodes if labels.items() <= labels_of(node).items()]


def taints_of(node: Object) -> list[Object]:
    """The taints that keep pods out."""
    return [taint for taint in node["spec"].get("taints") or () if taint["effect"] in _KEEPS_OUT]


def not_tolerated(node: Object, tolerations: Iterable[Object]) -> list[Object]:
    """The taints of a node that keep out a pod with these tolerations."""
    tolerations = list(tolerations)
    return [taint for taint in taints_of(node) if not any(_tolerates(each, taint) for each in tolerations)]


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def is_open(node: Object) -> bool:
    """Whether the scheduler places pods without tolerations there."""
    return is_ready(node) and not node["spec"].get("unschedulable") and not taints_of(node)


def taint_text(taint: Object) -> str:
    """As `kubectl taint` writes it."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint['key']}{value}:{taint['effect']}"
