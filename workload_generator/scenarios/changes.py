"""What a scenario changes in a cluster, recorded in each changed object: the annotation `knative-bench/found`.

Rules:
- the annotation is set and removed in the same patch as the change that it records
- it has the values from before the change: they can be restored from another machine, or without the scenario's folder
- it names the process that made the change: no other scenario restores what a running scenario has changed
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.deploy import tuning
from workload_generator.cluster.deploy.tuning import SettingChange
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, NotFound
from workload_generator.kube.names import CHANGED_ANNOTATION, CONFIG_AUTOSCALER, FUNCTIONS, GENERATOR, KNATIVE_SERVING
from workload_generator.kube.resources import Object, Resource, name_of, namespace_of
from workload_generator.scenarios.model import Scenario

CHANGES_KEY, EVENTING_KEY = "changes", "eventing"

_PLACE = ("metadata", "annotations", CHANGED_ANNOTATION)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ChangeOwner:
    """The process that made a change. `boot` and `start` distinguish it from a later process with the same number."""

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
    def has_ended(self) -> bool:
        """Whether it was a process of this machine that has certainly ended."""
        return self.host == socket.gethostname() and (self.boot != _boot() or self.start != _started(self.pid))

    @property
    def may_run(self) -> bool:
        """Whether it may be another process that still runs."""
        is_here = (self.host, self.boot, self.pid) == (socket.gethostname(), _boot(), os.getpid())
        return not is_here and not self.has_ended

    def __str__(self) -> str:
        return f"{self.scenario}, process {self.pid} on {self.host}, since {self.since}"


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _started(pid: int) -> str:
    """The start of a process in the kernel's ticks; empty if it does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class RecordedChanges:
    """The annotation of an object: who changed it, and the values to restore."""

    resource: Resource
    object: Object
    owner: ChangeOwner
    found: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.resource.kind} {namespace_of(self.object)}/{name_of(self.object)}, changed by {self.owner}"


async def find_recorded(kube: Kube) -> list[RecordedChanges]:
    """All annotations in the cluster. Raises BenchError for one that does not parse, ApiError."""
    objects: list[tuple[Resource, Object]] = []
    for resource, name, namespace in (
        (kinds.CONFIG_MAPS, CONFIG_AUTOSCALER, KNATIVE_SERVING),
        (kinds.DEPLOYMENTS, GENERATOR, GENERATOR),
    ):
        obj = await kube.find(resource, name, namespace)
        if obj is not None:
            objects.append((resource, obj))
    with contextlib.suppress(ApiAbsent):
        objects += [(kinds.SERVICES, obj) for obj in (await kube.list(kinds.SERVICES, FUNCTIONS)).items]
    return [recorded for resource, obj in objects if (recorded := _recorded(resource, obj)) is not None]


def _recorded(resource: Resource, obj: Object) -> RecordedChanges | None:
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


def merge_changes(recorded: Iterable[RecordedChanges]) -> dict[str, Any]:
    """The values of several annotations as one argument of `restore`."""
    whole: dict[str, Any] = {}
    for each in recorded:
        whole.setdefault(CHANGES_KEY, []).extend(each.found.get(CHANGES_KEY, ()))
        if EVENTING_KEY in each.found:
            whole[EVENTING_KEY] = each.found[EVENTING_KEY]
    return whole


def refuse_other_owners(recorded: Sequence[RecordedChanges], scenario: str) -> None:
    """Raises UsageError if another process that may still run has made some of the changes."""
    others = [each for each in recorded if each.owner.may_run]
    if others:
        named = "\n".join(f"  {each}" for each in others)
        raise UsageError(
            f"another scenario has changed this cluster and has not restored it:\n{named}\n"
            f"If it no longer runs: kn-bench scenario {scenario} --platform cluster --restore"
        )


def annotation(owner: ChangeOwner, found: Mapping[str, Any]) -> str:
    """The text of an annotation."""
    whole = {"owner": dataclasses.asdict(owner), "found": dict(found)}
    return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS).decode()


async def take_over(kube: Kube, recorded: Iterable[RecordedChanges], owner: ChangeOwner) -> None:
    """Make this process the owner of what an ended process has changed. Raises ApiError."""
    for each in recorded:
        if each.owner.has_ended:
            note: Object = {"metadata": {"annotations": {CHANGED_ANNOTATION: annotation(owner, each.found)}}}
            await kube.patch(each.resource, name_of(each.object), note, namespace_of(each.object))


async def plan(kube: Kube, scenario: Scenario) -> list[SettingChange]:
    """The changes that the scenario's patch still needs. Raises UsageError when a service is not deployed, ApiError."""
    patch = scenario.patch
    changes = await tuning.plan_autoscaler(kube, patch.autoscaler) if patch.autoscaler else []
    services = await services_of(kube, scenario.all_services())
    wanted = tuning.of_service(patch.container_concurrency, scenario.annotations())
    return changes + tuning.plan(kinds.SERVICES, services, wanted)


async def services_of(kube: Kube, names: Sequence[str]) -> list[Object]:
    """The functions' Services. Raises UsageError with the names of those that are not deployed."""
    found = [(name, await kube.find(kinds.SERVICES, name, FUNCTIONS)) for name in names]
    missing = [name for name, obj in found if obj is None]
    if missing:
        raise UsageError(f"not deployed in {FUNCTIONS}: {', '.join(missing)}; run `kn-bench deploy functions`")
    return [obj for _, obj in found if obj is not None]


async def make(kube: Kube, changes: Sequence[SettingChange], owner: ChangeOwner) -> None:
    """Make the changes. An object without an annotation gets one in the same patch. Raises ApiError."""
    if not changes:
        return
    recorded = {(each.resource, namespace_of(each.object), name_of(each.object)) for each in await find_recorded(kube)}
    for key, own in tuning.by_object(changes).items():
        text = annotation(owner, {CHANGES_KEY: [change.to_json() for change in own]})
        await tuning.make(kube, own if key in recorded else [*own, _record(own[0], text)])


async def restore(kube: Kube, changes: Sequence[SettingChange], say: Callable[[str], None]) -> None:
    """Restore the values from before the changes and remove the annotations.

    An object that fails does not keep the others from being restored; the last ApiError is raised at the end.
    """
    failure: ApiError | None = None
    for (resource, namespace, name), own in tuning.by_object(tuning.undone(changes)).items():
        try:
            await tuning.make(kube, [*own, _record(own[0], None)])
        except NotFound:
            say(f"{resource.kind} {namespace}/{name} no longer exists: nothing to restore")
        except ApiError as error:
            failure = error
    if failure is not None:
        raise failure


def changes_of(found: Mapping[str, Any]) -> list[SettingChange]:
    """The changes recorded in `found`."""
    return [SettingChange.from_json(each) for each in found.get(CHANGES_KEY, ())]


def _record(change: SettingChange, text: str | None) -> SettingChange:
    """The change of the annotation of the same object; None removes it."""
    return dataclasses.replace(change, place=_PLACE, old=None, new=text)
