"""Changes of values in the cluster's objects, with the old values: shown, made, waited for and undone.

A `SettingChange` is one value of one object. `plan` compares objects with the wanted values, `make` makes the changes,
and `make` of the `undone` changes restores the old values. Changes can be stored as JSON, for another process to undo.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workload_generator.kube.client import Kube
from workload_generator.kube.names import AUTOSCALING, CONFIG_AUTOSCALER, KNATIVE_SERVING, PARALLELISM
from workload_generator.kube.resources import CONFIG_MAPS, Object, Resource, name_of, namespace_of

ValuePath = tuple[str, ...]
Value = str | int | None
"""None: the value is absent."""
Values = Mapping[ValuePath, Value]

CONCURRENCY: ValuePath = ("spec", "template", "spec", "containerConcurrency")
_ANNOTATIONS: ValuePath = ("spec", "template", "metadata", "annotations")


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A change of one value of one object, from `old` to `new`."""

    resource: Resource
    namespace: str
    name: str
    place: ValuePath
    old: Value
    new: Value

    @property
    def key(self) -> str:
        """The name of the value: `max-scale`, `containerConcurrency`, `parallelism`, `stable-window`."""
        return self.place[-1].removeprefix(AUTOSCALING).removeprefix(PARALLELISM.rpartition("/")[0] + "/")

    def __str__(self) -> str:
        old, new = ("none" if value is None else value for value in (self.old, self.new))
        return f"{self.resource.kind} {self.namespace}/{self.name}: {self.key} {old} → {new}"

    def to_json(self) -> dict[str, Any]:
        """The change as plain values."""
        return {**dataclasses.asdict(self), "place": list(self.place)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SettingChange:
        """The change of which these are the plain values."""
        return cls(**{**value, "resource": Resource(**value["resource"]), "place": tuple(value["place"])})


def of_service(container_concurrency: int | None, annotations: Mapping[str, str | None]) -> dict[ValuePath, Value]:
    """The values of a function's Service. A concurrency of None is left as it is, an annotation of None is removed."""
    wanted: dict[ValuePath, Value] = {(*_ANNOTATIONS, AUTOSCALING + key): value for key, value in annotations.items()}
    return wanted if container_concurrency is None else {CONCURRENCY: container_concurrency, **wanted}


def of_trigger(parallelism: int | None) -> dict[ValuePath, Value]:
    """The parallelism of a RabbitMQ trigger; None leaves it as it is."""
    return {} if parallelism is None else {("metadata", "annotations", PARALLELISM): str(parallelism)}


def plan(resource: Resource, objects: Iterable[Object], wanted: Values) -> list[SettingChange]:
    """The changes that give these objects the wanted values."""
    return [
        SettingChange(resource, namespace_of(obj), name_of(obj), path, old, value)
        for obj in objects
        for path, value in wanted.items()
        if (old := _value(obj, path)) != value
    ]


async def plan_autoscaler(kube: Kube, keys: Mapping[str, str | None]) -> list[SettingChange]:
    """The changes of keys in the ConfigMap `config-autoscaler`. Raises ApiError."""
    config = await kube.get(CONFIG_MAPS, CONFIG_AUTOSCALER, KNATIVE_SERVING)
    return plan(CONFIG_MAPS, [config], {("data", key): value for key, value in keys.items()})


def undone(changes: Sequence[SettingChange]) -> list[SettingChange]:
    """The changes that restore the old values, the last change first."""
    return [dataclasses.replace(each, old=each.new, new=each.old) for each in reversed(changes)]


def by_object(changes: Iterable[SettingChange]) -> dict[tuple[Resource, str, str], list[SettingChange]]:
    """The changes by resource, namespace and name of their objects."""
    groups: dict[tuple[Resource, str, str], list[SettingChange]] = {}
    for change in changes:
        groups.setdefault((change.resource, change.namespace, change.name), []).append(change)
    return groups


async def make(kube: Kube, changes: Iterable[SettingChange], *, dry_run: bool = False) -> list[Object]:
    """Make the changes, all of an object in one patch (one new Revision). Returns the objects. Raises ApiError."""
    objects = []
    for (resource, namespace, name), own in by_object(changes).items():
        patch: Object = {}
        for change in own:
            put(patch, change.place, change.new)
        objects.append(await kube.patch(resource, name, patch, namespace, dry_run=dry_run))
    return objects


def put(obj: Object, path: ValuePath, value: Value) -> None:
    """Set a value in a manifest or a patch."""
    for word in path[:-1]:
        obj = obj.setdefault(word, {})
    obj[path[-1]] = value


def _value(obj: Object, path: ValuePath) -> Value:
    here: Any = obj
    for word in path:
        here = (here or {}).get(word)
    value: Value = here
    return value
