"""One recording: polls of usage and watches of functions, until it is stopped.

Rules:
- one list for each resource and tick, never one for each pod; what changes seldom is watched
- a source or watch that fails ends no other: its failure is a gap, and it is retried
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import KUBELET, METRICS
from workload_generator.cluster.top import usage
from workload_generator.cluster.top.polling import PollGate, SourcePoller
from workload_generator.cluster.top.row_recorder import METRICS_FIX, RowRecorder, now
from workload_generator.cluster.top.states import NodeObserver, PodObserver, StatusObserver
from workload_generator.cluster.top.storage import Storage
from workload_generator.cluster.top.usage import ClusterView, SampleHistory, Scope
from workload_generator.cluster.top.watching import Watch
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, Busy, Forbidden, NotFound, Unreachable
from workload_generator.kube.names import REVISION_LABEL
from workload_generator.kube.resources import Object

_AT_ONCE = 16  # kubelets
_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class RecordingPlan:
    """What to record, how often, and for how long from the first tick; None: until it is stopped."""

    period_s: float
    sources: tuple[str, ...] = (METRICS,)
    scope: Scope = Scope()
    duration_s: float | None = None


@dataclass(slots=True)
class Top:
    """One recording; `run` is all of it. `say` gets each message about missing data once."""

    kube: Kube
    plan: RecordingPlan
    storage: Storage
    say: Callable[[str], None]
    histories: dict[str, SampleHistory] = field(default_factory=dict)
    pollers: list[SourcePoller] = field(default_factory=list)
    recorder: RowRecorder = field(init=False)
    view: ClusterView = field(init=False)
    _kubelets: dict[str, PollGate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recorder = RowRecorder(self.storage, self.say)
        self.view = ClusterView(scope=self.plan.scope)

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set, and store everything. Raises BenchError when it cannot continue."""
        for source in self.plan.sources:
            self.histories[source] = SampleHistory(stored=self.storage.last_samples(source))
        self.pollers = list(self._make_pollers())
        try:
            async with asyncio.TaskGroup() as group:
                recording = group.create_task(self._record(stop))
                await stop.wait()
                recording.cancel()
        except ExceptionGroup as failed:
            raise _first(failed) from None
        finally:
            await self.recorder.close()

    async def _record(self, stop: asyncio.Event) -> None:
        await self._check_cluster()
        self.recorder.add_mark("began")
        watches = list(self._make_watches())
        try:
            async with asyncio.TaskGroup() as group:
                for watch in watches:
                    group.create_task(watch.run())
                group.create_task(self.recorder.flush(min(_FLUSH_S, self.plan.period_s)))
                for watch in watches:
                    await watch.has_started.wait()
                if self.plan.duration_s is not None:
                    asyncio.get_running_loop().call_later(self.plan.duration_s, stop.set)
                for poller in self.pollers:
                    group.create_task(poller.run())
        finally:
            self.recorder.add_mark("ended")

    def _make_watches(self) -> Iterable[Watch]:
        scope, recorder = self.plan.scope, self.recorder
        needs_all_pods = scope.pods and METRICS in self.plan.sources
        yield Watch(self.kube, recorder, kinds.NODES, "", NodeObserver(self.view.nodes), scope)
        for namespace in scope.namespaces or ("",):
            pods = PodObserver(self.view.pods, labels="" if needs_all_pods else REVISION_LABEL)
            yield Watch(self.kube, recorder, kinds.PODS, namespace, pods, scope)
            for resource in (kinds.REVISIONS, kinds.POD_AUTOSCALERS):
                yield Watch(self.kube, recorder, resource, namespace, StatusObserver(resource.kind), scope)

    def _make_pollers(self) -> Iterable[SourcePoller]:
        scope, period_s = self.plan.scope, self.plan.period_s
        if METRICS in self.plan.sources:
            for subject in ("nodes",) * scope.nodes + ("pods",) * scope.pods:
                yield SourcePoller(METRICS, subject, period_s, partial(self._poll_metrics, subject), self.recorder)
        if KUBELET in self.plan.sources:
            yield SourcePoller(KUBELET, "kubelets", period_s, self._poll_kubelets, self.recorder)

    async def _check_cluster(self) -> None:
        """Fail at once if there is no cluster or no metrics API. Raises BenchError."""
        await self.kube.version()
        if METRICS not in self.plan.sources:
            return
        try:
            await self.kube.raw(f"/apis/{kinds.POD_METRICS.api_version}")
        except ApiAbsent:
            raise BenchError(f"the cluster has no metrics API (metrics.k8s.io): {METRICS_FIX}") from None
        except Busy as error:
            self.recorder.say_once(f"the metrics API does not answer yet: {error}: {METRICS_FIX}", METRICS)

    async def _poll_metrics(self, subject: str) -> None:
        """The metrics of nodes or pods; a tick begins with that of the pods, if they are polled."""
        history, scope = self.histories[METRICS], self.plan.scope
        if subject == "pods" or not scope.pods:
            history.begin()
        resource = kinds.POD_METRICS if subject == "pods" else kinds.NODE_METRICS
        items: list[Object] = []
        for namespace in (scope.namespaces if resource.namespaced else ()) or ("",):
            items += (await self.kube.list(resource, namespace)).items
        await self.recorder.store(lambda: usage.read_metrics(items, self.view, history, now()), subject)

    async def _poll_kubelets(self) -> None:
        self.histories[KUBELET].begin()
        slots = asyncio.Semaphore(_AT_ONCE)
        for gone in self._kubelets.keys() - self.view.nodes.keys():
            del self._kubelets[gone]
        if not self.view.nodes:
            raise Unreachable("no node is known, so no kubelet can be polled")

        async def poll(node: str) -> None:
            async with slots:
                gate = self._kubelets.setdefault(node, PollGate(self.plan.period_s))
                reason = await gate.ask(partial(self._poll_kubelet, node))
                self.recorder.add_gap(KUBELET, f"node {node}", 1, reason)

        async with asyncio.TaskGroup() as group:
            for node in list(self.view.nodes):
                group.create_task(poll(node))

    async def _poll_kubelet(self, node: str) -> None:
        path = kinds.NODES.path(node, subresource="proxy") + "/stats/summary"
        try:
            body = await self.kube.raw(path, {"only_cpu_and_memory": "true"})
        except NotFound:
            if node in self.view.nodes:
                raise
            return  # deleted meanwhile
        except Forbidden as error:
            self.recorder.say_once(f"polling kubelets needs the right to get nodes/proxy: {error}", KUBELET)
            raise
        history = self.histories[KUBELET]
        await self.recorder.store(lambda: usage.read_summary(body, self.view, history, now()), f"node {node}")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
