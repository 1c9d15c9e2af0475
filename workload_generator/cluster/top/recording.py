"""What the cluster does, recorded until it is told to stop: polls of usage, and watches of functions.

Rules:
- everything of a tick is stored in one go, by one thread, so that neither a slow disk nor much to read holds up watches
- a list a resource and tick, never one a pod; what changes seldom is watched
- no source or watch ends another one: what fails is a gap, and is tried again
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import orjson

from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import KUBELET, METRICS, WATCH, Gap, Row
from workload_generator.cluster.top import usage
from workload_generator.cluster.top.following import Around, Watch, now
from workload_generator.cluster.top.polling import NOT_NOW, NextRequest, Poller
from workload_generator.cluster.top.storage import Storage
from workload_generator.cluster.top.usage import Reading, Seen
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, Busy, Forbidden, NotFound, Unauthorized, Unreachable
from workload_generator.kube.resources import (
    NODE_METRICS,
    NODES,
    POD_METRICS,
    Object,
)

METRICS_FIX = (
    "metrics-server is not installed or not ready: kubectl apply -f "
    "https://github.com/kubernetes-sigs/metrics-server/releases/latest/download/components.yaml "
    "(kOps: spec.metricsServer.enabled; kind: with --kubelet-insecure-tls), or use --source kubelet"
)
_AT_ONCE = 16  # kubelets
_AGAIN_S, _SOON_S = 30.0, 2.0  # until a watch is tried again that may not be, or that was interrupted
_FLUSH_S = 1.0
T = TypeVar("T")

_LASTING = (ApiAbsent, Forbidden, Unauthorized)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be recorded. No `namespaces` are all of them."""

    period_s: float
    sources: tuple[str, ...] = (METRICS,)
    nodes: bool = True
    pods: bool = True
    namespaces: tuple[str, ...] = ()
    ignored: frozenset[str] = frozenset()
    duration_s: float | None = None
    """Counted from the first tick; None is until it is told to stop."""


@dataclass(slots=True)
class Counts:
    """What was recorded so far."""

    nodes: int = 0
    pods: int = 0
    changes: int = 0
    gaps: int = 0
    last_gap: str = ""


@dataclass(slots=True)
class Top:
    """One recording. `run` is its whole life; `say` gets a line when something is not to be had, once."""

    kube: Kube
    plan: Plan
    storage: Storage
    say: Callable[[str], None]
    counts: Counts = field(default_factory=Counts)
    seen: dict[str, Seen] = field(default_factory=dict)
    pollers: list[Poller] = field(default_factory=list)
    around: Around = field(init=False)
    _pending: list[Row] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    _kubelets: dict[str, NextRequest] = field(default_factory=dict)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "storage"))

    def __post_init__(self) -> None:
        plan = self.plan
        only = not (plan.pods and METRICS in plan.sources)
        self.around = Around(self.kube, plan.namespaces, plan.ignored, only, self._record, self._missed, self._say_once)

    async def run(self, stop: asyncio.Event) -> None:
        """Record until `stop` is set; then everything is stored. Raises BenchError when it cannot go on."""
        for source in self.plan.sources:
            self.seen[source] = Seen(stored=self.storage.last_samples(source))
        self.pollers = list(self._make_pollers())
        if not await self._try_until(stop):
            return
        self._pending.append(Gap(now(), WATCH, "recording", 0, "began"))
        try:
            async with asyncio.TaskGroup() as group:
                watches = self.around.watches()
                tasks = [group.create_task(watch.keep()) for watch in watches]
                tasks += [group.create_task(self._poll(watches, stop)), group.create_task(self._flush())]
                await stop.wait()
                for task in tasks:
                    task.cancel()
        except ExceptionGroup as failed:
            raise _first(failed) from None
        finally:
            try:
                self._pending.append(Gap(now(), WATCH, "recording", 0, "ended"))
                await self._store([])
            finally:
                self._writer.shutdown()

    async def in_the_writer(self, function: Callable[[], T]) -> T:
        """Call it in the thread that reads and stores: what is `seen` changes only there."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, function)

    def _make_pollers(self) -> Iterable[Poller]:
        def make(source: str, subject: str, poll: Callable[[], Awaitable[None]]) -> Poller:
            return Poller(source, subject, self.plan.period_s, poll, self._missed, now)

        if METRICS in self.plan.sources and self.plan.nodes:
            yield make(METRICS, "nodes", self._poll_nodes)
        if METRICS in self.plan.sources and self.plan.pods:
            yield make(METRICS, "pods", self._poll_pods)
        if KUBELET in self.plan.sources:
            yield make(KUBELET, "kubelets", self._poll_kubelets)

    async def _try_until(self, stop: asyncio.Event) -> bool:
        """Whether it may begin; False when it is told to stop before there is an answer. Raises BenchError."""
        trying, stopped = asyncio.create_task(self._try()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({trying, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if trying.done():
                await trying
            return trying.done()
        finally:
            for task in (trying, stopped):
                task.cancel()
            await asyncio.gather(trying, stopped, return_exceptions=True)

    async def _try(self) -> None:
        """A clear word at once where there is no cluster, or no metrics API in it. Raises BenchError."""
        await self.kube.version()
        if METRICS not in self.plan.sources:
            return
        try:
            await self.kube.raw(f"/apis/{POD_METRICS.api_version}")
        except ApiAbsent:
            raise BenchError(f"the cluster has no metrics API (metrics.k8s.io): {METRICS_FIX}") from None
        except Busy as error:
            self._say_once(f"the metrics API does not answer yet: {error}: {METRICS_FIX}", METRICS)

    async def _poll(self, watches: list[Watch], stop: asyncio.Event) -> None:
        """Once what is known of nodes and pods is there, or is known not to be."""
        for watch in watches:
            await watch.began.wait()
        if self.plan.duration_s is not None:
            asyncio.get_running_loop().call_later(self.plan.duration_s, stop.set)
        async with asyncio.TaskGroup() as group:
            for poller in self.pollers:
                group.create_task(poller.run())

    # Polls

    async def _poll_nodes(self) -> None:
        seen = self.seen[METRICS]
        if not self.plan.pods:
            seen.begin()
        items = [item async for page in self.kube.pages(NODE_METRICS) for item in page.items]
        await self._take(lambda: usage.read_node_metrics(items, self.around.known(), seen, now()), METRICS, "nodes")

    async def _poll_pods(self) -> None:
        seen = self.seen[METRICS]
        seen.begin()
        items: list[Object] = []
        for namespace in self.plan.namespaces or ("",):
            async for page in self.kube.pages(POD_METRICS, namespace):
                items += page.items
        await self._take(lambda: usage.read_pod_metrics(items, self.around.known(), seen, now()), METRICS, "pods")

    async def _poll_kubelets(self) -> None:
        self.seen[KUBELET].begin()
        at_once = asyncio.Semaphore(_AT_ONCE)
        for gone in self._kubelets.keys() - self.around.nodes.keys():
            del self._kubelets[gone]
        if not self.around.nodes:
            raise Unreachable("no node is known, so no kubelet can be asked")

        async def ask(node: str) -> None:
            async with at_once:
                await self._poll_kubelet(node)

        async with asyncio.TaskGroup() as group:
            for node in list(self.around.nodes):
                group.create_task(ask(node))

    async def _poll_kubelet(self, node: str) -> None:
        """One node's; a failure of one is no failure of the tick."""
        clock = asyncio.get_running_loop().time
        backoff = self._kubelets.setdefault(node, NextRequest())
        if backoff.wait_s(clock()) > 0:
            self._missed(Gap(now(), KUBELET, f"node {node}", 1, f"not asked, after: {backoff.reason}"))
            return
        path = NODES.path(node, subresource="proxy") + "/stats/summary"
        try:
            body = await self.kube.raw(path, {"only_cpu_and_memory": "true"})
        except NOT_NOW as error:
            if isinstance(error, NotFound) and node not in self.around.nodes:
                return  # it has gone meanwhile
            if isinstance(error, Forbidden):
                self._say_once(f"kubelets may not be asked (get nodes/proxy is needed): {error}", KUBELET)
            backoff.fail(clock(), self.plan.period_s, error)
            self._missed(Gap(now(), KUBELET, f"node {node}", 1, backoff.reason))
            return
        backoff.succeed()
        await self._take(lambda: self._read_summary(body), KUBELET, f"node {node}")

    def _read_summary(self, body: bytes) -> Reading:
        try:
            summary = orjson.loads(body)
            if not isinstance(summary, dict):
                raise ValueError("no object")
            return usage.read_summary(
                summary, self.around.known(), self.seen[KUBELET], now(), nodes=self.plan.nodes, pods=self.plan.pods,
                namespaces=frozenset(self.plan.namespaces),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            return Reading(unreadable=[f"the summary is none: {error}"])

    async def _take(self, read: Callable[[], Reading], source: str, subject: str) -> None:
        """Read in the thread that stores, and store."""
        await self._store([], lambda: self._rows(read(), source, subject))

    def _rows(self, reading: Reading, source: str, subject: str) -> list[Row]:
        self.counts.nodes += len(reading.nodes)
        self.counts.pods += len(reading.pods)
        rows: list[Row] = [*reading.nodes, *reading.pods]
        if reading.unreadable:
            self.counts.gaps += 1
            reason = f"{len(reading.unreadable)} could not be read, the first: {reading.unreadable[0]}"
            rows.append(Gap(now(), source, subject, 0, reason))
        return rows

    # Storing

    def _record(self, rows: list[Row]) -> None:
        self.counts.changes += len(rows)
        self._pending += rows

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(min(_FLUSH_S, self.plan.period_s))
            if self._pending:
                await self._store([])

    async def _store(self, rows: list[Row], make: Callable[[], list[Row]] = list) -> None:
        """What is pending, `rows` and what `make` gives; once begun it is done, even when this is cancelled."""
        pending, self._pending = self._pending, []

        def write() -> None:
            everything = [*pending, *rows, *make()]
            if everything:
                self.storage.write(everything)

        done = asyncio.get_running_loop().run_in_executor(self._writer, write)
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await done
            raise

    def _missed(self, gap: Gap) -> None:
        self.counts.gaps += 1
        self.counts.last_gap = f"{gap.source} {gap.subject}: {gap.reason}"
        self._pending.append(gap)
        if gap.source == METRICS:
            fix = f": {METRICS_FIX}" if "(503 " in gap.reason or "(404 " in gap.reason else ""
            self._say_once(f"usage of {gap.subject} is missing: {gap.reason}{fix}", gap.source)

    def _say_once(self, text: str, about: str = "") -> None:
        if (about or text) not in self._said:
            self._said.add(about or text)
            self.say(text)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found
