"""One service: routes its requests to instances, and scales them.

Rules:
- an admitted request goes to an instance, gets an error (502, 503, 504), or is abandoned by its client; until then it
  counts as concurrency
- while the service has little spare capacity (`target-burst-capacity`), requests wait in one queue for a free
  instance, as in Knative's activator; otherwise they wait in front of the instance with the shortest queue, as in its
  queue-proxy
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.emulator.autoscaler import SAMPLE_NS, Autoscaler, Bounds, Decision, Meter
from workload_generator.emulator.fleet import Fleet
from workload_generator.emulator.instance import Instance, InstanceState, SharedResources
from workload_generator.emulator.instance_connection import InstanceConnection
from workload_generator.emulator.periodic_timer import PeriodicTimer
from workload_generator.emulator.ports import LOOPBACK
from workload_generator.emulator.proxied_request import ProxiedRequest
from workload_generator.emulator.settings import Faults, Settings
from workload_generator.functions.catalog import Function

_QUEUE_PER_SLOT = 10  # queue-proxy: pkg/queue/sharedmain, `QueueDepth: 10 * ContainerConcurrency`
_FILL_IN_ORDER = 3  # activator: up to this containerConcurrency the first free instance, else the least loaded
_MOST_RETRIES = 3


class EmulatedService:
    """State of one service; made by the first request for it, or at the start when it has a `min-scale`."""

    def __init__(self, name: str, function: Function, settings: Settings, resources: SharedResources) -> None:
        self.name = name
        self.faults = settings.faults
        self.fleet = Fleet(name, function, settings, resources, self)
        self._function = function
        self._settings = settings
        self._draw = resources.draw
        self._loop = asyncio.get_running_loop()
        self._autoscaler = Autoscaler(settings)
        self._bounds = Bounds(settings)
        self._meter = Meter(monotonic_ns())
        self._decision: Decision | None = None
        self._started = False
        self._active: dict[ProxiedRequest, Instance | None] = {}  # in the order of arrival; None while it waits
        self._queue: OrderedDict[ProxiedRequest, None] = OrderedDict()
        self._connecting: set[asyncio.Task[None]] = set()  # the loop keeps no reference to tasks
        self._closed: str | None = None
        self._counts = dict.fromkeys(("requests", "answered", "refused", "abandoned"), 0)
        self._sampling = PeriodicTimer(SAMPLE_NS, self._sample)
        self._ticking = PeriodicTimer(settings.tick_interval_ns, self._tick)
        self._killing: PeriodicTimer | None = None
        self.set_faults(settings.faults)
        if settings.min_scale:
            self._scale_up("min-scale")

    # Requests

    def admit(self, request: ProxiedRequest) -> None:
        """Take a request, subject to injected faults."""
        now_ns = monotonic_ns()
        request.service = self
        self._active[request] = None
        self._meter.add(1, now_ns)
        self._counts["requests"] += 1
        request.held = not self.fleet.ready
        faults = self.faults
        if faults.reset_rate and self._draw.random() < faults.reset_rate:
            self._end(request, "refused")
            request.client.reset()
        elif faults.error_rate and self._draw.random() < faults.error_rate:
            self._refuse(request, faults.error_status, f"injected error of {self.name} (error-rate)")
        elif faults.latency_ns:
            self._loop.call_later(faults.latency_ns / NS_PER_S, self._place, request)
        else:
            self._place(request)

    # ServiceSide

    def on_not_sent(self, request: ProxiedRequest) -> None:
        """Place it again."""
        instance, self._active[request] = self._active[request], None
        assert instance is not None
        instance.close_idle()  # the instance has closed the other idle connections too
        self._release(request, instance)
        self._place(request)

    def on_answered(self, request: ProxiedRequest) -> None:
        """Count it, for the instance and the service."""
        instance = self._active[request]
        assert instance is not None
        instance.served += 1
        self.fleet.reset_failures()
        self._end(request, "answered")

    def on_failed(self, request: ProxiedRequest) -> None:
        """Count it."""
        self._end(request, "refused")

    def on_abandoned(self, request: ProxiedRequest) -> None:
        """Free its instance or its place in a queue."""
        if request not in self._active:
            return
        if request.connection is not None:
            request.connection.close()
            request.connection = None
        self._end(request, "abandoned")

    def _place(self, request: ProxiedRequest) -> None:
        """Send it to an instance, queue it, or refuse it."""
        if request not in self._active:
            return  # abandoned during an injected latency
        if self._closed is not None:
            self._refuse(request, 503, self._closed)
            return
        instance = self._free_instance()
        if instance is not None:
            self._send(request, instance)
        elif not self.fleet.living and (blocked := self.fleet.blocked):
            self._refuse(request, 504, blocked)
        elif self.fleet.ready and self._decision is not None and self._decision.excess_burst >= 0:
            self._queue_at_instance(request)
        elif len(self._queue) >= self._settings.queue_limit:
            self._refuse(request, 503, f"the queue of {self.name} is full: {len(self._queue):,} requests (queue-limit)")
        else:
            request.queue = self._queue
            self._queue[request] = None
            if not self.fleet.living:
                self._scale_up("a request arrived")

    def _queue_at_instance(self, request: ProxiedRequest) -> None:
        instance = min(self.fleet.ready, key=lambda each: len(each.queue))
        depth = _QUEUE_PER_SLOT * self._settings.container_concurrency
        if len(instance.queue) >= depth:
            reason = f"the queues of {self.name}'s instances are full: {depth:,} requests (10 × containerConcurrency)"
            self._refuse(request, 503, reason)
        else:
            request.queue = instance.queue
            instance.queue[request] = None

    def _has_slot(self, instance: Instance) -> bool:
        limit = self._settings.container_concurrency
        return not limit or instance.in_flight < limit

    def _free_instance(self) -> Instance | None:
        """The ready instance for the next request; None when all are at their limit."""
        ready = self.fleet.ready
        free = [instance for instance in ready if self._has_slot(instance)]
        if not free:
            return None
        if 0 < self._settings.container_concurrency <= _FILL_IN_ORDER:
            return free[0]
        best = min(free, key=lambda instance: instance.in_flight)
        if len(ready) > 1:  # the next request goes to another of the equally loaded
            ready.remove(best)
            ready.append(best)
        return best

    def _send(self, request: ProxiedRequest, instance: Instance) -> None:
        self._active[request] = instance
        request.ready_ns = self.fleet.ready_ns
        instance.in_flight += 1
        connection = instance.idle_connection()
        if connection is not None:
            connection.send(request)
        else:
            connecting = self._loop.create_task(self._connect(request, instance))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, request: ProxiedRequest, instance: Instance) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: InstanceConnection(instance), LOOPBACK, instance.port
            )
        except OSError as error:
            if self._active.get(request) is not instance:
                return
            request.retries += 1
            if isinstance(error, ConnectionError):
                self.fleet.drain(instance)  # it accepts no connections: have it replaced
                if request.retries <= _MOST_RETRIES:
                    self.on_not_sent(request)
                    return
            self._refuse(request, 502, f"cannot connect to instance {instance.name}: {error.strerror or error}")
            return
        if self._active.get(request) is instance:
            connection.send(request)
        else:  # abandoned meanwhile
            connection.close()

    def _release(self, request: ProxiedRequest, instance: Instance | None) -> None:
        """Free its slot of the instance, or its place in a queue."""
        if request.queue is not None:
            request.queue.pop(request, None)
            request.queue = None
        elif instance is not None:
            instance.in_flight -= 1
            self.on_capacity(instance)

    def _end(self, request: ProxiedRequest, outcome: str) -> None:
        self._counts[outcome] += 1
        instance = self._active.pop(request)
        self._meter.add(-1, monotonic_ns())
        self._release(request, instance)

    def _refuse(self, request: ProxiedRequest, status: int, reason: str) -> None:
        self._end(request, "refused")
        request.client.send_error(request, status, reason)

    # FleetObserver

    def on_capacity(self, instance: Instance) -> None:
        """Send it queued requests, or stop it when it is drained."""
        if instance.state is InstanceState.DRAINING:
            if not instance.in_flight:
                instance.stop()
            return
        while instance in self.fleet.ready and self._has_slot(instance):
            queue = instance.queue or self._queue
            if not queue:
                return
            request, _ = queue.popitem(last=False)
            request.queue = None
            self._send(request, instance)

    def on_removed(self, instance: Instance) -> None:
        """Place the requests of its queue again."""
        waiting = list(instance.queue)
        instance.queue.clear()
        for request in waiting:
            request.queue = None
            self._place(request)

    def on_lost(self) -> None:
        """Replace it, or refuse the queued requests when no instance can be started."""
        fleet = self.fleet
        if not fleet.living and fleet.blocked:
            for request in list(self._queue):
                self._refuse(request, 504, fleet.blocked)
            if not self._settings.min_scale or fleet.failed:
                fleet.desired = 0  # the next request after the back-off tries again
        elif self._queue and not fleet.living:
            self._scale_up("requests are queued")
        else:
            self._scale_to(fleet.desired, "an instance ended")

    # Scaling

    def _scale_up(self, reason: str) -> None:
        """Start instances, of which there are none."""
        scale = self._bounds.on_request if self._started else self._bounds.initial
        self._started = True
        self._scale_to(max(scale, self.fleet.desired), reason)

    def _scale_to(self, desired: int, reason: str) -> None:
        self.fleet.scale_to(desired, reason, self.faults.slow_start_ns)

    def _sample(self) -> None:
        now_ns = monotonic_ns()
        concurrency = self._meter.take(now_ns)
        if self.fleet.instances or concurrency:
            self._autoscaler.record(concurrency)
        else:
            self._autoscaler.forget()
            self._decision = None
        self._time_out(now_ns)

    def _tick(self) -> None:
        now_ns = monotonic_ns()
        ready, living = len(self.fleet.ready), len(self.fleet.living)
        self._decision = decision = self._autoscaler.decide(now_ns, ready)
        if self.fleet.failed:
            return
        if decision is None:
            self._scale_to(max(self.fleet.desired, self._settings.min_scale), "min-scale")
            return
        scale = self._bounds.apply(now_ns, decision.desired, ready, living - ready)
        averages = f"concurrency {decision.stable:.2f} (stable window), {decision.panic:.2f} (panic window)"
        mode = "panic" if decision.panicking else "stable"
        self._scale_to(scale, f"{averages}, target {self._autoscaler.target:g}, {mode} mode")

    def _time_out(self, now_ns: int) -> None:
        """End requests that have taken longer than `timeoutSeconds`."""
        seconds = self._settings.timeout_seconds
        for request in [each for each in self._active if now_ns - each.arrived_ns >= seconds * NS_PER_S]:
            connection, request.connection = request.connection, None
            if connection is not None:
                responding = connection.responding
                connection.close()
                if responding:
                    self.on_failed(request)
                    connection.abort_response(request)
                    continue
            self._refuse(request, 504, f"{self.name} did not respond within {seconds} s (timeoutSeconds)")

    # Faults

    def set_faults(self, faults: Faults) -> None:
        """Inject these faults from now on."""
        self.faults = faults
        if self._killing is not None:
            self._killing.stop()
        self._killing = None
        if faults.kill_every_ns is not None:
            self._killing = PeriodicTimer(faults.kill_every_ns, self.fleet.kill_one)

    # The end

    def close(self, reason: str) -> None:
        """Refuse queued and further requests, and start no instances. Requests in flight continue."""
        self._closed = reason
        self.fleet.close()
        self.set_faults(Faults())
        self._sampling.stop()
        self._ticking.stop()
        for request in [request for request, instance in self._active.items() if instance is None]:
            self._refuse(request, 503, reason)

    def drain(self) -> None:
        """Stop every instance once it has answered its requests."""
        for instance in list(self.fleet.instances):
            self.fleet.drain(instance)

    def end(self) -> None:
        """End every instance at once."""
        for instance in list(self.fleet.instances):
            instance.end()

    @property
    def in_flight(self) -> int:
        """The number of requests without a complete response."""
        return len(self._active)

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it."""
        decision = self._decision
        return {
            "function": self._function.name,
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
            "settings": self._settings.resolved(),
            "faults": self.faults.to_json(),
            "instances": [instance.to_json() for instance in self.fleet.instances],
        }
