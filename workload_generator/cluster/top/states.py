"""What functions' pods and Knative's autoscaling did, from watches: no I/O.

Rules:
- a pod is in one state: pending, running (not ready), ready, terminating, ended; when it is no more, it is gone
- what has not changed is no row again, however often it is heard of
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workload_generator.base.usage_tables import ConditionChange, PodState, Replicas, Row, Scale
from workload_generator.kube.names import REVISION_LABEL, SERVICE_LABEL
from workload_generator.kube.resources import Object, condition, name_of, namespace_of

"""Labels that Knative gives to pods, Revisions (the second) and PodAutoscalers."""

COUNTED = ("pending", "running", "ready", "terminating")

_Key = tuple[str, str]  # namespace and name
_LONGEST_MESSAGE = 500


def small_pod(pod: Object) -> Object:
    """What is kept of a Pod."""
    about, status = pod["metadata"], pod.get("status") or {}
    labels = about.get("labels") or {}
    kept = {
        name: about[name] for name in ("name", "namespace", "resourceVersion", "deletionTimestamp") if name in about
    }
    kept["labels"] = {name: labels[name] for name in (REVISION_LABEL, SERVICE_LABEL) if name in labels}
    ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
    return {
        "metadata": kept,
        "spec": {"nodeName": (pod.get("spec") or {}).get("nodeName")},
        "status": {
            "phase": status.get("phase"),
            "conditions": [{"type": "Ready", "status": r["status"]} for r in ready],
        },
    }


def small_node(node: Object) -> Object:
    """What is kept of a Node."""
    about = node["metadata"]
    return {
        "metadata": {"name": about["name"], "resourceVersion": about["resourceVersion"]},
        "status": {"allocatable": (node.get("status") or {}).get("allocatable") or {}},
    }


def small_status(obj: Object) -> Object:
    """What is kept of a Revision or a PodAutoscaler."""
    about, status = obj["metadata"], obj.get("status") or {}
    labels = about.get("labels") or {}
    kept = {name: about[name] for name in ("name", "namespace", "resourceVersion") if name in about}
    kept["labels"] = {name: labels[name] for name in (REVISION_LABEL, SERVICE_LABEL) if name in labels}
    names = ("conditions", "desiredScale", "actualScale")
    return {"kind": obj.get("kind"), "metadata": kept, "status": {n: status[n] for n in names if n in status}}


def state_of(pod: Object) -> str:
    """The one state that a Pod is in."""
    phase = pod["status"].get("phase")
    if phase in ("Succeeded", "Failed"):
        return "ended"
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating"
    if phase != "Running":
        return "pending"
    ready = condition(pod, "Ready")
    return "ready" if ready is not None and ready.get("status") == "True" else "running"


@dataclass(slots=True)
class _Pod:
    revision: _Key
    service: str | None
    node: str | None
    state: str


@dataclass(slots=True)
class Pods:
    """The functions' pods, and how many are in each state."""

    _known: dict[_Key, _Pod] = field(default_factory=dict)
    _counts: dict[_Key, dict[str, int]] = field(default_factory=dict)

    def all(self, pods: Iterable[Object], now: str) -> list[Row]:
        """These are all there are."""
        ours = {(namespace_of(pod), name_of(pod)): pod for pod in pods if REVISION_LABEL in pod["metadata"]["labels"]}
        rows: list[Row] = []
        touched: dict[_Key, str | None] = {}
        for key in self._known.keys() - ours.keys():
            self._forget(key, now, 1, rows, touched)
        for pod in ours.values():
            self._note(pod, now, 1, rows, touched)
        return [*rows, *self._counted(touched, now, 1)]

    def changed(self, pod: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """One of them is as given, or is gone."""
        if REVISION_LABEL not in pod["metadata"]["labels"]:
            return []
        rows: list[Row] = []
        touched: dict[_Key, str | None] = {}
        if gone:
            self._forget((namespace_of(pod), name_of(pod)), now, int(listed), rows, touched)
        else:
            self._note(pod, now, int(listed), rows, touched)
        return [*rows, *self._counted(touched, now, int(listed))]

    def _note(self, pod: Object, now: str, listed: int, rows: list[Row], touched: dict[_Key, str | None]) -> None:
        key = (namespace_of(pod), name_of(pod))
        labels = pod["metadata"]["labels"]
        new = _Pod(
            (key[0], labels[REVISION_LABEL]), labels.get(SERVICE_LABEL), pod["spec"].get("nodeName"), state_of(pod)
        )
        old = self._known.get(key)
        self._known[key] = new
        if old is not None and (old.state, old.node) == (new.state, new.node):
            return
        if old is None or old.state != new.state:
            self._count(old.revision if old else None, old.state if old else "", -1)
            self._count(new.revision, new.state, 1)
            touched[new.revision] = new.service
        rows.append(PodState(now, *key, new.node, new.service, new.revision[1], new.state, listed))

    def _forget(self, key: _Key, now: str, listed: int, rows: list[Row], touched: dict[_Key, str | None]) -> None:
        old = self._known.pop(key, None)
        if old is None:
            return
        self._count(old.revision, old.state, -1)
        touched[old.revision] = old.service
        rows.append(PodState(now, *key, old.node, old.service, old.revision[1], "gone", listed))

    def _count(self, revision: _Key | None, state: str, by: int) -> None:
        if revision is not None and state in COUNTED:
            counts = self._counts.setdefault(revision, dict.fromkeys(COUNTED, 0))
            counts[state] += by

    def _counted(self, touched: Mapping[_Key, str | None], now: str, listed: int) -> list[Row]:
        rows: list[Row] = []
        for revision, service in touched.items():
            counts = self._counts.get(revision) or dict.fromkeys(COUNTED, 0)
            pending, running, ready, terminating = (counts[state] for state in COUNTED)
            rows.append(Replicas(now, revision[0], service, revision[1], pending, running, ready, terminating, listed))
            if not any(counts.values()):
                self._counts.pop(revision, None)
        return rows


@dataclass(slots=True)
class Conditions:
    """Conditions of Revisions or PodAutoscalers, and of the latter the scale."""

    kind: str
    _known: dict[_Key, dict[str, ConditionChange]] = field(default_factory=dict)
    _scales: dict[_Key, Scale] = field(default_factory=dict)

    def all(self, objects: Iterable[Object], now: str) -> list[Row]:
        """These are all there are."""
        fresh = {(namespace_of(obj), name_of(obj)): obj for obj in objects}
        rows: list[Row] = []
        for key in self._known.keys() - fresh.keys():
            rows += self._forget(key, now, 1)
        for obj in fresh.values():
            rows += self._note(obj, now, 1)
        return rows

    def changed(self, obj: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """One of them is as given, or is gone."""
        if gone:
            return self._forget((namespace_of(obj), name_of(obj)), now, int(listed))
        return self._note(obj, now, int(listed))

    def _note(self, obj: Object, now: str, listed: int) -> list[Row]:
        namespace, name = key = (namespace_of(obj), name_of(obj))
        labels, status = obj["metadata"]["labels"], obj["status"]
        service = labels.get(SERVICE_LABEL)
        rows: list[Row] = []
        known = self._known.setdefault(key, {})
        for found in status.get("conditions") or ():
            row = ConditionChange(
                now, namespace, self.kind, name, service, str(found.get("type")), str(found.get("status")),
                found.get("reason"), (found.get("message") or "")[:_LONGEST_MESSAGE] or None,
                found.get("lastTransitionTime"), listed,
            )  # fmt: skip
            old = known.get(row.type)
            known[row.type] = row
            if old is None or (old.status, old.reason) != (row.status, row.reason):
                rows.append(row)
        if self.kind == "PodAutoscaler" and not status.keys().isdisjoint(("desiredScale", "actualScale")):
            wanted, there = status.get("desiredScale"), status.get("actualScale")
            scale = Scale(now, namespace, service, labels.get(REVISION_LABEL) or name, wanted, there, listed)
            before = self._scales.get(key)
            self._scales[key] = scale
            if before is None or (before.desired, before.actual) != (scale.desired, scale.actual):
                rows.append(scale)
        return rows

    def _forget(self, key: _Key, now: str, listed: int) -> list[Row]:
        """Gone: its conditions are no more, and nothing is wanted or there."""
        change = {"timestamp": now, "status": "Deleted", "reason": None, "message": None, "transition": None}
        rows: list[Row] = [
            row._replace(**change, listed=listed)  # type: ignore[arg-type]
            for row in self._known.pop(key, {}).values()
        ]
        scale = self._scales.pop(key, None)
        if scale is not None:
            rows.append(scale._replace(timestamp=now, desired=0, actual=0, listed=listed))
        return rows
