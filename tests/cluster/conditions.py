"""Conditions of a status, in the form of Kubernetes and Knative."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.cluster.api import Doc


def conditions(doc: Doc, kind: str) -> list[Doc]:
    """The condition of this type, as a list of at most one."""
    return [each for each in doc.get("status", {}).get("conditions", []) if each["type"] == kind]


def is_true(doc: Doc, kind: str) -> bool:
    return any(each["status"] == "True" for each in conditions(doc, kind))


def with_conditions(old: list[Doc], new: list[Doc]) -> list[Doc]:
    """The new conditions. An unchanged condition keeps its transition time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = {each["type"]: each for each in old}
    found = []
    for each in new:
        bare = {key: each[key] for key in ("type", "status", "reason", "message") if each.get(key)}
        was = before.get(each["type"], {})
        same = was.get("status") == each["status"]
        found.append(bare | {"lastTransitionTime": was["lastTransitionTime"] if same else now})
    return found
