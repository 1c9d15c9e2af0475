"""One service: the requests that come for it, and how many instances that takes.

Rules:
- every request that is admitted is sent to an instance, answered with a reason (502, 503, 504), or abandoned by its
  client; until then it counts as concurrency
- while the service has little spare capacity (`target-burst-capacity`), requests wait in one queue for a free
  instance, as in Knative's activator; otherwise they wait in front of the instance with the shortest queue, as in its
  queue-proxy
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.emulator.exchange import Exchange
from workload_generator.emulator.fleet import Fleet, House
from workload_generator.emulator.instance import HOST, Instance, State
from workload_generator.emulator.repeat import Repeat
from workload_generator.emulator.scaling import SAMPLE_NS, Autoscaler, Bounds, Decision, Meter
from workload_generator.emulator.settings import Faults, Settings
from workload_generator.emulator.upstream import Upstream
from workload_generator.functions.catalog import Function

_QUEUE_PER_SLOT = 10  # queue-proxy: pkg/queue/sharedmain, `QueueDepth: 10 * ContainerConcurrency`
_FILL_IN_ORDER = 3  # activator: up to this containerConcurrency the first that is free, else the least loaded
_MOST_RETRIES = 3


class Service:
    """State of one service; made by the first request for it, or by a file that keeps it warm."""

    def __init__(self, name: str, function: Function, settings: Settings, house: House) -> None:
        self.name = name
        self.function = function
        self.settings = settings
        self.faults = settings.faults
        self.fleet = Fleet(name, function, settings, house, self)
        self._draw = house.draw
        self._loop = asyncio.get_running_loop()
        self._autoscaler = Autoscaler(settings)
        self._bounds = Bounds(settings)
        self._meter = Meter(monotonic_ns())
        self._decision: Decision | None = None
        self._born = False
        self._active: dict[Exchange, Instance | None] = {}  # in the order of arrival; None while it waits
        self._queue: OrderedDict[Exchange, None] = OrderedDict()
        self._connecting: set[asyncio.Task[None]] = set()  # the loop itself forgets tasks
        self._closed: str | None = None
        self._counts = dict.fromkeys(("requests", "answered", "refused", "abandoned"), 0)
        self._sampling = Repeat(self._loop, SAMPLE_NS, self._sample)
        self._ticking = Repeat(self._loop, settings.tick_interval_ns, self._tick)
        self._killing: Repeat | None = None
        self.set_faults(settings.faults)
        if settings.min_scale:
            self._wake("min-scale")

    # Requests

    def admit(self, exchange: Exchange) -> None:
        """Take a request. A fault may be in its way."""
        now_ns = monotonic_ns()
        exchange.service = self
        self._active[exchange] = None
        self._meter.add(1, now_ns)
        self._counts["requests"] += 1
        exchange.held = not self.fleet.ready
        faults = self.faults
        if faults.reset_rate and self._draw.random() < faults.reset_rate:
            self._counts["refused"] += 1
            self._over(exchange)
            exchange.sink.reset()
        elif faults.error_rate and self._draw.random() < faults.error_rate:
            self._refuse(exchange, faults.error_status, f"an error of {self.name} by request (error-rate)")
        elif faults.latency_ns:
            self._loop.call_later(faults.latency_ns / NS_PER_S, self._place, exchange)
        else:
            self._place(exchange)

    def again(self, exchange: Exchange) -> None:
        """Its instance had closed the connection before the request came: place it once more."""
        instance, self._active[exchange] = self._active[exchange], None
        assert instance is not None
        instance.close_idle()  # they were opened before it: the instance has closed them too
        self._free(exchange, instance)
        self._place(exchange)

    def served(self, exchange: Exchange) -> None:
        """Its response is whole."""
        instance = self._active[exchange]
        assert instance is not None
        instance.served += 1
        self.fleet.answered()
        self._counts["answered"] += 1
        self._over(exchange)

    def left(self, exchange: Exchange) -> None:
        """Its instance will not answer any more."""
        self._counts["refused"] += 1
        self._over(exchange)

    def abandoned(self, exchange: Exchange) -> None:
        """Its client is gone."""
        if exchange not in self._active:
            return
        self._counts["abandoned"] += 1
        if exchange.upstream is not None:
            exchange.upstream.close()
            exchange.upstream = None
        self._over(exchange)

    def _place(self, exchange: Exchange) -> None:
        """Send it to an instance, or let it wait for one, or say why not."""
        if exchange not in self._active:
            return  # abandoned while it was delayed
        if self._closed is not None:
            self._refuse(exchange, 503, self._closed)
            return
        instance = self._free_instance()
        if instance is not None:
            self._send(exchange, instance)
            return
        if not self.fleet.living and (why_not := self.fleet.why_not):
            self._refuse(exchange, 504, why_not)
            return
        if self.fleet.ready and self._decision is not None and self._decision.excess_burst >= 0:
            self._wait_in_front(exchange)
            return
        if len(self._queue) >= self.settings.queue_limit:
            self._refuse(exchange, 503, f"{len(self._queue):,} requests wait for {self.name} already (queue-limit)")
            return
        exchange.queue = self._queue
        self._queue[exchange] = None
        if not self.fleet.living:
            self._wake("a request came")

    def _wait_in_front(self, exchange: Exchange) -> None:
        instance = min(self.fleet.ready, key=lambda each: len(each.queue))
        depth = _QUEUE_PER_SLOT * self.settings.container_concurrency
        if len(instance.queue) >= depth:
            reason = f"{depth:,} requests wait for each instance of {self.name} already (10 × containerConcurrency)"
            self._refuse(exchange, 503, reason)
        else:
            exchange.queue = instance.queue
            instance.queue[exchange] = None

    def _free_instance(self) -> Instance | None:
        """The ready instance that the next request goes to, if one may have it."""
        limit, ready = self.settings.container_concurrency, self.fleet.ready
        best: Instance | None = None
        for instance in ready:
            if limit and instance.in_flight >= limit:
                continue
            if limit and limit <= _FILL_IN_ORDER:
                return instance
            if best is None or instance.in_flight < best.in_flight:
                best = instance
        if best is not None and len(ready) > 1:  # the next of equals is another
            ready.remove(best)
            ready.append(best)
        return best

    def _send(self, exchange: Exchange, instance: Instance) -> None:
        self._active[exchange] = instance
        exchange.started_ns = self.fleet.up_ns
        instance.in_flight += 1
        upstream = instance.idle_connection()
        if upstream is not None:
            upstream.send(exchange)
        else:
            connecting = self._loop.create_task(self._connect(exchange, instance))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, exchange: Exchange, instance: Instance) -> None:
        try:
            _, upstream = await self._loop.create_connection(lambda: Upstream(instance), HOST, instance.port)
        except OSError as error:
            if self._active.get(exchange) is not instance:
                return
            exchange.retries += 1
            if isinstance(error, ConnectionError):
                self.fleet.drain(instance)  # it takes no connections: another will
                if exchange.retries <= _MOST_RETRIES:
                    self.again(exchange)
                    return
            self._refuse(exchange, 502, f"no connection to instance {instance.name}: {error.strerror or error}")
            return
        if self._active.get(exchange) is instance:
            upstream.send(exchange)
        else:  # abandoned meanwhile
            upstream.close()

    def _free(self, exchange: Exchange, instance: Instance | None) -> None:
        """It does not occupy an instance or a place in a queue any more."""
        if exchange.queue is not None:
            exchange.queue.pop(exchange, None)
            exchange.queue = None
        elif instance is not None:
            instance.in_flight -= 1
            self.on_place(instance)

    def _over(self, exchange: Exchange) -> None:
        instance = self._active.pop(exchange)
        self._meter.add(-1, monotonic_ns())
        self._free(exchange, instance)

    def _refuse(self, exchange: Exchange, status: int, reason: str) -> None:
        self._counts["refused"] += 1
        self._over(exchange)
        exchange.sink.respond(exchange, status, reason)

    # Instances

    def on_place(self, instance: Instance) -> None:
        """The instance can have (more) requests."""
        if instance.state is State.DRAINING:
            if not instance.in_flight:
                instance.stop()
            return
        limit = self.settings.container_concurrency
        while instance in self.fleet.ready and not (limit and instance.in_flight >= limit):
            queue = instance.queue or self._queue
            if not queue:
                return
            exchange, _ = queue.popitem(last=False)
            exchange.queue = None
            self._send(exchange, instance)

    def on_withdrawn(self, instance: Instance) -> None:
        """It gets no more: what waits in front of it is placed anew."""
        waiting = list(instance.queue)
        instance.queue.clear()
        for exchange in waiting:
            exchange.queue = None
            self._place(exchange)

    def on_lost(self) -> None:
        """An instance is gone. Who waits for it is told, when there is none and none can be started."""
        fleet = self.fleet
        if not fleet.living and fleet.why_not:
            for exchange in list(self._queue):
                self._refuse(exchange, 504, fleet.why_not)
            if not self.settings.min_scale or fleet.failed:
                fleet.desired = 0  # the next request tries again, when the time has come
        elif self._queue and not fleet.living:
            self._wake("requests wait")
        else:
            self._scale_to(fleet.desired, "an instance ended")

    def _wake(self, why: str) -> None:
        """There is no instance, and there has to be one."""
        scale = self._bounds.on_request if self._born else self._bounds.at_birth
        self._born = True
        self._scale_to(max(scale, self.fleet.desired), why)

    def _scale_to(self, desired: int, why: str) -> None:
        self.fleet.scale_to(desired, why, self.faults.slow_start_ns)

    # Time

    def _sample(self) -> None:
        now_ns = monotonic_ns()
        concurrency = self._meter.take(now_ns)
        if self.fleet.instances or concurrency:
            self._autoscaler.record(concurrency)
        else:
            self._autoscaler.forget()
            self._decision = None
        self._expire(now_ns)

    def _tick(self) -> None:
        now_ns = monotonic_ns()
        ready, living = len(self.fleet.ready), len(self.fleet.living)
        self._decision = decision = self._autoscaler.decide(now_ns, ready)
        if self.fleet.failed:
            return
        if decision is None:
            self._scale_to(max(self.fleet.desired, self.settings.min_scale), "min-scale")
            return
        scale = self._bounds.apply(now_ns, decision.desired, ready, living - ready)
        averages = f"concurrency {decision.stable:.2f}, of late {decision.panic:.2f}"
        mode = "panic" if decision.panicking else "stable"
        self._scale_to(scale, f"{averages}, target {self._autoscaler.target:g}, {mode} mode")

    def _expire(self, now_ns: int) -> None:
        """Answer for functions that do not (`timeoutSeconds`)."""
        limit_ns = self.settings.timeout_seconds * NS_PER_S
        late = []
        for exchange in self._active:  # in the order of their arrival
            if now_ns - exchange.arrived_ns < limit_ns:
                break
            late.append(exchange)
        for exchange in late:
            upstream, exchange.upstream = exchange.upstream, None
            if upstream is not None:
                responding = upstream.responding
                upstream.close()
                if responding:
                    self.left(exchange)
                    upstream.cut(exchange)
                    continue
            self._refuse(
                exchange, 504, f"{self.name} has not answered within {self.settings.timeout_seconds} s (timeoutSeconds)"
            )

    # Faults

    def set_faults(self, faults: Faults) -> None:
        """What goes wrong from now on."""
        self.faults = faults
        if self._killing is not None:
            self._killing.stop()
            self._killing = None
        if faults.kill_every_ns is not None:
            self._killing = Repeat(self._loop, faults.kill_every_ns, self.fleet.kill_one)

    # The end

    def close(self, reason: str) -> None:
        """No more requests, no more instances: what waits is refused, what runs goes on until `end`."""
        self._closed = reason
        self.fleet.close()
        for repeat in (self._sampling, self._ticking, self._killing):
            if repeat is not None:
                repeat.stop()
        for exchange in [exchange for exchange, instance in self._active.items() if instance is None]:
            self._refuse(exchange, 503, reason)

    def drain(self) -> None:
        """Stop every instance when it has answered what it has."""
        for instance in list(self.fleet.instances):
            self.fleet.drain(instance)

    def end(self) -> None:
        """End every instance at once."""
        for instance in list(self.fleet.instances):
            instance.end()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._active)

    # What it looks like

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it."""
        decision = self._decision
        return {
            "function": self.function.name,
            **self.fleet.to_json(),
            "in_flight": len(self._active),
            "queued": len(self._queue) + sum(len(instance.queue) for instance in self.fleet.instances),
            "counts": dict(self._counts),
            "autoscaler": {
                "target": self._autoscaler.target,
                "stable_concurrency": None if decision is None else round(decision.stable, 3),
                "panic_concurrency": None if decision is None else round(decision.panic, 3),
                "panicking": decision is not None and decision.panicking,
                "excess_burst_capacity": None if decision is None else decision.excess_burst,
            },
            "settings": self.settings.resolved(),
            "faults": faults_json(self.faults),
            "instances": [instance.to_json() for instance in self.fleet.instances],
        }


def faults_json(faults: Faults) -> dict[str, Any]:
    """Faults under the file's keys."""
    return faults.to_json()
