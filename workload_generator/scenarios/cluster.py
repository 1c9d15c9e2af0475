"""A cluster with Knative as the platform of a scenario."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from workload_generator.base.errors import UsageError
from workload_generator.cluster.deploy.objects import wait_ready
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, PodRun, PodRunEnd, RunLost, begin, follow
from workload_generator.cluster.pods.sessions import PodAgent
from workload_generator.cluster.pods.shards import Shards
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.scenarios import changes as foundations
from workload_generator.scenarios import eventing_setup
from workload_generator.scenarios.changes import CHANGES_KEY, EVENTING_KEY, ChangeOwner
from workload_generator.scenarios.conditions import until_drained, until_zero
from workload_generator.scenarios.model import RunMode, Scenario, WaitCondition
from workload_generator.scenarios.runner import CellSetup, GeneratorRun

T = TypeVar("T")
_RECEIPTS = "/data"
_API_PATIENCE_S = 60.0  # an API server that is restarted ends no scenario
_QUIET_S = 15.0
"""Nothing was delivered for so long: what is missing will not come. Deliveries are retried within seconds."""


class ClusterPlatform:
    """Each verb connects anew, so that nothing of one that was interrupted is in the next one's way."""

    name = "cluster"

    def __init__(
        self,
        scenario: Scenario,
        logs: Path,
        manifests: Path,
        say: Callable[[str], None],
        kubeconfig: Path | None = None,
        context: str | None = None,
        delete: bool = False,
    ) -> None:
        """With `delete` the pod's logs go when their copies are checked.

        Raises UsageError when there is no kubectl, or when the scenario cannot be run in a cluster."""
        if scenario.mode is RunMode.EVENT and scenario.pods > 1:
            raise UsageError("pods: a ContainerSource is one pod; use processes")
        self._scenario = scenario
        self._logs = logs
        self._manifests = manifests
        self._say = say
        self._kubeconfig = kubeconfig
        self._context = context
        self._delete = delete
        self._kubectl = Kubectl(kubeconfig, context)
        self._kubectl.check()
        self._within_s = scenario.wait_at_most_ns / 1e9
        self._owner = ChangeOwner.here(scenario.scenario)
        self._sent: tuple[str, int] | None = None  # the last event run: its id, and the receipts that its events make

    def _call(self, work: Callable[[Kube], Awaitable[T]], told: Callable[[str], None] | None = None) -> T:
        async def connected() -> T:
            async with await Kube.connect(self._kubeconfig, self._context, patience_s=_API_PATIENCE_S) as kube:
                return await work(kube)

        return run_to_end(connected(), told)

    # What is changed, and put back

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """The values that will be changed, as they are; what a killed scenario of this machine left is put back."""

        async def work(kube: Kube) -> dict[str, Any]:
            left = await foundations.find_recorded(kube)
            foundations.refuse_other_owners(left, scenario.scenario)
            if left:
                self._say(f"a scenario that was killed has left this behind: {'; '.join(map(str, left))}")
                await self._put_back(kube, foundations.merge_changes(left))
            found: dict[str, Any] = {}
            changes = await foundations.plan(kube, scenario)
            if changes:
                found[CHANGES_KEY] = [change.to_json() for change in changes]
            if scenario.mode is RunMode.EVENT:
                found[EVENTING_KEY] = await eventing_setup.read(kube)
            else:
                await eventing_setup.refuse_source(kube)
            return found

        return self._call(work)

    def left_behind(self) -> dict[str, Any]:
        """What the cluster itself says is to be put back, whoever changed it; empty when nothing is."""

        async def work(kube: Kube) -> dict[str, Any]:
            left = await foundations.find_recorded(kube)
            for each in left:
                self._say(f"to be put back: {each}")
            return foundations.merge_changes(left)

        return self._call(work)

    def patch(self, scenario: Scenario) -> None:
        """What is so already is left alone; an annotation that is there already too: it has what was found first."""

        async def work(kube: Kube) -> None:
            left = await foundations.find_recorded(kube)
            foundations.refuse_other_owners(left, scenario.scenario)
            await foundations.take_over(kube, left, self._owner)
            await self._change(kube)
            if scenario.mode is RunMode.EVENT:
                await self._stage(kube).mark(await eventing_setup.read(kube))

        self._call(work)

    async def _change(self, kube: Kube) -> None:
        changes = await foundations.plan(kube, self._scenario)
        if changes:
            await foundations.make(kube, changes, self._owner, await foundations.find_recorded(kube))

    def restore(self, found: Mapping[str, Any]) -> None:
        """All that can be, even when something fails."""
        self._call(
            lambda kube: self._put_back(kube, found),
            lambda name: self._say(f"{name}: what was changed is put back first; once more, and it is not"),
        )

    async def _put_back(self, kube: Kube, found: Mapping[str, Any]) -> None:
        try:
            await foundations.restore(kube, foundations.changes_of(found), self._say)
        finally:
            if EVENTING_KEY in found:
                await eventing_setup.restore(kube, found[EVENTING_KEY], self._within_s, self._say)

    # What is there for a cell

    def deploy(self, deployment: CellSetup) -> None:
        """Services are changed where somebody has changed them since; eventing is set up."""

        async def work(kube: Kube) -> None:
            await self._change(kube)
            if deployment.event:
                await self._stage(kube).set_up(deployment.triggers, deployment.parallelism)

        self._call(work)

    def _stage(self, kube: Kube) -> eventing_setup.EventingSetup:
        return eventing_setup.EventingSetup(kube, self._manifests, self._owner, self._within_s, self._say)

    def wait(self, condition: WaitCondition, deployment: CellSetup) -> None:
        """Until it holds. Zero is that of all services of the scenario: the other cells' take CPU as well."""
        services = list(
            dict.fromkeys(each for cell in self._scenario.cells() for each in self._scenario.services_of(cell))
        )

        async def work(kube: Kube) -> None:
            match condition:
                case WaitCondition.READY:
                    objects = await foundations.services_of(kube, deployment.services)
                    await wait_ready(kube, objects, self._within_s, lambda _obj, _why: None)
                case WaitCondition.DRAINED if deployment.event:
                    await self._until_delivered(kube)
                case WaitCondition.DRAINED:
                    await until_drained(kube, services, self._within_s)
                case WaitCondition.ZERO:
                    await until_zero(kube, services, self._within_s)

        self._call(work)

    async def _until_delivered(self, kube: Kube) -> None:
        """Every event has its receipts, or no more come; and they are here."""
        if self._sent is None:
            return
        run_id, expected = self._sent
        agent = PodAgent(self._kubectl, lambda: locations.logger(kube, self._within_s))
        asked: dict[str, Any] = {"folder": _RECEIPTS, "expected": expected, "quiet_s": _QUIET_S}
        try:
            async with asyncio.timeout(self._within_s):
                answer = await agent.ask("drained", run_id=run_id, **asked)
        except TimeoutError:
            raise WaitTimeout(f"events are still delivered after {self._within_s:g} s") from None
        if answer["receipts"] < expected:
            self._say(
                f"[yellow]{answer['receipts']} of {expected} deliveries came, and none for {_QUIET_S:g} s[/]: "
                "the account of events says which are missing"
            )
        await logs.fetch(agent, _RECEIPTS, logs.RECEIPT_FILES, self._logs)
        self._sent = None

    # Runs

    def run(self, job: GeneratorRun, again: bool) -> int:
        """In the generator's pod, or in a Job of several."""
        run = PodRun(job.run_id, job.name, job.prefix, job.experiment, job.flags, self._scenario.processes)

        async def work(kube: Kube) -> int:
            if job.pods == 1:
                return await self._run_in_pod(kube, run, job.event, again)
            shards = Shards(kube, self._kubectl, self._manifests / "job", run, job.pods, self._logs, self._say)
            return await (shards.resume if again else shards.begin)(self._within_s)

        return self._call(work)

    async def _run_in_pod(self, kube: Kube, run: PodRun, event: bool, again: bool) -> int:
        agent = PodAgent(self._kubectl, lambda: locations.generator(kube, event=event, within_s=self._within_s))
        end = await (self._resume(agent, run) if again else begin(agent, run, self._say))
        if end is None:
            return -1
        copies = await logs.fetch(agent, LOGS, [glob.escape(name) for name in end.logs], self._logs)
        if self._delete:
            for name, why in (await logs.delete(agent, LOGS, self._logs, copies)).items():
                self._say(f"[yellow]kept[/] {name} in the pod: {why}")
        if event:
            ok = sum(phase["ok"] for each in end.trailers for phase in _phases(each))
            self._sent = run.run_id, ok * await eventing_setup.count_triggers(kube)
        return end.code

    async def _resume(self, agent: PodAgent, run: PodRun) -> PodRunEnd | None:
        """The end of a run that was started before, if it is complete. Renames its logs if it is not."""
        try:
            end = await follow(agent, run, self._say)
        except RunLost as lost:
            self._say(f"{lost}; it is run again")
            return None
        if end is not None and not end.is_complete:
            await agent.ask("aside", **run.request)
            self._say(f"{run.prefix} ({run.run_id}) was interrupted; it is run again")
            return None
        return end


def _phases(trailer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in (trailer["counts"] or {}).values() if isinstance(value, dict)]
