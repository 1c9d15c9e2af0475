"""Watches that are kept up: what a cluster's nodes have, where its pods run, and what functions do.

Rules:
- a watch that may not be, or whose kind is absent, is said once and tried again now and then; it ends nothing else
- after an interruption everything is compared with what was known; what differs is a change that was `listed`
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from workload_generator.base.usage_tables import WATCH, Gap, Row, stamp
from workload_generator.cluster.top import states
from workload_generator.cluster.top.polling import NOT_NOW, reason_of, retry_after_s
from workload_generator.cluster.top.usage import Allocatable, Surroundings, read_allocatable
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, Forbidden, Unauthorized
from workload_generator.kube.names import REVISION_LABEL
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import (
    NODES,
    POD_AUTOSCALERS,
    PODS,
    REVISIONS,
    Object,
    Resource,
    name_of,
    namespace_of,
)

_LASTING = (ApiAbsent, Forbidden, Unauthorized)
_AGAIN_S, _SOON_S = 30.0, 2.0  # until a watch is tried again that may not be, or that was interrupted
_LACKS = {
    NODES: "shares of nodes are not known",
    PODS: "nodes and states of pods are not known",
    REVISIONS: "conditions of Revisions are not recorded",
    POD_AUTOSCALERS: "Knative's scale is not recorded",
}


class Handler:
    """What becomes of the objects of a kind. The second form is for one that changed, or is gone."""

    shrink: Callable[[Object], Object]
    labels = ""

    def all(self, objects: list[Object], now: str) -> list[Row]:
        """These are all there are."""
        raise NotImplementedError

    def changed(self, obj: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """One of them is as given, or is gone."""
        raise NotImplementedError


@dataclass(slots=True)
class Watch:
    """One kind, in one namespace or in all, followed for ever."""

    kube: Kube
    resource: Resource
    namespace: str
    ignored: frozenset[str]
    handler: Handler
    record: Callable[[list[Row]], None]
    missed: Callable[[Gap], None]
    say: Callable[[str], None]
    began: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once all is there, or is known not to be."""

    async def keep(self) -> None:
        """Until cancelled. Raises whatever is not in NOT_NOW."""
        told = ""
        while True:
            try:
                await self._follow()
            except NOT_NOW as error:
                lasting = isinstance(error, _LASTING)
                if lasting:
                    self.say(f"{_LACKS[self.resource]}: {error}")
                if not lasting or told != str(error):
                    self.missed(Gap(now(), WATCH, str(self), 0, reason_of(error)))
                told = str(error)
                self.began.set()
                await asyncio.sleep(max(_AGAIN_S if lasting else _SOON_S, retry_after_s(error)))

    async def _follow(self) -> None:
        async with Reflector(
            self.kube, self.resource, self.namespace, labels=self.handler.labels, shrink=self.handler.shrink
        ) as reflector:
            there = [obj for obj in reflector.objects.values() if namespace_of(obj) not in self.ignored]
            self.record(self.handler.all(there, now()))
            self.began.set()
            lists = reflector.lists
            async for change in reflector.changes():
                if reflector.lists > lists:
                    lists = reflector.lists
                    self.missed(Gap(now(), WATCH, str(self), 0, "interrupted: changes in between may be missing"))
                if namespace_of(change.object) not in self.ignored:
                    gone, at = change.type == "DELETED", _wall(change.mono_ns)
                    self.record(self.handler.changed(change.object, gone=gone, now=at, listed=change.listed))

    def __str__(self) -> str:
        return f"{self.resource} of {self.namespace}" if self.namespace else str(self.resource)


class Nodes(Handler):
    """What each node has for pods. A node that has not said it yet has nothing."""

    shrink = staticmethod(states.small_node)

    def __init__(self) -> None:
        self.known: dict[str, Allocatable] = {}

    def all(self, objects: list[Object], now: str) -> list[Row]:
        """No rows: they are only known."""
        for name in self.known.keys() - {name_of(node) for node in objects}:
            del self.known[name]
        for node in objects:
            self.changed(node, gone=False, now=now, listed=True)
        return []

    def changed(self, obj: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """No rows either."""
        if gone:
            self.known.pop(name_of(obj), None)
            return []
        try:
            self.known[name_of(obj)] = read_allocatable(obj)
        except (KeyError, ValueError):
            self.known[name_of(obj)] = Allocatable(0.0, 0)
        return []


class Places(Handler):
    """Where the pods of a namespace (or of all) run, and the states of those that are functions'."""

    shrink = staticmethod(states.small_pod)

    def __init__(self, known: dict[tuple[str, str], str], *, functions_only: bool) -> None:
        """`known` is shared by several."""
        self.labels = REVISION_LABEL if functions_only else ""
        self._known = known
        self._mine: set[tuple[str, str]] = set()
        self._pods = states.Pods()

    def all(self, objects: list[Object], now: str) -> list[Row]:
        """States of the functions' pods that are not known yet."""
        for key in self._mine - {(namespace_of(pod), name_of(pod)) for pod in objects}:
            self._leave(key)
        for pod in objects:
            self._place(pod)
        return self._pods.all(objects, now)

    def changed(self, obj: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """Its state, when it is a function's and the state is another."""
        if gone:
            self._leave((namespace_of(obj), name_of(obj)))
        else:
            self._place(obj)
        return self._pods.changed(obj, gone=gone, now=now, listed=listed)

    def _place(self, pod: Object) -> None:
        if node := pod["spec"]["nodeName"]:
            key = (namespace_of(pod), name_of(pod))
            self._mine.add(key)
            self._known[key] = node

    def _leave(self, key: tuple[str, str]) -> None:
        self._mine.discard(key)
        self._known.pop(key, None)


class Statuses(Handler):
    """Conditions of Revisions or PodAutoscalers, and the scale of the latter."""

    shrink = staticmethod(states.small_status)

    def __init__(self, kind: str) -> None:
        self._known = states.Conditions(kind)

    def all(self, objects: list[Object], now: str) -> list[Row]:
        """What is not known yet."""
        return self._known.all(objects, now)

    def changed(self, obj: Object, *, gone: bool, now: str, listed: bool) -> list[Row]:
        """What is another."""
        return self._known.changed(obj, gone=gone, now=now, listed=listed)


@dataclass(slots=True)
class Around:
    """All watches of a recording, and what is known by them."""

    kube: Kube
    namespaces: tuple[str, ...]
    ignored: frozenset[str]
    functions_only: bool
    """Whether only functions' pods need to be known."""
    record: Callable[[list[Row]], None]
    missed: Callable[[Gap], None]
    say: Callable[[str], None]
    _nodes: Nodes = field(default_factory=Nodes)
    _places: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def nodes(self) -> dict[str, Allocatable]:
        """What the nodes have, as last heard of."""
        return self._nodes.known

    def known(self) -> Surroundings:
        """For reading usage; it goes on changing."""
        return Surroundings(self._nodes.known, self._places, self.ignored)

    def watches(self) -> list[Watch]:
        """To be kept, all of them."""
        return [self._watch(*each) for each in self._kinds()]

    def _kinds(self) -> Iterable[tuple[Resource, str, Handler]]:
        yield NODES, "", self._nodes
        for namespace in self.namespaces or ("",):
            yield PODS, namespace, Places(self._places, functions_only=self.functions_only)
            for resource in (REVISIONS, POD_AUTOSCALERS):
                yield resource, namespace, Statuses(resource.kind)

    def _watch(self, resource: Resource, namespace: str, handler: Handler) -> Watch:
        return Watch(self.kube, resource, namespace, self.ignored, handler, self.record, self.missed, self.say)


def now() -> str:
    """As rows have it."""
    return stamp(time.time_ns())


def _wall(mono_ns: int) -> str:
    """Of a moment that is not long ago."""
    return stamp(time.time_ns() - (time.monotonic_ns() - mono_ns))
