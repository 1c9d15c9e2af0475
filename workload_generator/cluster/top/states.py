"""Rows about functions' pods and Knative's autoscaling, from watched objects: no I/O.

Rules:
- a pod is in one state: pending, running (not ready), ready, terminating, ended; once deleted it is gone
- an object that has not changed gives no row, however often it is observed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from workload_generator.base.usage_tables import ConditionChange, PodState, Replicas, Row, Scale
from workload_generator.cluster.top.usage import Allocatable, read_allocatable
from workload_generator.kube.names import REVISION_LABEL, SERVICE_LABEL
from workload_generator.kube.resources import Key, Object, condition, key_of, name_of

COUNTED = ("pending", "running", "ready", "terminating")

_LONGEST_MESSAGE = 500


class Observer:
    """Turns objects of one kind into rows. `listed` is 1 for what may have happened before `now`, else 0."""

    labels = ""
    """The selector of the objects."""

    @staticmethod
    def shrink(obj: Object) -> Object:
        """The part of an object that `put` needs."""
        raise NotImplementedError

    def keys(self) -> Iterable[Key]:
        """The known objects."""
        raise NotImplementedError

    def put(self, obj: Object, now: str, listed: int) -> list[Row]:
        """The object is new, or may have changed."""
        raise NotImplementedError

    def remove(self, key: Key, now: str, listed: int) -> list[Row]:
        """The object is deleted."""
        raise NotImplementedError

    def summary(self, now: str, listed: int) -> list[Row]:
        """Rows about all changes since the last call."""
        return []

    def replace(self, objects: Iterable[Object], now: str) -> list[Row]:
        """These are all objects."""
        fresh = {key_of(obj): obj for obj in objects}
        rows: list[Row] = []
        for key in self.keys() - fresh.keys():
            rows += self.remove(key, now, 1)
        for obj in fresh.values():
            rows += self.put(obj, now, 1)
        return [*rows, *self.summary(now, 1)]

    def change(self, obj: Object, *, is_deleted: bool, now: str, listed: bool) -> list[Row]:
        """One object is new, changed or deleted."""
        if is_deleted:
            rows = self.remove(key_of(obj), now, int(listed))
        else:
            rows = self.put(obj, now, int(listed))
        return [*rows, *self.summary(now, int(listed))]


class NodeObserver(Observer):
    """What each node has for pods: nothing until it reports it. Gives no rows."""

    def __init__(self, nodes: dict[str, Allocatable]) -> None:
        self._nodes = nodes

    @staticmethod
    def shrink(obj: Object) -> Object:
        """Name and allocatable resources."""
        about = obj["metadata"]
        return {
            "metadata": {"name": about["name"], "resourceVersion": about["resourceVersion"]},
            "status": {"allocatable": (obj.get("status") or {}).get("allocatable") or {}},
        }

    def keys(self) -> Iterable[Key]:
        """The known nodes."""
        return {("", name) for name in self._nodes}

    def put(self, obj: Object, now: str, listed: int) -> list[Row]:
        """No rows."""
        try:
            self._nodes[name_of(obj)] = read_allocatable(obj)
        except (KeyError, ValueError):
            self._nodes[name_of(obj)] = Allocatable(0.0, 0)
        return []

    def remove(self, key: Key, now: str, listed: int) -> list[Row]:
        """No rows."""
        self._nodes.pop(key[1], None)
        return []


@dataclass(frozen=True, slots=True)
class _Pod:
    revision: Key
    service: str | None
    node: str | None
    state: str


@dataclass
class PodObserver(Observer):
    """The nodes of pods; of functions' pods also the states, and the number of pods in each state."""

    nodes: dict[Key, str] = field(default_factory=dict)
    """The node of each pod; other observers may share it."""
    labels: str = ""
    _known: dict[Key, _Pod | None] = field(default_factory=dict)  # None: not a function's
    _counts: dict[Key, dict[str, int]] = field(default_factory=dict)
    _changed: dict[Key, str | None] = field(default_factory=dict)

    @staticmethod
    def shrink(obj: Object) -> Object:
        """Labels, node, phase and readiness."""
        status = obj.get("status") or {}
        ready = [each for each in status.get("conditions") or () if each.get("type") == "Ready"]
        return {
            "metadata": _small_metadata(obj, "deletionTimestamp"),
            "spec": {"nodeName": (obj.get("spec") or {}).get("nodeName")},
            "status": {
                "phase": status.get("phase"),
                "conditions": [{"type": "Ready", "status": each["status"]} for each in ready],
            },
        }

    def keys(self) -> Iterable[Key]:
        """The known pods."""
        return self._known.keys()

    def put(self, obj: Object, now: str, listed: int) -> list[Row]:
        """A row if a function's pod has another state or node."""
        key, node, labels = key_of(obj), obj["spec"]["nodeName"], obj["metadata"]["labels"]
        if node:
            self.nodes[key] = node
        if REVISION_LABEL not in labels:
            self._known[key] = None
            return []
        old = self._known.get(key)
        new = _Pod((key[0], labels[REVISION_LABEL]), labels.get(SERVICE_LABEL), node, state_of(obj))
        self._known[key] = new
        if old is not None and (old.state, old.node) == (new.state, new.node):
            return []
        if old is None or old.state != new.state:
            self._count(old, -1)
            self._count(new, 1)
        return [PodState(now, *key, node, new.service, new.revision[1], new.state, listed)]

    def remove(self, key: Key, now: str, listed: int) -> list[Row]:
        """A row if it was a function's pod."""
        self.nodes.pop(key, None)
        old = self._known.pop(key, None)
        if old is None:
            return []
        self._count(old, -1)
        return [PodState(now, *key, old.node, old.service, old.revision[1], "gone", listed)]

    def summary(self, now: str, listed: int) -> list[Row]:
        """A row for each revision whose numbers have changed."""
        rows: list[Row] = []
        for revision, service in self._changed.items():
            counts = self._counts.get(revision) or dict.fromkeys(COUNTED, 0)
            pending, running, ready, terminating = (counts[state] for state in COUNTED)
            rows.append(Replicas(now, revision[0], service, revision[1], pending, running, ready, terminating, listed))
            if not any(counts.values()):
                self._counts.pop(revision, None)
        self._changed.clear()
        return rows

    def _count(self, pod: _Pod | None, by: int) -> None:
        if pod is None:
            return
        self._changed[pod.revision] = pod.service
        if pod.state in COUNTED:
            self._counts.setdefault(pod.revision, dict.fromkeys(COUNTED, 0))[pod.state] += by


@dataclass
class StatusObserver(Observer):
    """The conditions of Revisions or PodAutoscalers, and the scale of the latter."""

    kind: str
    _known: dict[Key, dict[str, ConditionChange]] = field(default_factory=dict)
    _scales: dict[Key, Scale] = field(default_factory=dict)

    @staticmethod
    def shrink(obj: Object) -> Object:
        """Labels, conditions and scale."""
        status = obj.get("status") or {}
        names = ("conditions", "desiredScale", "actualScale")
        kept = {name: status[name] for name in names if name in status}
        return {"kind": obj.get("kind"), "metadata": _small_metadata(obj), "status": kept}

    def keys(self) -> Iterable[Key]:
        """The known objects."""
        return self._known.keys()

    def put(self, obj: Object, now: str, listed: int) -> list[Row]:
        """A row for each condition that has changed, and for the scale if it has."""
        namespace, name = key = key_of(obj)
        labels, status = obj["metadata"]["labels"], obj["status"]
        service = labels.get(SERVICE_LABEL)
        rows: list[Row] = []
        known = self._known.setdefault(key, {})
        for each in status.get("conditions") or ():
            row = ConditionChange(
                now, namespace, self.kind, name, service, str(each.get("type")), str(each.get("status")),
                each.get("reason"), (each.get("message") or "")[:_LONGEST_MESSAGE] or None,
                each.get("lastTransitionTime"), listed,
            )  # fmt: skip
            old = known.get(row.type)
            known[row.type] = row
            if old is None or (old.status, old.reason) != (row.status, row.reason):
                rows.append(row)
        if self.kind == "PodAutoscaler" and not status.keys().isdisjoint(("desiredScale", "actualScale")):
            desired, actual = status.get("desiredScale"), status.get("actualScale")
            scale = Scale(now, namespace, service, labels.get(REVISION_LABEL) or name, desired, actual, listed)
            before = self._scales.get(key)
            self._scales[key] = scale
            if before is None or (before.desired, before.actual) != (desired, actual):
                rows.append(scale)
        return rows

    def remove(self, key: Key, now: str, listed: int) -> list[Row]:
        """A row for each condition, with status Deleted, and one for the scale, which is zero."""
        change = {"timestamp": now, "status": "Deleted", "reason": None, "message": None, "transition": None}
        rows: list[Row] = [
            row._replace(**change, listed=listed)  # type: ignore[arg-type]
            for row in self._known.pop(key, {}).values()
        ]
        scale = self._scales.pop(key, None)
        if scale is not None:
            rows.append(scale._replace(timestamp=now, desired=0, actual=0, listed=listed))
        return rows


def state_of(pod: Object) -> str:
    """The state of a Pod."""
    phase = pod["status"].get("phase")
    if phase in ("Succeeded", "Failed"):
        return "ended"
    if pod["metadata"].get("deletionTimestamp"):
        return "terminating"
    if phase != "Running":
        return "pending"
    ready = condition(pod, "Ready")
    return "ready" if ready is not None and ready.get("status") == "True" else "running"


def _small_metadata(obj: Object, *more: str) -> Object:
    about = obj["metadata"]
    labels = about.get("labels") or {}
    names: Sequence[str] = ("name", "namespace", "resourceVersion", *more)
    return {
        **{name: about[name] for name in names if name in about},
        "labels": {name: labels[name] for name in (REVISION_LABEL, SERVICE_LABEL) if name in labels},
    }
