"""One service: its instances, the requests that wait for them, and how many there should be.

Rules:
- every request that is admitted is sent to an instance, answered with a reason (502, 503, 504), or abandoned by its
  client; until then it counts as concurrency
- while the service has little spare capacity (`target-burst-capacity`), requests wait in one queue for a free
  instance, as in Knative's activator; otherwise they wait in front of the instance with the shortest queue, as in its
  queue-proxy
- an instance that ends is replaced when the scale asks for it; starts that fail are repeated at growing intervals, then
  not at all (`BACKOFF_S`)
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from workload_generator.catalog import Function
from workload_generator.clock import NS_PER_S, monotonic_ns
from workload_generator.local.exchange import Exchange
from workload_generator.local.instance import HOST, Instance, State
from workload_generator.local.journal import Journal
from workload_generator.local.repeat import Repeat
from workload_generator.local.scaling import SAMPLE_NS, Autoscaler, Bounds, Decision, Meter
from workload_generator.local.settings import Faults, Settings
from workload_generator.local.upstream import Upstream

BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""How long after each failed start in a row the next is tried. One more failure, and the service has failed."""

_QUEUE_PER_SLOT = 10  # queue-proxy: pkg/queue/sharedmain, `QueueDepth: 10 * ContainerConcurrency`
_FILL_IN_ORDER = 3  # activator: up to this containerConcurrency the first that is free, else the least loaded
_MOST_RETRIES = 3


@dataclass(frozen=True, slots=True)
class House:
    """What all services of a platform share."""

    journal: Journal
    spawner: Executor
    draw: random.Random
    room: Callable[[], int]
    """How many instances may still be started."""


class Service:
    """State of one service; made by the first request for it, or by a file that keeps it warm."""

    def __init__(self, name: str, function: Function, settings: Settings, house: House) -> None:
        now_ns = monotonic_ns()
        self.name = name
        self.function = function
        self.settings = settings
        self.faults = settings.faults
        self.instances: list[Instance] = []
        self.desired = 0
        self._house = house
        self._journal = house.journal
        self._loop = asyncio.get_running_loop()
        self._autoscaler = Autoscaler(settings)
        self._bounds = Bounds(settings)
        self._meter = Meter(now_ns)
        self._decision: Decision | None = None
        self._born = False
        self._ready: list[Instance] = []
        self._active: dict[Exchange, None] = {}
        self._queue: OrderedDict[Exchange, None] = OrderedDict()
        self._connecting: set[asyncio.Task[None]] = set()  # the loop itself forgets tasks
        self._up_ns = 0  # when there was an instance again, after there had been none
        self._made = 0
        self._failures = 0  # starts in a row that came to nothing
        self._failure: str | None = None
        self._retry_ns = 0
        self._capped = False
        self._closed = False
        self._counts = dict.fromkeys(("requests", "answered", "refused", "abandoned"), 0)
        self._sampling = Repeat(self._loop, SAMPLE_NS, self._sample)
        self._ticking = Repeat(self._loop, settings.tick_interval_ns, self._tick)
        self._killing: Repeat | None = None
        self.set_faults(settings.faults)
        if settings.min_scale:
            self._wake()

    @property
    def failed(self) -> bool:
        """Whether it is given up: it never became ready, however often it was started."""
        return self._failures > len(BACKOFF_S)

    # Requests

    def admit(self, exchange: Exchange) -> None:
        """Take a request. A fault may be in its way."""
        now_ns = monotonic_ns()
        exchange.service = self
        self._active[exchange] = None
        self._meter.add(1, now_ns)
        self._counts["requests"] += 1
        exchange.held = not self._ready
        faults = self.faults
        if faults.reset_rate and self._house.draw.random() < faults.reset_rate:
            self._counts["refused"] += 1
            self._over(exchange)
            exchange.sink.reset()
        elif faults.error_rate and self._house.draw.random() < faults.error_rate:
            self._refuse(exchange, faults.error_status, f"an error of {self.name} by request (error-rate)")
        elif faults.latency_ns:
            self._loop.call_later(faults.latency_ns / NS_PER_S, self._place, exchange)
        else:
            self._place(exchange)

    def again(self, exchange: Exchange) -> None:
        """Its instance had closed the connection before the request came: place it once more."""
        if exchange.instance is not None:
            exchange.instance.close_idle()  # the others are no better
        self._free(exchange)
        self._place(exchange)

    def served(self, exchange: Exchange) -> None:
        """Its response is whole."""
        assert exchange.instance is not None
        exchange.instance.served += 1
        self._failures, self._failure = 0, None
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
        if self._closed:
            self._refuse(exchange, 503, "the platform is stopping")
            return
        instance = self._free_instance()
        if instance is not None:
            self._send(exchange, instance)
            return
        if not self._living and (why_not := self._why_not()):
            self._refuse(exchange, 504, why_not)
            return
        if self._ready and self._spare_capacity and self._wait_in_front(exchange):
            return
        if len(self._queue) >= self.settings.queue_limit:
            self._refuse(exchange, 503, f"{len(self._queue):,} requests wait for {self.name} already (queue-limit)")
            return
        exchange.queue = self._queue
        self._queue[exchange] = None
        if not self._living:
            self._wake()

    @property
    def _spare_capacity(self) -> bool:
        return self._decision is not None and self._decision.excess_burst >= 0

    def _wait_in_front(self, exchange: Exchange) -> bool:
        """Whether there is no more to do: it waits for one instance, or was refused because all of them are full."""
        instance = min(self._ready, key=lambda each: len(each.queue))
        depth = _QUEUE_PER_SLOT * self.settings.container_concurrency
        if len(instance.queue) >= depth:
            reason = f"{depth:,} requests wait for each instance of {self.name} already (10 × containerConcurrency)"
            self._refuse(exchange, 503, reason)
            return True
        exchange.queue = instance.queue
        instance.queue[exchange] = None
        return True

    def _free_instance(self) -> Instance | None:
        """The ready instance that the next request goes to, if one may have it."""
        limit = self.settings.container_concurrency
        best: Instance | None = None
        for instance in self._ready:
            if limit and instance.in_flight >= limit:
                continue
            if limit and limit <= _FILL_IN_ORDER:
                return instance
            if best is None or instance.in_flight < best.in_flight:
                best = instance
        if best is not None and len(self._ready) > 1:  # the next of equals is another
            self._ready.remove(best)
            self._ready.append(best)
        return best

    def _send(self, exchange: Exchange, instance: Instance) -> None:
        exchange.instance = instance
        exchange.started_ns = self._up_ns
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
            if exchange not in self._active or exchange.instance is not instance:
                return
            exchange.retries += 1
            if exchange.retries <= _MOST_RETRIES and not self._closed:
                self._unready(instance)  # it takes no connections: its end will be noticed soon
                self.again(exchange)
            else:
                self._free(exchange)
                self._refuse(exchange, 502, f"instance {instance.name} takes no connection: {error.strerror or error}")
            return
        if exchange in self._active and exchange.instance is instance:
            upstream.send(exchange)
        else:  # abandoned meanwhile
            upstream.close()

    def _free(self, exchange: Exchange) -> None:
        """It does not occupy an instance or a place in a queue any more."""
        instance, exchange.instance = exchange.instance, None
        if exchange.queue is not None:
            exchange.queue.pop(exchange, None)
            exchange.queue = None
        elif instance is not None:
            instance.in_flight -= 1
            self._next(instance)

    def _over(self, exchange: Exchange) -> None:
        del self._active[exchange]
        self._meter.add(-1, monotonic_ns())
        self._free(exchange)

    def _next(self, instance: Instance) -> None:
        """A slot of the instance is free."""
        if instance.state is State.DRAINING:
            if not instance.in_flight:
                instance.stop()
            return
        limit = self.settings.container_concurrency
        while instance in self._ready and not (limit and instance.in_flight >= limit):
            queue = instance.queue or self._queue
            if not queue:
                return
            exchange, _ = queue.popitem(last=False)
            exchange.queue = None
            self._send(exchange, instance)

    def _refuse(self, exchange: Exchange, status: int, reason: str) -> None:
        self._counts["refused"] += 1
        self._over(exchange)
        exchange.sink.respond(exchange, status, reason)

    # Instances

    @property
    def _living(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.state in (State.STARTING, State.READY)]

    def _wake(self) -> None:
        """There is no instance, and somebody asks for one."""
        scale = self._bounds.on_request if self._born else self._bounds.at_birth
        self._born = True
        self._scale_to(max(scale, self.desired), "a request came")

    def _scale_to(self, desired: int, why: str) -> None:
        if desired != self.desired:
            self._journal.add("scale", self.name, message=f"{self.desired} to {desired}: {why}")
            self.desired = desired
        living = self._living
        for _ in range(desired - len(living)):
            if self._why_not() or not self._has_room():
                break
            self._start_one()
        if len(living) > desired:
            living.sort(key=lambda each: (each.state is State.READY, each.in_flight + len(each.queue), -each.number))
            for instance in living[: len(living) - desired]:
                self._drain(instance)

    def _has_room(self) -> bool:
        room = self._house.room() > 0
        if not room and not self._capped:
            self._journal.add(
                "capped", self.name, message="the platform has no room for more instances (--max-instances)"
            )
        self._capped = not room
        return room

    def _why_not(self) -> str:
        """Why no instance is started now, if none is."""
        if self.failed:
            return (
                f"{self.name} has failed: {self._failures} starts in a row came to nothing, the last because "
                f"{self._failure}; DELETE /_platform/services/{self.name} to try again"
            )
        left_ns = self._retry_ns - monotonic_ns()
        if self._failures and left_ns > 0:
            left = f"the next start is in {left_ns / NS_PER_S:.1f} s"
            return f"{self._failure}; {left} (failures in a row: {self._failures})"
        return ""

    def _start_one(self) -> None:
        self._made += 1
        name = f"{self.name}-00001-deployment-{self._house.draw.getrandbits(40):010x}-{self._made}"
        environment = {
            "K_SERVICE": self.name,
            "K_CONFIGURATION": self.name,
            "K_REVISION": f"{self.name}-00001",
            **self.settings.env,
            "HOSTNAME": name,
            "BIND": HOST,
        }
        instance = Instance(name, self._made, self.name, self.function, environment, self, self._journal)
        self.instances.append(instance)
        house, settings = self._house, self.settings
        instance.start(house.draw, house.spawner, settings.progress_deadline_ns, self.faults.slow_start_ns)

    def _drain(self, instance: Instance) -> None:
        self._unready(instance)
        instance.drain()

    def _unready(self, instance: Instance) -> None:
        """It gets no more requests; those that wait in front of it are placed anew."""
        if instance not in self._ready:
            return
        self._ready.remove(instance)
        instance.close_idle()
        waiting = list(instance.queue)
        instance.queue.clear()
        for exchange in waiting:
            exchange.queue = None
            self._place(exchange)

    def on_ready(self, instance: Instance) -> None:
        """It may have requests from now on."""
        if not self._ready:
            self._up_ns = monotonic_ns()
        self._ready.append(instance)
        self._next(instance)

    def on_gone(self, instance: Instance) -> None:
        """Its process has ended, or never began."""
        self._unready(instance)
        self.instances.remove(instance)
        if self._closed:
            return
        if instance.failure is not None and not instance.served:
            self._failures += 1
            self._failure = f"instance {instance.name} {instance.failure}"
            self._retry_ns = monotonic_ns()
            if self.failed:
                self._journal.add("failed", self.name, message=self._failure)
            else:
                self._retry_ns += round(BACKOFF_S[self._failures - 1] * NS_PER_S)
        if not self._living and self._why_not():
            waiting = list(self._queue)
            for exchange in waiting:
                self._refuse(exchange, 504, self._why_not())
            if not self.settings.min_scale or self.failed:
                self.desired = 0  # the next request tries again, when the time has come
        elif self._queue and not self._living:
            self._wake()
        else:
            self._scale_to(self.desired, "an instance ended")

    # Time

    def _sample(self) -> None:
        now_ns = monotonic_ns()
        concurrency = self._meter.take(now_ns)
        if self.instances or concurrency:
            self._autoscaler.record(concurrency)
        else:
            self._autoscaler.forget()
            self._decision = None
        self._expire(now_ns)

    def _tick(self) -> None:
        now_ns = monotonic_ns()
        ready, living = len(self._ready), len(self._living)
        self._decision = decision = self._autoscaler.decide(now_ns, ready)
        if self.failed:
            return
        if decision is None:
            self._scale_to(max(self.desired, self.settings.min_scale), "min-scale")
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
            self._killing = Repeat(self._loop, faults.kill_every_ns, self.kill_one)

    def kill_one(self) -> bool:
        """Kill a ready instance, drawn by lot. Whether there was one."""
        ready = [instance for instance in self._ready if not instance.killed]
        if not ready:
            return False
        self._house.draw.choice(ready).kill()
        return True

    # The end

    def close(self) -> None:
        """No more requests, no more instances: what waits is answered, what runs goes on until `end`."""
        self._closed = True
        for repeat in (self._sampling, self._ticking, self._killing):
            if repeat is not None:
                repeat.stop()
        for exchange in [exchange for exchange in self._active if exchange.instance is None]:
            self._refuse(exchange, 503, "the platform is stopping")

    def drain(self) -> None:
        """Stop every instance when it has answered what it has."""
        for instance in list(self.instances):
            self._drain(instance)

    def end(self) -> None:
        """End every instance at once."""
        for instance in list(self.instances):
            instance.end()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._active)

    # What it looks like

    @property
    def state(self) -> str:
        """One word."""
        if self.failed:
            return "failed"
        if self._ready:
            return "ready"
        if self._living:
            return "starting"
        return "backing-off" if self._why_not() else "zero"

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it."""
        decision = self._decision
        return {
            "function": self.function.name,
            "state": self.state,
            "desired": self.desired,
            "actual": len(self._living),
            "ready": len(self._ready),
            "in_flight": len(self._active),
            "queued": len(self._queue) + sum(len(instance.queue) for instance in self.instances),
            "counts": dict(self._counts),
            "failures_in_a_row": self._failures,
            "failure": self._failure,
            "autoscaler": {
                "target": self._autoscaler.target,
                "stable_concurrency": None if decision is None else round(decision.stable, 3),
                "panic_concurrency": None if decision is None else round(decision.panic, 3),
                "panicking": decision is not None and decision.panicking,
                "excess_burst_capacity": None if decision is None else decision.excess_burst,
            },
            "settings": self.settings.resolved(),
            "faults": faults_json(self.faults),
            "instances": [instance.to_json() for instance in self.instances],
        }


def faults_json(faults: Faults) -> dict[str, Any]:
    """Faults under the file's keys."""
    return faults.model_dump(mode="json", by_alias=True, exclude_none=True)
