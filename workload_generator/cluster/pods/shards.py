"""A run of several pods: the Indexed Job of `k8s/job`, all of whose pods begin at one moment.

Rules:
- the moment is agreed on when all pods are up, by a pod's own clock: the nodes' clocks agree, ours may not
- a pod holds its log until it is told that the log was fetched, and the Job goes when all of them were
- a Job of another run is not touched while its pods are there: its logs may be in them
"""

from __future__ import annotations

import asyncio
import copy
import glob
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import COMPLETE_RUN
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import apply, stages
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, Ended, Run, follow
from workload_generator.cluster.pods.sessions import Place
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.names import GENERATOR, GENERATOR_LABELS, RUN_ANNOTATION, SHARDS
from workload_generator.kube.reflector import Key, Reflector, delete_and_wait
from workload_generator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, PODS, Object, is_ready, name_of

EXPERIMENT = "experiment"
START_AT, FETCHED = "/tmp/start-at", "/tmp/fetched"
_TOLD = "told"
_LEAD_S = 5.0
_MOUNT = "/experiment"
_HOLD_S = 24 * 3600
_BEGIN_S = 60.0
_STOP_S = 30.0

Say = Callable[[str], None]


def manifests(folder: Path, run: Run, pods: int, deployed: Object) -> list[Object]:
    """The Job's folder for this run; image and resources are the deployed generator's. Raises UsageError."""
    objects = render(folder)
    flags = " ".join(run.flags)
    values = {"CONFIG": f"{_MOUNT}/{run.name}.yaml", "PREFIX": run.prefix, "RUN_ID": run.run_id, "FLAGS": flags}
    values |= {"START_AT": _TOLD, "HOLD_SECONDS": str(_HOLD_S)}
    theirs = deployed["spec"]["template"]["spec"]
    for obj in objects:
        if obj["kind"] == CONFIG_MAPS.kind:
            obj["data"].update(values)
        elif obj["kind"] == JOBS.kind:
            obj["metadata"].setdefault("annotations", {})[RUN_ANNOTATION] = run.run_id
            spec = obj["spec"]
            spec.update(completions=pods, parallelism=pods, maxFailedIndexes=pods)
            ours = spec["template"]["spec"]
            for key in ("nodeSelector", "tolerations", "imagePullSecrets"):
                ours.pop(key, None)
                if key in theirs:
                    ours[key] = copy.deepcopy(theirs[key])
            container = ours["containers"][0]
            container["image"] = theirs["containers"][0]["image"]
            for kind in ("requests", "limits"):
                own = theirs["containers"][0].get("resources", {}).get(kind, {})
                container["resources"][kind].update({key: own[key] for key in ("cpu", "memory") if key in own})
            next(each for each in container["env"] if each["name"] == "SHARDS")["value"] = str(pods)
    namespace = next(obj["metadata"]["namespace"] for obj in objects if obj["kind"] == JOBS.kind)
    about = {"name": EXPERIMENT, "namespace": namespace}
    data = {f"{run.name}.yaml": run.experiment}
    return [*objects, {"apiVersion": "v1", "kind": CONFIG_MAPS.kind, "metadata": about, "data": data}]


class Shards:
    """One run of several pods."""

    def __init__(self, kube: Kube, kubectl: Kubectl, folder: Path, run: Run, pods: int, out: Path, say: Say) -> None:
        self._kube = kube
        self._kubectl = kubectl
        self._folder = folder
        self._run = run
        self._pods = pods
        self._out = out
        self._say = say

    async def begin(self, within_s: float) -> int:
        """Run it and bring back its logs; the exit code. Raises BenchError."""
        await self._refuse_another()
        deployed = await self._kube.get(DEPLOYMENTS, GENERATOR, GENERATOR)
        for stage in stages(manifests(self._folder, self._run, self._pods, deployed)):
            for obj in stage:
                await apply(self._kube, obj)
        try:
            return await self._to_its_end(within_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise

    async def again(self, within_s: float) -> int:
        """The exit code of a run that was begun before; -1 when there is no trace of it. Raises BenchError."""
        job = await self._kube.find(JOBS, GENERATOR, SHARDS)
        if job is None or _run_of(job) != self._run.run_id:
            return -1
        try:
            code = await self._to_its_end(within_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise
        return code if code in COMPLETE_RUN else -1

    async def _to_its_end(self, within_s: float) -> int:
        try:
            own = await self._places(within_s)
            await self._start(own)
        except BenchError:
            await self._end()
            raise
        outcomes = await asyncio.gather(*(self._follow(place) for place in own), return_exceptions=True)
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        if failures:
            await self._end()
            raise failures[0]
        ends = [each for each in outcomes if isinstance(each, Ended)]
        for place, ended in zip(own, ends, strict=True):
            await logs.fetch(place, LOGS, [glob.escape(name) for name in ended.logs], self._out)
        for place in own:
            await place.ask("put", path=FETCHED, text="fetched\n")
        await delete_and_wait(self._kube, JOBS, GENERATOR, SHARDS, timeout_s=within_s)
        return max(ended.code for ended in ends)

    async def _refuse_another(self) -> None:
        job = await self._kube.find(JOBS, GENERATOR, SHARDS)
        if job is None:
            return
        if await locations.running(self._kube, SHARDS, GENERATOR_LABELS, GENERATOR):
            raise UsageError(
                f"the Job of another run, {_run_of(job)}, is in {SHARDS}, and its logs may be in its pods: "
                "`kn-bench extract-logs` fetches them, "
                f"`kubectl delete job {GENERATOR} -n {SHARDS}` ends it"
            )
        await delete_and_wait(self._kube, JOBS, GENERATOR, SHARDS)

    async def _places(self, within_s: float) -> list[Place]:
        """The pods, one of each index, as soon as all are ready."""
        seen: dict[Key, Object] = {}

        def all_ready(objects: dict[Key, Object]) -> bool:
            seen.clear()
            seen.update({key: obj for key, obj in objects.items() if "deletionTimestamp" not in obj["metadata"]})
            return sum(is_ready(pod) for pod in seen.values()) >= self._pods

        labels = GENERATOR_LABELS
        try:
            async with (
                asyncio.timeout(within_s),
                Reflector(self._kube, PODS, SHARDS, labels=labels) as reflector,
            ):
                await reflector.until(all_ready)
        except TimeoutError:
            there = "; ".join(f"{name_of(pod)} {locations.state_of(pod)}" for pod in seen.values()) or "there is none"
            raise WaitTimeout(f"{self._pods} pods are not ready in {SHARDS} after {within_s:g} s: {there}") from None
        pods = [locations.pod_of(pod, GENERATOR) for pod in seen.values() if is_ready(pod)]
        return [Place(self._kubectl, locations.always(pod)) for pod in sorted(pods, key=lambda pod: pod.name)]

    async def _start(self, own: list[Place]) -> None:
        """Tell all pods one moment; those that were told before keep it."""
        told = [await place.ask("clock", path=START_AT) for place in own]
        agreed = next((each["text"] for each in told if each["text"]), None)
        if agreed is None:
            moment = datetime.fromtimestamp(max(each["time"] for each in told) + _LEAD_S, UTC)
            agreed = f"{moment + timedelta(seconds=0.5 * len(own)):%Y-%m-%dT%H:%M:%SZ}\n"
        await asyncio.gather(*(place.ask("put", path=START_AT, text=agreed) for place in own))
        self._say(f"{len(own)} pods begin at {agreed.strip()}")

    async def _follow(self, place: Place) -> Ended:
        await place.ask("begun", within_s=_BEGIN_S, **self._run.asked)
        ended = await follow(place, self._run, self._say, cut=False)
        if ended is None:
            raise BenchError(f"the shard in {await place.find()} did not begin: kubectl logs says why")
        return ended

    async def _end(self) -> None:
        """The run is not wanted any more: end it everywhere, and the Job with it."""
        pods = await locations.running(self._kube, SHARDS, GENERATOR_LABELS, GENERATOR)
        stops = [
            Place(self._kubectl, locations.always(pod)).ask("stop", patience_s=_STOP_S, **self._run.asked)
            for pod in pods
        ]
        await asyncio.gather(*stops, return_exceptions=True)
        await self._kube.delete(JOBS, GENERATOR, SHARDS)


def _run_of(job: Object) -> Any:
    return (job["metadata"].get("annotations") or {}).get(RUN_ANNOTATION)
