"""Watches that never end: each gives the objects of one kind to an observer.

Rules:
- a watch that is forbidden, or whose kind is absent, is reported once and retried from time to time; the others run on
- after an interruption all objects are compared with the known ones; the differences are `listed` changes
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from workload_generator.base.usage_tables import WATCH, stamp
from workload_generator.cluster.top.polling import TEMPORARY, retry_after_s
from workload_generator.cluster.top.row_recorder import RowRecorder, now
from workload_generator.cluster.top.states import Observer
from workload_generator.cluster.top.usage import Scope
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, Forbidden, Unauthorized
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import NODES, POD_AUTOSCALERS, PODS, REVISIONS, Resource, namespace_of

_LASTING = (ApiAbsent, Forbidden, Unauthorized)
_LASTING_S, _SHORT_S = 30.0, 2.0  # until the next attempt
_CONSEQUENCES = {
    NODES: "shares of nodes are not known",
    PODS: "nodes and states of pods are not known",
    REVISIONS: "conditions of Revisions are not recorded",
    POD_AUTOSCALERS: "Knative's scale is not recorded",
}


@dataclass(slots=True)
class Watch:
    """The objects of one kind, in one namespace or in all."""

    kube: Kube
    recorder: RowRecorder
    resource: Resource
    namespace: str
    observer: Observer
    scope: Scope
    has_started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all objects are known, or cannot be read."""

    async def run(self) -> None:
        """Watch until cancelled. Raises all errors that are not TEMPORARY."""
        last = ""
        while True:
            try:
                await self._watch()
            except TEMPORARY as error:
                is_lasting = isinstance(error, _LASTING)
                if is_lasting:
                    self.recorder.say_once(f"{_CONSEQUENCES[self.resource]}: {error}")
                if not is_lasting or last != str(error):
                    self.recorder.add_gap(WATCH, str(self), 0, error)
                last = str(error)
                self.has_started.set()
                await asyncio.sleep(max(_LASTING_S if is_lasting else _SHORT_S, retry_after_s(error)))

    async def _watch(self) -> None:
        observer, ignored = self.observer, self.scope.ignored
        async with Reflector(
            self.kube, self.resource, self.namespace, labels=observer.labels, shrink=observer.shrink
        ) as reflector:
            objects = [obj for obj in reflector.objects.values() if namespace_of(obj) not in ignored]
            self.recorder.add_changes(observer.replace(objects, now()))
            self.has_started.set()
            lists = reflector.lists
            async for change in reflector.changes():
                if reflector.lists > lists:
                    lists = reflector.lists
                    self.recorder.add_gap(WATCH, str(self), 0, "interrupted: changes in between may be missing")
                if namespace_of(change.object) not in ignored:
                    is_deleted, at = change.type == "DELETED", _wall(change.mono_ns)
                    self.recorder.add_changes(
                        observer.change(change.object, is_deleted=is_deleted, now=at, listed=change.listed)
                    )

    def __str__(self) -> str:
        return f"{self.resource} of {self.namespace}" if self.namespace else str(self.resource)


def _wall(mono_ns: int) -> str:
    """The wall-clock time of a moment that has just passed."""
    return stamp(time.time_ns() - (time.monotonic_ns() - mono_ns))
