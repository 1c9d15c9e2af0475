"""The instances of one service: started, replaced and stopped.

Rules:
- `scale_to` sets their number; fewer are running while starts fail or the platform is full
- a start has failed when its process ends before it is ready, is not ready in time, or ends before its first response.
  The next start is delayed by `BACKOFF`; after `MOST_RETRIES` the service has failed
- an instance that is removed gets no more requests, answers those it has, and is then stopped
"""

from __future__ import annotations

from typing import Any, Protocol

from workload_generator.base.backoff import Backoff
from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.emulator.instance import Instance, InstanceState, SharedResources
from workload_generator.emulator.settings import Settings
from workload_generator.functions.catalog import Function

MOST_RETRIES = 5
"""How many failed starts in a row are retried. One more failure, and the service has failed."""

BACKOFF = Backoff(1.0, 16.0)
"""The delay after each failed start in a row."""


class FleetObserver(Protocol):
    """Routes requests to the instances."""

    def on_capacity(self, instance: Instance) -> None:
        """The instance can take (more) requests."""

    def on_removed(self, instance: Instance) -> None:
        """The instance gets no more requests: those in its queue have to go elsewhere."""

    def on_lost(self) -> None:
        """An instance has ended."""


class Fleet:
    """State of a service's instances. `ready` is in the order in which equally loaded ones get requests."""

    def __init__(
        self, service: str, function: Function, settings: Settings, resources: SharedResources, observer: FleetObserver
    ) -> None:
        self.instances: list[Instance] = []
        self.ready: list[Instance] = []
        self.desired = 0
        self.ready_ns = 0  # when the first instance became ready, after there had been none
        self._failures = 0  # failed starts in a row
        self._failure: str | None = None
        self._service = service
        self._function = function
        self._settings = settings
        self._resources = resources
        self._observer = observer
        self._made = 0
        self._retry_ns = 0
        self._capped = False
        self._closed = False

    @property
    def living(self) -> list[Instance]:
        """The instances that are ready or starting."""
        return [each for each in self.instances if each.state in (InstanceState.STARTING, InstanceState.READY)]

    @property
    def failed(self) -> bool:
        """Whether too many starts in a row have failed."""
        return self._failures > MOST_RETRIES

    @property
    def blocked(self) -> str:
        """Why no instance can be started now; empty when one can."""
        if self.failed:
            return (
                f"{self._service} has failed: {self._failures} starts in a row failed, the last one because "
                f"{self._failure}; DELETE /_platform/services/{self._service} to try again"
            )
        left_ns = self._retry_ns - monotonic_ns()
        if self._failures and left_ns > 0:
            left = f"the next start is in {left_ns / NS_PER_S:.1f} s"
            return f"{self._failure}; {left} (failures in a row: {self._failures})"
        return ""

    def scale_to(self, desired: int, reason: str, slow_start_ns: int) -> None:
        """Start or stop instances until there are `desired`. `slow_start_ns` is an injected fault."""
        if desired != self.desired:
            self._resources.events.add("scale", self._service, message=f"{self.desired} to {desired}: {reason}")
            self.desired = desired
        living = self.living
        for _ in range(desired - len(living)):
            if self.blocked or not self._has_free_slot():
                break
            self._made += 1
            instance = Instance(self._made, self._service, self._function, self._settings, self, self._resources)
            self.instances.append(instance)
            instance.start(slow_start_ns)
        if len(living) > desired:
            living.sort(
                key=lambda each: (each.state is InstanceState.READY, each.in_flight + len(each.queue), -each.number)
            )
            for instance in living[: len(living) - desired]:
                self.drain(instance)

    def reset_failures(self) -> None:
        """An instance has answered a request: the function works."""
        self._failures, self._failure = 0, None

    def drain(self, instance: Instance) -> None:
        """Stop the instance once it has answered its requests."""
        self._remove(instance)
        instance.drain()

    def kill_one(self) -> bool:
        """Kill a random ready instance. Whether there was one."""
        ready = [instance for instance in self.ready if not instance.killed]
        if ready:
            self._resources.draw.choice(ready).kill()
        return bool(ready)

    def close(self) -> None:
        """Start no more instances."""
        self._closed = True

    def to_json(self) -> dict[str, Any]:
        """Its part of `/_platform`."""
        if self.failed:
            state = "failed"
        elif self.ready:
            state = "ready"
        elif self.living:
            state = "starting"
        else:
            state = "backing-off" if self.blocked else "zero"
        return {
            "state": state,
            "desired": self.desired,
            "actual": len(self.living),
            "ready": len(self.ready),
            "failures_in_a_row": self._failures,
            "failure": self._failure,
        }

    # InstanceObserver

    def on_ready(self, instance: Instance) -> None:
        """Give it requests."""
        if not self.ready:
            self.ready_ns = monotonic_ns()
        self.ready.append(instance)
        self._observer.on_capacity(instance)

    def on_gone(self, instance: Instance) -> None:
        """Count a failure, and have it replaced."""
        self._remove(instance)
        self.instances.remove(instance)
        if self._closed:
            return
        if instance.failure is not None and not instance.served:
            self._failures += 1
            self._failure = f"instance {instance.name} {instance.failure}"
            if self.failed:
                self._resources.events.add("failed", self._service, message=self._failure)
            else:
                self._retry_ns = monotonic_ns() + round(BACKOFF.delay_s(self._failures - 1) * NS_PER_S)
        self._observer.on_lost()

    def _remove(self, instance: Instance) -> None:
        if instance in self.ready:
            self.ready.remove(instance)
            instance.close_idle()
            self._observer.on_removed(instance)

    def _has_free_slot(self) -> bool:
        free = self._resources.free_slots() > 0
        if not free and not self._capped:
            message = "the platform cannot start more instances (--max-instances)"
            self._resources.events.add("capped", self._service, message=message)
        self._capped = not free
        return free
