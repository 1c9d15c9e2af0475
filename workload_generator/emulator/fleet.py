"""The instances of one service: started, replaced, and given up.

Rules:
- there are as many as `scale_to` was last told, as far as starts succeed and the platform has room
- a start that fails, or an instance that ends before its first answer, counts; the next start waits longer each time
  (`BACKOFF`), and after `MOST_RETRIES` there is none: the service has failed
- an instance that is to go gets no more requests, answers those it has, and then ends
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from workload_generator.base.backoff import Backoff
from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.emulator.instance import HOST, Instance, State
from workload_generator.emulator.journal import Journal
from workload_generator.emulator.settings import Settings
from workload_generator.functions.catalog import Function

MOST_RETRIES = 5
"""How many failed starts in a row are retried. One more failure, and the service has failed."""

BACKOFF = Backoff(1.0, 16.0)
"""The delay after each failed start in a row."""


@dataclass(frozen=True, slots=True)
class House:
    """What all services of a platform share."""

    journal: Journal
    spawner: Executor
    draw: random.Random
    room: Callable[[], int]
    """How many instances may still be started."""


class Boss(Protocol):
    """Who gives the instances their requests."""

    def on_place(self, instance: Instance) -> None:
        """The instance can have (more) requests."""

    def on_withdrawn(self, instance: Instance) -> None:
        """It gets no more: what waits in front of it has to go elsewhere."""

    def on_lost(self) -> None:
        """An instance is gone."""


class Fleet:
    """State of a service's instances. `ready` is in the order in which requests should be given to equals."""

    def __init__(self, service: str, function: Function, settings: Settings, house: House, boss: Boss) -> None:
        self.instances: list[Instance] = []
        self.ready: list[Instance] = []
        self.desired = 0
        self.up_ns = 0  # when there was an instance again, after there had been none
        self.failures = 0  # starts in a row that came to nothing
        self.failure: str | None = None
        self._service = service
        self._function = function
        self._settings = settings
        self._house = house
        self._journal = house.journal
        self._boss = boss
        self._made = 0
        self._retry_ns = 0
        self._capped = False
        self._closed = False

    @property
    def living(self) -> list[Instance]:
        """Those that are there or will be."""
        return [instance for instance in self.instances if instance.state in (State.STARTING, State.READY)]

    @property
    def failed(self) -> bool:
        """Whether it is given up: it never became ready, however often it was started."""
        return self.failures > MOST_RETRIES

    @property
    def why_not(self) -> str:
        """Why no instance is started now; empty when one can be."""
        if self.failed:
            return (
                f"{self._service} has failed: {self.failures} starts in a row came to nothing, the last because "
                f"{self.failure}; DELETE /_platform/services/{self._service} to try again"
            )
        left_ns = self._retry_ns - monotonic_ns()
        if self.failures and left_ns > 0:
            left = f"the next start is in {left_ns / NS_PER_S:.1f} s"
            return f"{self.failure}; {left} (failures in a row: {self.failures})"
        return ""

    @property
    def state(self) -> str:
        """One word."""
        if self.failed:
            return "failed"
        if self.ready:
            return "ready"
        if self.living:
            return "starting"
        return "backing-off" if self.why_not else "zero"

    def scale_to(self, desired: int, why: str, slow_start_ns: int) -> None:
        """Have so many from now on. `slow_start_ns` is a fault."""
        if desired != self.desired:
            self._journal.add("scale", self._service, message=f"{self.desired} to {desired}: {why}")
            self.desired = desired
        living = self.living
        for _ in range(desired - len(living)):
            if self.why_not or not self._has_room():
                break
            self._start_one(slow_start_ns)
        if len(living) > desired:
            living.sort(key=lambda each: (each.state is State.READY, each.in_flight + len(each.queue), -each.number))
            for instance in living[: len(living) - desired]:
                self.drain(instance)

    def answered(self) -> None:
        """An instance has answered a request: the function works."""
        self.failures, self.failure = 0, None

    def drain(self, instance: Instance) -> None:
        """Let it go when it has answered what it has."""
        self._withdraw(instance)
        instance.drain()

    def kill_one(self) -> bool:
        """Kill a ready instance, drawn by lot. Whether there was one."""
        ready = [instance for instance in self.ready if not instance.killed]
        if not ready:
            return False
        self._house.draw.choice(ready).kill()
        return True

    def close(self) -> None:
        """Nothing is replaced any more."""
        self._closed = True

    def to_json(self) -> dict[str, Any]:
        """Its part of what `/_platform` shows."""
        return {
            "state": self.state,
            "desired": self.desired,
            "actual": len(self.living),
            "ready": len(self.ready),
            "failures_in_a_row": self.failures,
            "failure": self.failure,
        }

    # What instances tell

    def on_ready(self, instance: Instance) -> None:
        """It may have requests from now on."""
        if not self.ready:
            self.up_ns = monotonic_ns()
        self.ready.append(instance)
        self._boss.on_place(instance)

    def on_gone(self, instance: Instance) -> None:
        """Its process has ended, or never began."""
        self._withdraw(instance)
        self.instances.remove(instance)
        if self._closed:
            return
        if instance.failure is not None and not instance.served:
            self._count_failure(f"instance {instance.name} {instance.failure}")
        self._boss.on_lost()

    def _count_failure(self, reason: str) -> None:
        self.failures += 1
        self.failure = reason
        if self.failed:
            self._journal.add("failed", self._service, message=reason)
        else:
            self._retry_ns = monotonic_ns() + round(BACKOFF.delay_s(self.failures - 1) * NS_PER_S)

    def _withdraw(self, instance: Instance) -> None:
        if instance in self.ready:
            self.ready.remove(instance)
            instance.close_idle()
            self._boss.on_withdrawn(instance)

    # Starting

    def _has_room(self) -> bool:
        room = self._house.room() > 0
        if not room and not self._capped:
            message = "the platform has no room for more instances (--max-instances)"
            self._journal.add("capped", self._service, message=message)
        self._capped = not room
        return room

    def _start_one(self, slow_start_ns: int) -> None:
        self._made += 1
        name = f"{self._service}-00001-deployment-{self._house.draw.getrandbits(40):010x}-{self._made}"
        environment = {
            "K_SERVICE": self._service,
            "K_CONFIGURATION": self._service,
            "K_REVISION": f"{self._service}-00001",
            **self._settings.env,
            "HOSTNAME": name,
            "BIND": HOST,
        }
        instance = Instance(name, self._made, self._service, self._function, environment, self, self._journal)
        self.instances.append(instance)
        house = self._house
        instance.start(house.draw, house.spawner, self._settings.progress_deadline_ns, slow_start_ns)
