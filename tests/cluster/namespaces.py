"""Namespaces that a test makes for itself, and the manifests of `k8s/` moved into them.

On a cluster that is not ours nothing else may be touched: names are drawn, the label says whose they are, and whatever
is applied or deleted has to be in a namespace that was made here.
"""

from __future__ import annotations

import copy
import secrets
from typing import Any

from tests.cluster.api import Api, Doc, Refused, wait_for

LABEL = "knative-bench.test/session"


class NotOurs(Exception):
    """A test was about to touch what it did not make."""


class Namespaces:
    """The namespaces of one test session on one cluster."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._session = secrets.token_hex(4)
        self._made: set[str] = set()

    def make(self, purpose: str, **meta: dict[str, str]) -> str:
        """A new namespace with the labels and annotations of `meta`; returns its name once pods can be made in it."""
        name = f"kn-bench-test-{self._session}-{purpose}-{secrets.token_hex(2)}"
        labels = {LABEL: self._session, **meta.get("labels", {})}
        metadata = {"name": name, "labels": labels, "annotations": meta.get("annotations", {})}
        self.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._made.add(name)
        wait_for(f"{name}'s service account", lambda: self.api.find("v1", "ServiceAccount", name, "default"))
        return name

    def move(self, docs: list[Doc]) -> list[Doc]:
        """The documents in namespaces of this session: those that `docs` has itself are made, with all they say.

        Returns the other documents, whose names are the same and whose namespaces are new, also where they name one.
        Raises NotOurs for what belongs to no namespace of `docs`.
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
                f"{doc['kind']} {doc['metadata']['name']} is in {where or 'no namespace'}, which no test made"
            )

    def apply(self, docs: list[Doc]) -> list[Doc]:
        """Server-side apply of each, in order; returns what the server made of them."""
        for doc in docs:
            self.check(doc)
        return [self.api.apply(doc) for doc in docs]

    def delete(self, *names: str) -> None:
        """Begin to delete namespaces; one that was not made here, or no longer has our label, is refused."""
        for name in names:
            found = self.api.find("v1", "Namespace", None, name)
            if name not in self._made or (found and found["metadata"]["labels"].get(LABEL) != self._session):
                raise NotOurs(f"namespace {name} was not made by these tests")
            self.api.delete("v1", "Namespace", None, name)

    def clean_up(self) -> None:
        """Delete all that were made, and wait until they are gone."""
        self.delete(*self._made)
        wait_for("the tests' namespaces to go", lambda: not self.left(), within_s=300)
        self._made.clear()

    def left(self) -> list[str]:
        try:
            found = self.api.list("v1", "Namespace", labels=f"{LABEL}={self._session}")
        except Refused as refused:
            raise AssertionError(f"cannot say which namespaces are left: {refused}") from refused
        return [each["metadata"]["name"] for each in found]


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """Every `namespace: X`, at any depth, and the namespace of every in-cluster host name."""
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
