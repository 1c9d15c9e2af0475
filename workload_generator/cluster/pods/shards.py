"""A run of several pods: the Indexed Job of `k8s/job`, whose pods start at the same moment.

Rules:
- the moment is set when all pods are ready, by the clock of a pod: the nodes' clocks agree, the local one may not
- a pod keeps its log until the file FETCHED exists; the Job is deleted when all logs are copied
- the Job of another run is not touched while its pods exist: its logs may be in them
"""

from __future__ import annotations

import asyncio
import copy
import glob
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.exit_codes import COMPLETE_RUN
from workload_generator.cluster.deploy.kustomize import render
from workload_generator.cluster.deploy.objects import apply, stages
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, PodRunEnd, RunSpec, Say, follow, stop
from workload_generator.cluster.pods.sessions import PodAgent
from workload_generator.kube.client import Kube
from workload_generator.kube.names import GENERATOR, RUN_ANNOTATION, SHARDS
from workload_generator.kube.reflector import delete_and_wait
from workload_generator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, JOBS, Object

EXPERIMENT = "experiment"
START_AT, FETCHED = "/tmp/start-at", "/tmp/fetched"
_TOLD = "told"
_LEAD_S = 5.0
_MOUNT = "/experiment"
_HOLD_S = 24 * 3600
_BEGIN_S = 60.0


def manifests(folder: Path, run: RunSpec, deployed: Object) -> list[Object]:
    """The objects of the Job's folder for this run, with the image and resources of the deployed generator.

    Raises UsageError.
    """
    objects = render(folder)
    flags = " ".join(run.flags)
    values = {"CONFIG": f"{_MOUNT}/{run.name}.yaml", "PREFIX": run.prefix, "RUN_ID": run.run_id, "FLAGS": flags}
    values |= {"START_AT": _TOLD, "HOLD_SECONDS": str(_HOLD_S)}
    theirs = deployed["spec"]["template"]["spec"]
    (job,) = (obj for obj in objects if obj["kind"] == JOBS.kind)
    for obj in objects:
        if obj["kind"] == CONFIG_MAPS.kind:
            obj["data"].update(values)
    job["metadata"].setdefault("annotations", {})[RUN_ANNOTATION] = run.run_id
    job["spec"].update(completions=run.pods, parallelism=run.pods, maxFailedIndexes=run.pods)
    ours = job["spec"]["template"]["spec"]
    for key in ("nodeSelector", "tolerations", "imagePullSecrets"):
        ours.pop(key, None)
        if key in theirs:
            ours[key] = copy.deepcopy(theirs[key])
    container = ours["containers"][0]
    container["image"] = theirs["containers"][0]["image"]
    for kind in ("requests", "limits"):
        own = theirs["containers"][0].get("resources", {}).get(kind, {})
        container["resources"][kind].update({key: own[key] for key in ("cpu", "memory") if key in own})
    next(each for each in container["env"] if each["name"] == "SHARDS")["value"] = str(run.pods)
    about = {"name": EXPERIMENT, "namespace": job["metadata"]["namespace"]}
    data = {f"{run.name}.yaml": run.experiment}
    return [*objects, {"apiVersion": "v1", "kind": CONFIG_MAPS.kind, "metadata": about, "data": data}]


class PodShards:
    """One run of several pods."""

    def __init__(self, kube: Kube, kubectl: Kubectl, folder: Path, run: RunSpec, out: Path, say: Say) -> None:
        self._kube = kube
        self._kubectl = kubectl
        self._folder = folder
        self._run = run
        self._out = out
        self._say = say

    async def begin(self, within_s: float) -> int:
        """Run it and copy its logs. Returns the exit code. Raises BenchError."""
        await self._refuse_another()
        deployed = await self._kube.get(DEPLOYMENTS, GENERATOR, GENERATOR)
        for stage in stages(manifests(self._folder, self._run, deployed)):
            for obj in stage:
                await apply(self._kube, obj)
        return await self._finish(within_s)

    async def resume(self, within_s: float) -> int:
        """The exit code of a run that was started before; -1 when the cluster has no trace of it. Raises BenchError."""
        job = await self._kube.find(JOBS, GENERATOR, SHARDS)
        if job is None or _run_of(job) != self._run.run_id:
            return -1
        code = await self._finish(within_s)
        return code if code in COMPLETE_RUN else -1

    async def _finish(self, within_s: float) -> int:
        """Wait for the end of the run and copy its logs. Ends the run when this is cancelled."""
        try:
            ends = await self._run_all(within_s)
            for agent, end in ends:
                await logs.fetch(agent, LOGS, [glob.escape(name) for name in end.logs], self._out)
            for agent, _ in ends:
                await agent.ask("put", path=FETCHED, text="fetched\n")
            await delete_and_wait(self._kube, JOBS, GENERATOR, SHARDS, timeout_s=within_s)
        except asyncio.CancelledError:
            await asyncio.shield(self._end())
            raise
        return max(end.code for _, end in ends)

    async def _run_all(self, within_s: float) -> list[tuple[PodAgent, PodRunEnd]]:
        """Start all pods and wait for their ends. Ends the run when one fails."""
        try:
            pods = await locations.ready_pods(self._kube, SHARDS, GENERATOR, within_s, count=self._run.pods)
            agents = [PodAgent(self._kubectl, locations.always(pod)) for pod in pods]
            await self._start(agents)
            return list(zip(agents, await asyncio.gather(*map(self._follow, agents)), strict=True))
        except BenchError:
            await self._end()
            raise

    async def _refuse_another(self) -> None:
        job = await self._kube.find(JOBS, GENERATOR, SHARDS)
        if job is not None and await locations.running(self._kube, SHARDS, GENERATOR):
            raise UsageError(
                f"{SHARDS} has the Job of another run, {_run_of(job)}, whose pods may have its logs: "
                "`kn-bench extract-logs` copies them, "
                f"`kubectl delete job {GENERATOR} -n {SHARDS}` deletes the Job"
            )
        await delete_and_wait(self._kube, JOBS, GENERATOR, SHARDS)

    async def _start(self, agents: list[PodAgent]) -> None:
        """Give all pods the same moment. Those that have one keep it."""
        clocks = [await agent.ask("clock", path=START_AT) for agent in agents]
        start = next((each["text"] for each in clocks if each["text"]), None)
        if start is None:
            moment = datetime.fromtimestamp(max(each["time"] for each in clocks) + _LEAD_S, UTC)
            start = f"{moment + timedelta(seconds=0.5 * len(agents)):%Y-%m-%dT%H:%M:%SZ}\n"
        await asyncio.gather(*(agent.ask("put", path=START_AT, text=start) for agent in agents))
        self._say(f"{len(agents)} pods start at {start.strip()}")

    async def _follow(self, agent: PodAgent) -> PodRunEnd:
        await agent.ask("wait", begun=True, within_s=_BEGIN_S, **self._run.request)
        end = await follow(agent, self._run, self._say, cut=False)
        if end is None:
            raise BenchError(f"the shard in {await agent.find()} did not start: see `kubectl logs`")
        return end

    async def _end(self) -> None:
        """End the run in every pod and delete the Job."""
        stops = [
            stop(PodAgent(self._kubectl, locations.always(pod)), self._run)
            for pod in await locations.running(self._kube, SHARDS, GENERATOR)
        ]
        await asyncio.gather(*stops, return_exceptions=True)
        await self._kube.delete(JOBS, GENERATOR, SHARDS)


def _run_of(job: Object) -> Any:
    return (job["metadata"].get("annotations") or {}).get(RUN_ANNOTATION)
