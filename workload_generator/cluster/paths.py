"""The path of requests to functions, through Knative's activator or direct to the pods: asked for, and observed.

What was asked for is `target-burst-capacity`: with -1 the activator is always in the path, with 0 only while a service
has no pod. Any other value lets Knative decide, by the capacity and the load.
Source: https://knative.dev/docs/serving/load-balancing/target-burst-capacity/

What is observed is the mode of a revision's ServerlessService, and whose addresses are its endpoints.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.clock import Anchor, rfc3339
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiError
from workload_generator.kube.names import FUNCTIONS, KNATIVE_SERVING, REVISION_LABEL, SERVICE_LABEL
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import ENDPOINTS, SERVERLESS_SERVICES, SERVICES, Key, Object, name_of

PATHS = {"activator": "-1", "direct": "0"}
"""The value of `target-burst-capacity` for each path."""
BURST_CAPACITY = "target-burst-capacity"
ENVIRONMENT = "environment.jsonl"
"""The end of the name of the file, beside the logs, of what was observed in a cluster: a line for each change."""

_PUBLIC = "networking.internal.knative.dev/serviceType=Public"
_OF_MODE = {"Proxy": "activator", "Serve": "direct"}
_OF_KIND = {"activator": "activator", "pods": "direct"}

Record = dict[str, Any]


def observed(revision: str, modes: Mapping[Key, Object], endpoints: Mapping[Key, Object]) -> Record:
    """The `mode` and the kind of `endpoints` of a revision, and the `path` that they show; None what is unknown."""
    found = modes.get((FUNCTIONS, revision))
    mode = found["spec"].get("mode") if found else None
    subsets = endpoints.get((FUNCTIONS, revision), {}).get("subsets") or ()
    addresses = [each for subset in subsets for each in subset.get("addresses") or ()]
    spaces = {(each.get("targetRef") or {}).get("namespace") for each in addresses}
    kind = None
    if spaces:
        kind = "activator" if spaces == {KNATIVE_SERVING} else "pods" if KNATIVE_SERVING not in spaces else "mixed"
    path = _OF_KIND.get(kind or "") if kind else _OF_MODE.get(mode or "")
    return {"revision": revision, "mode": mode, "endpoints": kind, "path": path}


@contextlib.asynccontextmanager
async def recorded(kube: Kube, services: Iterable[str], run_id: str, file: Path) -> AsyncIterator[None]:
    """Append a line to `file` for the path of each of these functions now, and for each change until the end.

    A path that cannot be observed is a line with the reason.
    """

    def write(record: Record) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as out:
            out.write(orjson.dumps({"event": "path", "time": rfc3339(Anchor.now().wall_ns), "run_id": run_id} | record))
            out.write(b"\n")

    names = sorted(set(services))
    recording = [asyncio.create_task(_record(kube, names, write))] if names else []
    try:
        yield
    finally:
        for task in recording:
            task.cancel()
        await asyncio.gather(*recording, return_exceptions=True)


async def _record(kube: Kube, services: list[str], write: Callable[[Record], None]) -> None:
    known: dict[str, Record] = {}

    def note(_objects: Mapping[Key, Object]) -> bool:
        """Called now and after each change."""
        for service, revision in revisions.items():
            record = observed(revision, modes.objects, endpoints.objects)
            if known.get(service) != record:
                known[service] = record
                write({"service": service, **record})
        return False  # until the end

    try:
        found = [obj for obj in (await kube.list(SERVICES, FUNCTIONS)).items if name_of(obj) in services]
        revisions = {name_of(obj): obj.get("status", {}).get("latestReadyRevisionName") or "" for obj in found}
        labels = f"{SERVICE_LABEL} in ({','.join(services)})"
        async with (
            Reflector(kube, SERVERLESS_SERVICES, FUNCTIONS, labels=f"{REVISION_LABEL},{labels}") as modes,
            Reflector(kube, ENDPOINTS, FUNCTIONS, labels=f"{_PUBLIC},{labels}") as endpoints,
        ):
            await asyncio.gather(modes.until(note), endpoints.until(note))
    except ApiError as error:
        write({"service": None, "path": None, "why": str(error)})
