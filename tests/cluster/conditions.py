"""Conditions of a status, as Kubernetes and Knative have them."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.cluster.api import Doc


def conditions(doc: Doc, kind: str) -> list[Doc]:
    """Those of that type: one or none."""
    return [each for each in doc.get("status", {}).get("conditions", []) if each["type"] == kind]


def is_true(doc: Doc, kind: str) -> bool:
    return any(each["status"] == "True" for each in conditions(doc, kind))


def with_conditions(old: list[Doc], new: list[Doc]) -> list[Doc]:
    """The new ones; a transition's time is the old one's as long as nothing changed."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = {each["type"]: each for each in old}
    found = []
    for each in new:
        bare = {key: each[key] for key in ("type", "status", "reason", "message") if each.get(key)}
        was = before.get(each["type"], {})
        same = was.get("status") == each["status"]
        found.append(bare | {"lastTransitionTime": was["lastTransitionTime"] if same else now})
    return found
