"""Namespaces that a test creates, and the manifests of `k8s/` moved into them.

On another cluster the tests must not change anything else: the names are random, a label marks the namespaces, and
objects are applied and deleted only in namespaces that were created here.
"""

from __future__ import annotations

import copy
import secrets
from typing import Any

from tests.cluster.api import Api, Doc, Refused, wait_for

LABEL = "knative-bench.test/session"


class NotOurs(Exception):
    """A test tried to change an object that the tests did not create."""


class Namespaces:
    """The namespaces of one test session on one cluster."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._session = secrets.token_hex(4)
        self._made: set[str] = set()

    def make(self, purpose: str, **meta: dict[str, str]) -> str:
        """Create a namespace with the labels and annotations of `meta`; returns its name when it accepts pods."""
        name = f"kn-bench-test-{self._session}-{purpose}-{secrets.token_hex(2)}"
        labels = {LABEL: self._session, **meta.get("labels", {})}
        metadata = {"name": name, "labels": labels, "annotations": meta.get("annotations", {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._made.add(name)
        wait_for(f"{name}'s service account", lambda: self.api.find("v1", "ServiceAccount", name, "default"))
        return name

    def move(self, docs: list[Doc]) -> list[Doc]:
        """Create the namespaces of `docs`, with their labels and annotations, under new names.

        Returns the other documents with the new namespaces, also where a field names a namespace.
        Raises NotOurs for objects outside the namespaces of `docs`.
        """
        names = {}
        for doc in docs:
            if doc["kind"] == "Namespace":
                meta = doc["metadata"]
                names[meta["name"]] = self.make(
                    meta["name"], labels=meta.get("labels", {}), annotations=meta.get("annotations", {})
                )
        moved = [_renamed(copy.deepcopy(doc), names) for doc in docs if doc["kind"] != "Namespace"]
        for doc in moved:
            self.check(doc)
        return moved

    def check(self, doc: Doc) -> None:
        where = doc["metadata"].get("namespace")
        if where not in self._made:
            raise NotOurs(
                f"{doc['kind']} {doc['metadata']['name']} is in {where or 'no namespace'}, not created by tests"
            )

    def apply(self, docs: list[Doc]) -> list[Doc]:
        """Server-side apply of each, in order; returns the server's objects."""
        for doc in docs:
            self.check(doc)
        return [self.api.apply(doc) for doc in docs]

    def delete(self, *names: str) -> None:
        """Start deleting namespaces. Raises NotOurs for one that was not created here or has lost our label."""
        for name in names:
            found = self.api.find("v1", "Namespace", None, name)
            if name not in self._made or (found and found["metadata"]["labels"].get(LABEL) != self._session):
                raise NotOurs(f"namespace {name} was not created by these tests")
            self.api.delete("v1", "Namespace", None, name)

    def clean_up(self) -> None:
        """Delete all created namespaces, and wait until they are gone."""
        self.delete(*self._made)
        wait_for("the deletion of the tests' namespaces", lambda: not self.left(), within_s=300)
        self._made.clear()

    def left(self) -> list[str]:
        try:
            found = self.api.list("v1", "Namespace", labels=f"{LABEL}={self._session}")
        except Refused as refused:
            raise AssertionError(f"cannot list the remaining namespaces: {refused}") from refused
        return [each["metadata"]["name"] for each in found]


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Replace every `namespace: X`, at any depth, and the namespace in in-cluster host names."""
    if isinstance(value, dict):
        return {
            key: names.get(inner, inner) if key == "namespace" and isinstance(inner, str) else _renamed(inner, names)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(f".{old}.svc", f".{new}.svc")
    return value
