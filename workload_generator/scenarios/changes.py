"""What a scenario changed in a cluster, written down where it was changed: the annotation `knative-bench/found`.

Rules:
- the annotation comes with the change and goes with it, in one patch: whoever finds the one knows of the other
- it holds what was there before, so that it can be put back from another machine, or when the scenario's folder is lost
- it says who changed it: another scenario does not put back what one that may still run has set
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.tuning import SettingChange
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, NotFound
from workload_generator.kube.names import CHANGED_ANNOTATION, CONFIG_AUTOSCALER, FUNCTIONS, GENERATOR, KNATIVE_SERVING
from workload_generator.kube.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    SERVICES,
    Object,
    Resource,
    name_of,
    namespace_of,
)
from workload_generator.scenarios.model import Scenario

CHANGES_KEY, EVENTING_KEY = "changes", "eventing"

_PLACE = ("metadata", "annotations", CHANGED_ANNOTATION)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ChangeOwner:
    """The process that changed something. `boot` and `start` tell it from a later one of the same number."""

    scenario: str
    host: str
    boot: str
    pid: int
    start: str
    since: str

    @classmethod
    def here(cls, scenario: str) -> ChangeOwner:
        """This process."""
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return cls(scenario, socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()), now)

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""
        return (self.host, self.boot, self.pid) == (socket.gethostname(), _boot(), os.getpid()) and not self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended: it was one of this machine's."""
        return self.host == socket.gethostname() and (self.boot != _boot() or self.start != _started(self.pid))

    def __str__(self) -> str:
        return f"{self.scenario}, process {self.pid} on {self.host}, since {self.since}"


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _started(pid: int) -> str:
    """When the process began, in the kernel's ticks; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class RecordedChanges:
    """An annotation that was found: on what, whose, and what is to be put back."""

    resource: Resource
    object: Object
    owner: ChangeOwner
    found: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.resource.kind} {namespace_of(self.object)}/{name_of(self.object)}, changed by {self.owner}"


async def find_recorded(kube: Kube) -> list[RecordedChanges]:
    """All that is annotated. Raises ApiError."""
    objects: list[tuple[Resource, Object]] = []
    for resource, name, namespace in (
        (CONFIG_MAPS, CONFIG_AUTOSCALER, KNATIVE_SERVING),
        (DEPLOYMENTS, GENERATOR, GENERATOR),
    ):
        obj = await kube.find(resource, name, namespace)
        if obj is not None:
            objects.append((resource, obj))
    with contextlib.suppress(ApiAbsent):
        objects += [(SERVICES, obj) for obj in (await kube.list(SERVICES, FUNCTIONS)).items]
    return [left for resource, obj in objects if (left := _left(resource, obj)) is not None]


def _left(resource: Resource, obj: Object) -> RecordedChanges | None:
    text = (obj["metadata"].get("annotations") or {}).get(CHANGED_ANNOTATION)
    if text is None:
        return None
    try:
        document = orjson.loads(text)
        return RecordedChanges(resource, obj, ChangeOwner(**document["owner"]), document["found"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        where = f"{resource} {namespace_of(obj)}/{name_of(obj)}"
        raise BenchError(
            f"{where}: the annotation {CHANGED_ANNOTATION} does not parse ({error}); "
            "remove the annotation if there is nothing to restore"
        ) from None


def merge_changes(lefts: Iterable[RecordedChanges]) -> dict[str, Any]:
    """What several annotations say, as one `found`."""
    whole: dict[str, Any] = {}
    for left in lefts:
        whole.setdefault(CHANGES_KEY, []).extend(left.found.get(CHANGES_KEY, ()))
        if EVENTING_KEY in left.found:
            whole[EVENTING_KEY] = left.found[EVENTING_KEY]
    return whole


def refuse_other_owners(lefts: Sequence[RecordedChanges], scenario: str) -> None:
    """Raises UsageError for what belongs to somebody who may still be at it."""
    others = [left for left in lefts if not left.owner.is_gone and not left.owner.is_here]
    if others:
        named = "\n".join(f"  {left}" for left in others)
        raise UsageError(
            f"another scenario has changed this cluster, and has not put it back:\n{named}\n"
            f"When it runs no more: kn-bench scenario {scenario} --platform cluster --restore"
        )


def annotation(owner: ChangeOwner, found: Mapping[str, Any]) -> str:
    """The annotation's text."""
    return orjson.dumps({"owner": asdict(owner), "found": dict(found)}, option=orjson.OPT_SORT_KEYS).decode()


async def take_over(kube: Kube, lefts: Iterable[RecordedChanges], owner: ChangeOwner) -> None:
    """What an ended process of this scenario changed is this one's from now on. Raises ApiError."""
    for left in lefts:
        if left.owner.is_gone:
            note: Object = {"metadata": {"annotations": {CHANGED_ANNOTATION: annotation(owner, left.found)}}}
            await kube.patch(left.resource, name_of(left.object), note, namespace_of(left.object))


async def plan(kube: Kube, scenario: Scenario) -> list[SettingChange]:
    """What differs from what the scenario patches. Raises UsageError when a service is not deployed, ApiError."""
    patch = scenario.patch
    changes = await tuning.plan_autoscaler(kube, patch.autoscaler) if patch.autoscaler else []
    names = dict.fromkeys(each for cell in scenario.cells() for each in scenario.services_of(cell))
    services = await services_of(kube, list(names))
    wanted = tuning.of_service(patch.container_concurrency, patch.annotations)
    return changes + tuning.plan(SERVICES, services, wanted)


async def services_of(kube: Kube, names: Sequence[str]) -> list[Object]:
    """The functions' Services. Raises UsageError that names those that are not deployed."""
    found = [(name, await kube.find(SERVICES, name, FUNCTIONS)) for name in names]
    missing = [name for name, obj in found if obj is None]
    if missing:
        raise UsageError(
            f"not deployed in {FUNCTIONS}: {', '.join(missing)}; `kn-bench deploy functions` deploys all of them"
        )
    return [obj for _, obj in found if obj is not None]


async def make(
    kube: Kube, changes: Sequence[SettingChange], owner: ChangeOwner, lefts: Sequence[RecordedChanges]
) -> None:
    """Make the changes, each object with its annotation, unless it has one already. Raises ApiError."""
    known = {_key(left.resource, left.object) for left in lefts}
    for key, own in _by_object(changes).items():
        told = []
        if key not in known:
            found = {CHANGES_KEY: [change.to_json() for change in own]}
            told = [
                SettingChange(own[0].resource, own[0].namespace, own[0].name, _PLACE, None, annotation(owner, found))
            ]
        await tuning.make(kube, [*own, *told])


async def restore(kube: Kube, changes: Sequence[SettingChange], say: Callable[[str], None]) -> None:
    """Put back what was found, and take the annotations away. What fails keeps nobody from the rest; ApiError."""
    failure: ApiError | None = None
    for own in _by_object(tuning.undone(changes)).values():
        first = own[0]
        try:
            await tuning.make(
                kube, [*own, SettingChange(first.resource, first.namespace, first.name, _PLACE, None, None)]
            )
        except NotFound:
            say(f"{first.resource.kind} {first.namespace}/{first.name} is not there any more: nothing to put back")
        except ApiError as error:
            failure = error
    if failure is not None:
        raise failure


def changes_of(found: Mapping[str, Any]) -> list[SettingChange]:
    """The changes that `found` has."""
    return [SettingChange.from_json(each) for each in found.get(CHANGES_KEY, ())]


_Key = tuple[Resource, str, str]


def _by_object(changes: Iterable[SettingChange]) -> dict[_Key, list[SettingChange]]:
    groups: dict[_Key, list[SettingChange]] = {}
    for change in changes:
        groups.setdefault((change.resource, change.namespace, change.name), []).append(change)
    return groups


def _key(resource: Resource, obj: Object) -> _Key:
    return resource, namespace_of(obj), name_of(obj)
