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


@dataclass(kw_only=True)
class Observer:
    """Turns objects of one kind into rows. `listed` is 1 for what may have happened before `now`, else 0."""

    labels: str = ""
    """The selector of the objects."""
    _known: dict[Key, Object] = field(default_factory=dict)

    @staticmethod
    def shrink(obj: Object) -> Object:
        """The part of an object that `rows` needs."""
        raise NotImplementedError

    def rows(self, before: Object | None, obj: Object | None, now: str, listed: int) -> list[Row]:
        """The object was `before` (None: it is new), and is `obj` (None: it is deleted)."""
        raise NotImplementedError

    def summary(self, now: str, listed: int) -> list[Row]:
        """Rows about all changes since the last call."""
        return []

    def replace(self, objects: Iterable[Object], now: str) -> list[Row]:
        """These are all objects."""
        known, self._known = self._known, {key_of(obj): obj for obj in objects}
        rows: list[Row] = []
        for key in [*(known.keys() - self._known.keys()), *self._known]:
            rows += self.rows(known.get(key), self._known.get(key), now, 1)
        return [*rows, *self.summary(now, 1)]

    def change(self, obj: Object, *, is_deleted: bool, now: str, listed: bool) -> list[Row]:
        """One object is new, changed or deleted."""
        before = self._known.pop(key_of(obj), None)
        if not is_deleted:
            self._known[key_of(obj)] = obj
        rows = self.rows(before, None if is_deleted else obj, now, int(listed))
        return [*rows, *self.summary(now, int(listed))]


@dataclass
class NodeObserver(Observer):
    """What each node has for pods: nothing until it reports it. Gives no rows."""

    nodes: dict[str, Allocatable] = field(default_factory=dict)
    """By name; other observers may share it."""

    @staticmethod
    def shrink(obj: Object) -> Object:
        """Name and allocatable resources."""
        about = obj["metadata"]
        return {
            "metadata": {"name": about["name"], "resourceVersion": about["resourceVersion"]},
            "status": {"allocatable": (obj.get("status") or {}).get("allocatable") or {}},
        }

    def rows(self, before: Object | None, obj: Object | None, now: str, listed: int) -> list[Row]:
        """No rows."""
        if obj is not None:
            try:
                self.nodes[name_of(obj)] = read_allocatable(obj)
            except (KeyError, ValueError):
                self.nodes[name_of(obj)] = Allocatable(0.0, 0)
        elif before is not None:
            self.nodes.pop(name_of(before), None)
        return []


@dataclass
class PodObserver(Observer):
    """The nodes of pods; of functions' pods also the states, and the number of pods in each state."""

    nodes: dict[Key, str] = field(default_factory=dict)
    """The node of each pod; other observers may share it."""
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

    def rows(self, before: Object | None, obj: Object | None, now: str, listed: int) -> list[Row]:
        """A row if a function's pod has another state or node, or is gone."""
        if before is not None and obj is None:
            self.nodes.pop(key_of(before), None)
        elif obj is not None and obj["spec"]["nodeName"]:
            self.nodes[key_of(obj)] = obj["spec"]["nodeName"]
        states = [self._state(each) for each in (before, obj)]
        pod = obj if states[1] else before
        if pod is None or states == [None, None]:
            return []
        old, new = states[0], states[1] or "gone"
        node = pod["spec"]["nodeName"]
        if before is not None and (old, before["spec"]["nodeName"]) == (new, node):
            return []
        labels, key = pod["metadata"]["labels"], key_of(pod)
        service, revision = labels.get(SERVICE_LABEL), labels[REVISION_LABEL]
        if old != new:
            self._changed[key[0], revision] = service
            counts = self._counts.setdefault((key[0], revision), dict.fromkeys(COUNTED, 0))
            for state, by in ((old, -1), (new, 1)):
                if state in COUNTED:
                    counts[state] += by
        return [PodState(now, *key, node, service, revision, new, listed)]

    @staticmethod
    def _state(pod: Object | None) -> str | None:
        """None: there is no pod, or it is not a function's."""
        return None if pod is None or REVISION_LABEL not in pod["metadata"]["labels"] else state_of(pod)

    def summary(self, now: str, listed: int) -> list[Row]:
        """A row for each revision whose numbers have changed."""
        rows: list[Row] = []
        for revision, service in self._changed.items():
            counts = self._counts[revision]
            pending, running, ready, terminating = (counts[state] for state in COUNTED)
            rows.append(Replicas(now, revision[0], service, revision[1], pending, running, ready, terminating, listed))
            if not any(counts.values()):
                del self._counts[revision]
        self._changed.clear()
        return rows


@dataclass
class StatusObserver(Observer):
    """The conditions of Revisions or PodAutoscalers, and the scale of the latter."""

    kind: str

    @staticmethod
    def shrink(obj: Object) -> Object:
        """Labels, conditions and scale."""
        status = obj.get("status") or {}
        names = ("conditions", "desiredScale", "actualScale")
        kept = {name: status[name] for name in names if name in status}
        return {"kind": obj.get("kind"), "metadata": _small_metadata(obj), "status": kept}

    def rows(self, before: Object | None, obj: Object | None, now: str, listed: int) -> list[Row]:
        """A row for each condition that has changed, and for the scale if it has; once deleted it is zero."""
        old, new = self._states(before, now, listed), self._states(obj, now, listed)
        if obj is not None:
            return [row for what, row in new.items() if what not in old or _news(row) != _news(old[what])]
        gone = {"status": "Deleted", "reason": None, "message": None, "transition": None}
        return [
            row._replace(**gone) if isinstance(row, ConditionChange) else row._replace(desired=0, actual=0)  # type: ignore[arg-type]
            for row in old.values()
        ]

    def _states(self, obj: Object | None, now: str, listed: int) -> dict[str, ConditionChange | Scale]:
        """The rows for all that the object shows: its conditions by type, and the scale."""
        if obj is None:
            return {}
        (namespace, name), labels, status = key_of(obj), obj["metadata"]["labels"], obj["status"]
        service = labels.get(SERVICE_LABEL)
        rows: dict[str, ConditionChange | Scale] = {}
        for each in status.get("conditions") or ():
            row = ConditionChange(
                now, namespace, self.kind, name, service, str(each.get("type")), str(each.get("status")),
                each.get("reason"), (each.get("message") or "")[:_LONGEST_MESSAGE] or None,
                each.get("lastTransitionTime"), listed,
            )  # fmt: skip
            rows[row.type] = row
        if self.kind == "PodAutoscaler" and not status.keys().isdisjoint(("desiredScale", "actualScale")):
            desired, actual = status.get("desiredScale"), status.get("actualScale")
            rows["scale"] = Scale(now, namespace, service, labels.get(REVISION_LABEL) or name, desired, actual, listed)
        return rows


def _news(row: ConditionChange | Scale) -> ConditionChange | Scale:
    """What of it counts as a change."""
    return row._replace(message=None, transition=None) if isinstance(row, ConditionChange) else row


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
