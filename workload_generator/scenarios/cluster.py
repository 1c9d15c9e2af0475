"""A cluster with Knative as the platform of a scenario."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import COMPLETE_RUN
from workload_generator.cluster.deploy.objects import wait_ready
from workload_generator.cluster.deploy.subscribers import refuse_dead_subscribers
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.paths import ENVIRONMENT, recorded
from workload_generator.cluster.pods import locations, logs
from workload_generator.cluster.pods.pod_run import LOGS, PodRunEnd, RunLost, RunSpec, begin, follow
from workload_generator.cluster.pods.sessions import PodAgent
from workload_generator.cluster.pods.shards import PodShards
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.scenarios import changes, eventing_setup
from workload_generator.scenarios.changes import CHANGES_KEY, EVENTING_KEY, ChangeOwner
from workload_generator.scenarios.conditions import until_drained, until_zero
from workload_generator.scenarios.model import RunMode, Scenario, WaitCondition
from workload_generator.scenarios.runner import CellSetup, Say

T = TypeVar("T")
_API_PATIENCE_S = 60.0  # a restart of the API server does not end a scenario
_QUIET_S = 15.0
"""After so long without a delivery, missing events are lost: brokers retry within seconds."""


class ClusterPlatform:
    """Each method has its own connection, so that an interrupted one cannot disturb the next."""

    name = "cluster"

    def __init__(
        self,
        scenario: Scenario,
        logs: Path,
        manifests: Path,
        say: Say,
        kubectl: Kubectl,
        delete: bool = False,
    ) -> None:
        """With `delete`, logs in the pod are deleted when their copies are verified.

        Raises UsageError when there is no kubectl, or when the scenario cannot run in a cluster."""
        if scenario.mode is RunMode.EVENT and scenario.pods > 1:
            raise UsageError("pods: a ContainerSource is one pod; use processes")
        self._scenario = scenario
        self._logs = logs
        self._manifests = manifests
        self._say = say
        self._kubectl = kubectl
        self._kubectl.check()
        self._delete = delete
        self._within_s = scenario.wait_at_most_ns / 1e9
        self._owner = ChangeOwner.here(scenario.scenario)
        self._sent: tuple[str, int] | None = None  # the last event run: its id and the number of receipts to expect

    def _call(self, work: Callable[[Kube], Awaitable[T]], on_signal: Say | None = None) -> T:
        async def connected() -> T:
            kubectl = self._kubectl
            async with await Kube.connect(kubectl.kubeconfig, kubectl.context, patience_s=_API_PATIENCE_S) as kube:
                return await work(kube)

        return run_to_end(connected(), on_signal)

    # Changes

    def read(self, scenario: Scenario) -> dict[str, Any]:
        """The values that will be changed. Restores first what a killed scenario of this machine has changed."""

        async def work(kube: Kube) -> dict[str, Any]:
            recorded = await changes.find_recorded(kube)
            changes.refuse_other_owners(recorded, scenario.scenario)
            if recorded:
                self._say(f"restoring what a killed scenario has changed: {'; '.join(map(str, recorded))}")
                await self._restore(kube, changes.merge_changes(recorded))
            found: dict[str, Any] = {}
            planned = await changes.plan(kube, scenario)
            if planned:
                found[CHANGES_KEY] = [change.to_json() for change in planned]
            if scenario.mode is RunMode.EVENT:
                found[EVENTING_KEY] = await eventing_setup.read(kube)
                if scenario.parallelism:
                    await eventing_setup.refuse_parallelism(kube)
            else:
                await eventing_setup.refuse_source(kube)
            return found

        return self._call(work)

    def left_behind(self) -> dict[str, Any]:
        """The values to restore according to the cluster's annotations, of any owner; empty when there are none."""

        async def work(kube: Kube) -> dict[str, Any]:
            recorded = await changes.find_recorded(kube)
            for each in recorded:
                self._say(f"to restore: {each}")
            return changes.merge_changes(recorded)

        return self._call(work)

    def patch(self, scenario: Scenario) -> None:
        """Make the changes that are not made yet. An annotation that exists is kept: it has the first values."""

        async def work(kube: Kube) -> None:
            recorded = await changes.find_recorded(kube)
            changes.refuse_other_owners(recorded, scenario.scenario)
            await changes.take_over(kube, recorded, self._owner)
            await changes.make(kube, await changes.plan(kube, scenario), self._owner)
            if scenario.mode is RunMode.EVENT:
                await self._eventing(kube).record(await eventing_setup.read(kube))

        self._call(work)

    def restore(self, found: Mapping[str, Any]) -> None:
        """Restore as much as possible, also when something fails. A first signal does not interrupt it."""
        self._call(
            lambda kube: self._restore(kube, found),
            lambda name: self._say(f"{name}: restoring the cluster first; a second {name} interrupts that"),
        )

    async def _restore(self, kube: Kube, found: Mapping[str, Any]) -> None:
        try:
            await changes.restore(kube, changes.changes_of(found), self._say)
        finally:
            if EVENTING_KEY in found:
                await eventing_setup.restore(kube, found[EVENTING_KEY], self._within_s, self._say)

    # The set-up of a cell

    def deploy(self, setup: CellSetup) -> None:
        """Repeat changes that somebody has undone since, and set eventing up."""

        async def work(kube: Kube) -> None:
            await changes.make(kube, await changes.plan(kube, self._scenario), self._owner)
            if setup.event:
                await self._eventing(kube).set_up(setup.triggers, setup.parallelism)

        self._call(work)

    def _eventing(self, kube: Kube) -> eventing_setup.EventingSetup:
        return eventing_setup.EventingSetup(kube, self._manifests, self._owner, self._within_s, self._say)

    def wait(self, condition: WaitCondition, setup: CellSetup) -> None:
        """Wait until the condition holds; zero for all services of the scenario, since others' instances take CPU."""
        services = self._scenario.all_services()

        async def work(kube: Kube) -> None:
            match condition:
                case WaitCondition.READY:
                    await wait_ready(kube, await changes.services_of(kube, setup.services), self._within_s)
                case WaitCondition.DRAINED if setup.event:
                    await self._until_delivered(kube)
                case WaitCondition.DRAINED:
                    await until_drained(kube, services, self._within_s)
                case WaitCondition.ZERO:
                    await until_zero(kube, services, self._within_s)

        self._call(work)

    async def _until_delivered(self, kube: Kube) -> None:
        """Wait until every event has its receipts or no more arrive, and copy them."""
        if self._sent is None:
            return
        run_id, expected = self._sent
        agent = PodAgent(self._kubectl, lambda: locations.logger(kube, self._within_s))
        request: dict[str, Any] = {"folder": logs.RECEIPTS, "expected": expected, "quiet_s": _QUIET_S}
        try:
            async with asyncio.timeout(self._within_s):
                answer = await agent.ask("drained", run_id=run_id, **request)
        except TimeoutError:
            raise WaitTimeout(f"events are still being delivered after {self._within_s:g} s") from None
        if answer["receipts"] < expected:
            self._say(
                f"{answer['receipts']} of {expected} deliveries arrived, and none for {_QUIET_S:g} s: "
                "the report lists the missing ones"
            )
        await logs.fetch(agent, logs.RECEIPTS, logs.RECEIPT_FILES, self._logs)
        self._sent = None

    # Runs

    def run(self, run: RunSpec, again: bool) -> int:
        """Run in the generator's pod, or in a Job of several pods."""

        async def work(kube: Kube) -> int:
            file = self._logs / f"{self._scenario.scenario}_{ENVIRONMENT}"
            async with recorded(kube, self._scenario.all_services(), run.run_id, file):
                if run.pods == 1:
                    return await self._run_in_pod(kube, run, again)
                shards = PodShards(kube, self._kubectl, self._manifests / "job", run, self._logs, self._say)
                return await (shards.resume if again else shards.begin)(self._within_s)

        return self._call(work)

    async def _run_in_pod(self, kube: Kube, run: RunSpec, again: bool) -> int:
        event = self._scenario.mode is RunMode.EVENT
        if event and not again:
            await refuse_dead_subscribers(kube)
        agent = PodAgent(self._kubectl, lambda: locations.generator(kube, event=event, within_s=self._within_s))
        end = await (self._resume(agent, run) if again else begin(agent, run, self._say))
        if end is None:
            return -1
        copies = await logs.fetch(agent, LOGS, [glob.escape(name) for name in end.logs], self._logs)
        if self._delete:
            for name, why in (await logs.delete(agent, LOGS, self._logs, copies)).items():
                self._say(f"kept {name} in the pod: {why}")
        if event:
            phases = [phase for each in end.trailers for phase in (each["counts"] or {}).values()]
            ok = sum(phase["ok"] for phase in phases if isinstance(phase, dict))
            self._sent = run.run_id, ok * len(await eventing_setup.triggers_of(kube))
        return end.code

    async def _resume(self, agent: PodAgent, run: RunSpec) -> PodRunEnd | None:
        """The end of a run that was started before, if it is complete. Renames its logs if it is not."""
        try:
            end = await follow(agent, run, self._say)
        except RunLost as lost:
            self._say(f"{lost}; it is run again")
            return None
        if end is not None and end.code not in COMPLETE_RUN:
            await agent.ask("aside", **run.request)
            self._say(f"{run.prefix} ({run.run_id}) was interrupted; it is run again")
            return None
        return end
