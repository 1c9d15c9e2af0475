"""Values of objects in the cluster changed, with what they were: to be shown, waited for, and put back.

A `Change` is one value of one object. `plan` reads what differs from what is wanted, `make` makes it so, and `make` of
the `undone` changes puts back what was found. Changes go through JSON, so that they outlive the process that made them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workload_generator.kube.client import Kube
from workload_generator.kube.names import AUTOSCALING, CONFIG_AUTOSCALER, KNATIVE_SERVING, PARALLELISM
from workload_generator.kube.resources import CONFIG_MAPS, Object, Resource, name_of, namespace_of

Place = tuple[str, ...]
Value = str | int | None
"""None: it is not there."""

CONCURRENCY: Place = ("spec", "template", "spec", "containerConcurrency")
_ANNOTATIONS: Place = ("spec", "template", "metadata", "annotations")


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One value of one object: `old` as it was found, `new` as it shall be; None is absent."""

    resource: Resource
    namespace: str
    name: str
    place: Place
    old: Value
    new: Value

    @property
    def key(self) -> str:
        """What the value is called: `max-scale`, `containerConcurrency`, `parallelism`, `stable-window`."""
        return self.place[-1].removeprefix(AUTOSCALING).removeprefix(PARALLELISM.rpartition("/")[0] + "/")

    def __str__(self) -> str:
        old, new = ("none" if value is None else value for value in (self.old, self.new))
        return f"{self.resource.kind} {self.namespace}/{self.name}: {self.key} {old} → {new}"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**dataclasses.asdict(self), "place": list(self.place)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SettingChange:
        """The change that `to_json` made plain."""
        return cls(**{**value, "resource": Resource(**value["resource"]), "place": tuple(value["place"])})


def of_service(container_concurrency: int | None, annotations: Mapping[str, str | None]) -> dict[Place, Value]:
    """The places of a function's values; a concurrency of None is left alone, an annotation of None is taken away."""
    wanted: dict[Place, Value] = {(*_ANNOTATIONS, AUTOSCALING + key): value for key, value in annotations.items()}
    return wanted if container_concurrency is None else {CONCURRENCY: container_concurrency, **wanted}


def of_trigger(parallelism: int) -> dict[Place, Value]:
    """The place of a RabbitMQ trigger's parallelism."""
    return {("metadata", "annotations", PARALLELISM): str(parallelism)}


def of_autoscaler(keys: Mapping[str, str | None]) -> dict[Place, Value]:
    """The places of keys in the ConfigMap `config-autoscaler`."""
    return {("data", key): value for key, value in keys.items()}


def plan(resource: Resource, objects: Iterable[Object], wanted: Mapping[Place, Value]) -> list[SettingChange]:
    """What has to change in these objects, as they are now."""
    return [
        SettingChange(resource, namespace_of(obj), name_of(obj), place, old, value)
        for obj in objects
        for place, value in wanted.items()
        if (old := _value(obj, place)) != value
    ]


async def plan_autoscaler(kube: Kube, keys: Mapping[str, str | None]) -> list[SettingChange]:
    """What has to change in `config-autoscaler`. Raises ApiError."""
    config = await kube.get(CONFIG_MAPS, CONFIG_AUTOSCALER, KNATIVE_SERVING)
    return plan(CONFIG_MAPS, [config], of_autoscaler(keys))


def undone(changes: Sequence[SettingChange]) -> list[SettingChange]:
    """The changes that put back what was found, the last first."""
    return [dataclasses.replace(each, old=each.new, new=each.old) for each in reversed(changes)]


async def make(kube: Kube, changes: Iterable[SettingChange], *, dry_run: bool = False) -> list[Object]:
    """Make the changes, all those of an object in one patch (so one new Revision). Raises ApiError; the objects."""
    patches: dict[tuple[Resource, str, str], Object] = {}
    for change in changes:
        _put(patches.setdefault((change.resource, change.namespace, change.name), {}), change.place, change.new)
    return [
        await kube.patch(resource, name, patch, namespace, dry_run=dry_run)
        for (resource, namespace, name), patch in patches.items()
    ]


def _value(obj: Object, place: Place) -> Value:
    here: Any = obj
    for word in place:
        here = (here or {}).get(word)
    value: Value = here
    return value


def _put(patch: Object, place: Place, value: Value) -> None:
    for word in place[:-1]:
        patch = patch.setdefault(word, {})
    patch[place[-1]] = value
