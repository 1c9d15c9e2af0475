"""One service: routes its requests to instances, and scales them.

Rules:
- a request goes to an instance, gets an error (502, 503, 504), or is abandoned by its client; until then it counts as
  concurrency
- while the service has little spare capacity (`target-burst-capacity`), requests wait in one queue for a free
  instance, as in Knative's activator; otherwise they wait in front of the instance with the shortest queue, as in its
  queue-proxy
- `desired` is the number of its instances; fewer are running while starts fail or the platform is full
- a start has failed when its process ends before it is ready, is not ready in time, or ends before its first response.
  The next start is delayed by `BACKOFF`; after `MOST_RETRIES` the service has failed
- an instance that is removed gets no more requests, answers those it has, and is then stopped
"""

from __future__ import annotations

import asyncio
from typing import Any

from workload_generator.base.backoff import Backoff
from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import RequestRefused
from workload_generator.emulator.autoscaler import SAMPLE_NS, Autoscaler, Bounds, Decision, Meter
from workload_generator.emulator.instance import Instance, InstanceState, SharedResources, Waiting
from workload_generator.emulator.instance_connection import NotSent
from workload_generator.emulator.periodic_timer import call_every
from workload_generator.emulator.proxied_request import ProxiedRequest
from workload_generator.emulator.settings import Faults, Settings
from workload_generator.functions.catalog import Function

MOST_RETRIES = 5
"""How many failed starts in a row are retried. One more failure, and the service has failed."""

BACKOFF = Backoff(1.0, 16.0)
"""The delay after each failed start in a row."""

_QUEUE_PER_SLOT = 10  # queue-proxy: pkg/queue/sharedmain, `QueueDepth: 10 * ContainerConcurrency`
_FILL_IN_ORDER = 3  # activator: up to this containerConcurrency the first free instance, else the least loaded
_MOST_CONNECTS = 3


class EmulatedService:
    """State of one service; made by the first request for it, or at the start when it has a `min-scale`.

    `_ready` is in the order in which equally loaded instances get requests.
    """

    def __init__(self, name: str, function: Function, settings: Settings, resources: SharedResources) -> None:
        self.name = name
        self.faults = settings.faults
        self.instances: list[Instance] = []
        self.function = function
        self.settings = settings
        self.resources = resources
        self._loop = asyncio.get_running_loop()
        self._autoscaler = Autoscaler(settings)
        self._bounds = Bounds(settings)
        self._meter = Meter(monotonic_ns())
        self._decision: Decision | None = None
        self._ready: list[Instance] = []
        self._ready_ns = 0  # when the first instance became ready, after there had been none
        self._desired = 0
        self._made = 0
        self._failures = 0  # failed starts in a row
        self._failure: str | None = None
        self._retry_ns = 0
        self._capped = False
        self._started = False
        self._queue = Waiting()
        self._closed: str | None = None
        self._counts = dict.fromkeys(("requests", "answered", "refused", "abandoned"), 0)
        self._sampling = call_every(SAMPLE_NS, self._sample)
        self._ticking = call_every(settings.tick_interval_ns, self._tick)
        self._killing: asyncio.Task[None] | None = None
        self.set_faults(settings.faults)
        if settings.min_scale:
            self._scale_up("min-scale")

    # Requests

    async def serve(self, request: ProxiedRequest) -> None:
        """Respond to the request from an instance, subject to injected faults. Raises RequestRefused."""
        outcome, seconds = "abandoned", self.settings.timeout_seconds
        self._meter.add(1, monotonic_ns())
        self._counts["requests"] += 1
        request.held = not self._ready
        try:
            async with asyncio.timeout(seconds):
                outcome = await self._answer(request)
        except TimeoutError:
            outcome = "refused"
            raise RequestRefused(504, f"{self.name} did not respond within {seconds} s (timeoutSeconds)") from None
        except RequestRefused:
            outcome = "refused"
            raise
        finally:
            self._counts[outcome] += 1
            self._meter.add(-1, monotonic_ns())

    async def _answer(self, request: ProxiedRequest) -> str:
        faults, draw = self.faults, self.resources.draw
        if faults.reset_rate and draw.random() < faults.reset_rate:
            request.client.abort(reset=True)
            return "refused"
        if faults.error_rate and draw.random() < faults.error_rate:
            raise RequestRefused(faults.error_status, f"injected error of {self.name} (error-rate)")
        if faults.latency_ns:
            await asyncio.sleep(faults.latency_ns / NS_PER_S)
        while True:
            instance = await self._slot()
            request.ready_ns = self._ready_ns
            try:
                await instance.forward(request)
            except NotSent:
                instance.close_idle()  # the instance has closed the other idle connections too
                request.retries += 1
            except OSError as error:
                request.retries += 1
                if isinstance(error, ConnectionError):
                    self._drain(instance)  # it accepts no connections: have it replaced
                    if request.retries <= _MOST_CONNECTS:
                        continue
                reason = f"cannot connect to instance {instance.name}: {error.strerror or error}"
                raise RequestRefused(502, reason) from None
            else:
                self._failures, self._failure = 0, None  # the function works
                return "answered"
            finally:
                instance.in_flight -= 1
                self._offer(instance)

    async def _slot(self) -> Instance:
        """An instance with a free slot, which is taken. Raises RequestRefused."""
        while True:
            if self._closed is not None:
                raise RequestRefused(503, self._closed)
            if (free := self._free_instance()) is not None:
                free.in_flight += 1
                return free
            queue = self._queue_of_next()
            turn: asyncio.Future[Instance | None] = self._loop.create_future()
            queue[turn] = None
            try:
                if (instance := await turn) is not None:
                    return instance
            except asyncio.CancelledError:
                if turn.cancelled():
                    queue.pop(turn, None)
                elif (instance := turn.result()) is not None:
                    instance.in_flight -= 1
                    self._offer(instance)
                raise

    def _queue_of_next(self) -> Waiting:
        """The queue for a request, while no instance is free. Raises RequestRefused."""
        if not self._living and self._blocked:
            raise RequestRefused(504, self._blocked)
        if self._ready and self._decision is not None and self._decision.excess_burst >= 0:
            queue = min((instance.queue for instance in self._ready), key=len)
            most, limit = _QUEUE_PER_SLOT * self.settings.container_concurrency, "10 × containerConcurrency"
            full = f"the queues of {self.name}'s instances are full"
        else:
            queue, most, limit = self._queue, self.settings.queue_limit, "queue-limit"
            full = f"the queue of {self.name} is full"
        if len(queue) >= most:
            raise RequestRefused(503, f"{full}: {most:,} requests ({limit})")
        if not self._living:
            self._scale_up("a request arrived")
        return queue

    def _has_slot(self, instance: Instance) -> bool:
        limit = self.settings.container_concurrency
        return not limit or instance.in_flight < limit

    def _free_instance(self) -> Instance | None:
        """The ready instance for the next request; None when all are at their limit."""
        free = [instance for instance in self._ready if self._has_slot(instance)]
        if not free:
            return None
        if 0 < self.settings.container_concurrency <= _FILL_IN_ORDER:
            return free[0]
        best = min(free, key=lambda instance: instance.in_flight)
        if len(self._ready) > 1:  # the next request goes to another of the equally loaded
            self._ready.remove(best)
            self._ready.append(best)
        return best

    def _offer(self, instance: Instance) -> None:
        """Give its free slots to queued requests, or stop it when it is drained."""
        if instance.state is InstanceState.DRAINING and not instance.in_flight:
            instance.stop()
        while instance in self._ready and self._has_slot(instance) and (queue := instance.queue or self._queue):
            turn, _ = queue.popitem(last=False)
            if not turn.done():  # else its request was abandoned just now
                instance.in_flight += 1
                turn.set_result(instance)

    # Instances

    @property
    def _living(self) -> list[Instance]:
        """The instances that are ready or starting."""
        return [each for each in self.instances if each.state in (InstanceState.STARTING, InstanceState.READY)]

    @property
    def _failed(self) -> bool:
        """Whether too many starts in a row have failed."""
        return self._failures > MOST_RETRIES

    @property
    def _blocked(self) -> str:
        """Why no instance can be started now; empty when one can."""
        if self._failed:
            return (
                f"{self.name} has failed: {self._failures} starts in a row failed, the last one because "
                f"{self._failure}; DELETE /_platform/services/{self.name} to try again"
            )
        left_ns = self._retry_ns - monotonic_ns()
        if self._failures and left_ns > 0:
            left = f"the next start is in {left_ns / NS_PER_S:.1f} s"
            return f"{self._failure}; {left} (failures in a row: {self._failures})"
        return ""

    def _scale_up(self, reason: str) -> None:
        """Start instances, of which there are none."""
        scale = self._bounds.within(1 if self._started else max(1, self.settings.initial_scale))
        self._started = True
        self._scale_to(max(scale, self._desired), reason)

    def _scale_to(self, desired: int, reason: str) -> None:
        """Start or stop instances until there are `desired`."""
        if desired != self._desired:
            self.resources.events.add("scale", self.name, message=f"{self._desired} to {desired}: {reason}")
            self._desired = desired
        living = self._living
        for _ in range(desired - len(living)):
            if self._blocked or not self._platform_has_room():
                break
            self._made += 1
            instance = Instance(self._made, self)
            self.instances.append(instance)
            instance.start(self.faults.slow_start_ns)
        if len(living) > desired:
            living.sort(
                key=lambda each: (each.state is InstanceState.READY, each.in_flight + len(each.queue), -each.number)
            )
            for instance in living[: len(living) - desired]:
                self._drain(instance)

    def _platform_has_room(self) -> bool:
        room = self.resources.free_slots() > 0
        if not room and not self._capped:
            message = "the platform cannot start more instances (--max-instances)"
            self.resources.events.add("capped", self.name, message=message)
        self._capped = not room
        return room

    def _drain(self, instance: Instance) -> None:
        """Stop the instance once it has answered its requests."""
        self._remove(instance)
        instance.drain()

    def _remove(self, instance: Instance) -> None:
        if instance in self._ready:
            self._ready.remove(instance)
            instance.close_idle()
            instance.queue.dissolve()

    # InstanceOwner

    def on_ready(self, instance: Instance) -> None:
        """Give it requests."""
        if not self._ready:
            self._ready_ns = monotonic_ns()
        self._ready.append(instance)
        self._offer(instance)

    def on_gone(self, instance: Instance) -> None:
        """Replace it, or refuse the queued requests when no instance can be started."""
        self._remove(instance)
        self.instances.remove(instance)
        if self._closed is not None:
            return
        if instance.failure is not None and not instance.served:
            self._failures += 1
            self._failure = f"instance {instance.name} {instance.failure}"
            if self._failed:
                self.resources.events.add("failed", self.name, message=self._failure)
            else:
                self._retry_ns = monotonic_ns() + round(BACKOFF.delay_s(self._failures - 1) * NS_PER_S)
        if not self._living and self._blocked:
            self._queue.dissolve()
            if not self.settings.min_scale or self._failed:
                self._desired = 0  # the next request after the back-off tries again
        elif self._queue and not self._living:
            self._scale_up("requests are queued")
        else:
            self._scale_to(self._desired, "an instance ended")

    # Scaling

    def _sample(self) -> None:
        concurrency = self._meter.take(monotonic_ns())
        if self.instances or concurrency:
            self._autoscaler.record(concurrency)
        else:
            self._autoscaler.forget()
            self._decision = None

    def _tick(self) -> None:
        now_ns = monotonic_ns()
        ready, living = len(self._ready), len(self._living)
        self._decision = decision = self._autoscaler.decide(now_ns, ready)
        if self._failed:
            return
        if decision is None:
            self._scale_to(max(self._desired, self.settings.min_scale), "min-scale")
            return
        scale = self._bounds.apply(now_ns, decision.desired, ready, living - ready)
        averages = f"concurrency {decision.stable:.2f} (stable window), {decision.panic:.2f} (panic window)"
        mode = "panic" if decision.panicking else "stable"
        self._scale_to(scale, f"{averages}, target {self._autoscaler.target:g}, {mode} mode")

    # Faults

    def set_faults(self, faults: Faults) -> None:
        """Inject these faults from now on."""
        self.faults = faults
        if self._killing is not None:
            self._killing.cancel()
        self._killing = None
        if faults.kill_every_ns is not None:
            self._killing = call_every(faults.kill_every_ns, self.kill_one)

    def kill_one(self) -> bool:
        """Kill a random ready instance. Whether there was one."""
        ready = [instance for instance in self._ready if not instance.killed]
        if ready:
            self.resources.draw.choice(ready).kill()
        return bool(ready)

    # The end

    def close(self, reason: str) -> None:
        """Refuse queued and further requests, and start no instances. Requests in flight continue."""
        self._closed = reason
        self.set_faults(Faults())
        self._sampling.cancel()
        self._ticking.cancel()
        for queue in (self._queue, *(instance.queue for instance in self.instances)):
            queue.dissolve()

    def drain(self) -> None:
        """Stop every instance once it has answered its requests."""
        for instance in list(self.instances):
            self._drain(instance)

    @property
    def in_flight(self) -> int:
        """The number of requests without a complete response."""
        return self._meter.value

    def to_json(self) -> dict[str, Any]:
        """As `/_platform` shows it."""
        decision = self._decision
        if self._failed:
            state = "failed"
        elif self._ready:
            state = "ready"
        elif self._living:
            state = "starting"
        else:
            state = "backing-off" if self._blocked else "zero"
        return {
            "function": self.function.name,
            "state": state,
            "desired": self._desired,
            "actual": len(self._living),
            "ready": len(self._ready),
            "failures_in_a_row": self._failures,
            "failure": self._failure,
            "in_flight": self.in_flight,
            "queued": len(self._queue) + sum(len(instance.queue) for instance in self.instances),
            "counts": dict(self._counts),
            "autoscaler": {
                "target": self._autoscaler.target,
                "stable_concurrency": None if decision is None else round(decision.stable, 3),
                "panic_concurrency": None if decision is None else round(decision.panic, 3),
                "panicking": decision is not None and decision.panicking,
                "excess_burst_capacity": None if decision is None else decision.excess_burst,
            },
            "settings": self.settings.resolved(),
            "faults": self.faults.to_json(),
            "instances": [instance.to_json() for instance in self.instances],
        }
