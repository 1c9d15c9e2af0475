"""How many instances a service should have: the arithmetic of Knative's Pod Autoscaler (KPA), without clock or process.

Rules:
- concurrency is what is in the platform for the service, held requests included, averaged over each second; the last
  seconds of `stable-window` give the stable average, those of `panic-window-percentage` of it the panic average
- each average divided by the target is a wanted scale; of both, panic takes the larger, and never goes down
- a change stays within max-scale-up-rate and max-scale-down-rate of what is ready, then within min-scale and max-scale
- the last instance goes only after a stable window of activity and the grace period

Sources, all below https://github.com/knative/serving/blob/main/pkg/: `Scale` in autoscaler/scaling/autoscaler.go,
autoscaler/aggregation/bucketing.go, `ResolveMetricTarget` in reconciler/autoscaling/resources/target.go, and
`handleScaleToZero` and `applyBounds` in reconciler/autoscaling/kpa/scaler.go.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from workload_generator.base.clock import NS_PER_S
from workload_generator.emulator.settings import Settings

SAMPLE_NS = NS_PER_S
"""How long each sample of the concurrency is (`BucketSize`, and the interval at which Knative asks its pods)."""

_LEAST_TARGET = 0.01  # autoscaling.TargetMin


class Meter:
    """A count that changes over time, and its average."""

    def __init__(self, now_ns: int) -> None:
        self.value = 0
        self._area = 0
        self._since_ns = self._changed_ns = now_ns

    def add(self, change: int, now_ns: int) -> None:
        """The count changes now."""
        self._area += self.value * (now_ns - self._changed_ns)
        self._changed_ns = now_ns
        self.value += change

    def take(self, now_ns: int) -> float:
        """The average since this was last asked."""
        self.add(0, now_ns)
        length_ns = now_ns - self._since_ns
        average = self._area / length_ns if length_ns > 0 else float(self.value)
        self._area, self._since_ns = 0, now_ns
        return average


@dataclass(frozen=True, slots=True)
class Decision:
    """What the autoscaler wants now. `excess_burst` below 0 means that bursts have to be buffered."""

    desired: int
    panicking: bool
    stable: float
    panic: float
    excess_burst: float


class Autoscaler:
    """Averages and panic of one service."""

    def __init__(self, settings: Settings) -> None:
        window = settings.stable_window_ns // SAMPLE_NS  # in samples, as the next one
        total = float(settings.container_concurrency or settings.container_concurrency_target_default)
        if settings.target is not None:
            total = float(settings.target)
            if settings.container_concurrency:
                total = min(total, settings.container_concurrency)
        self.total = total
        self.target = max(_LEAST_TARGET, total * float(settings.container_concurrency_target_percentage) / 100)
        self._settings = settings
        self._samples: deque[float] = deque(maxlen=window)
        self._panic_window = max(1, round(window * float(settings.panic_window_percentage) / 100))
        self._panic_since_ns: int | None = None
        self._most_in_panic = 0

    @property
    def panicking(self) -> bool:
        """Whether the scale may only grow, by the short average."""
        return self._panic_since_ns is not None

    def record(self, concurrency: float) -> None:
        """The average of another sample."""
        self._samples.append(concurrency)

    def forget(self) -> None:
        """The service is at zero and nobody asks for it: what was before has no part in what comes."""
        self._samples.clear()
        self._panic_since_ns, self._most_in_panic = None, 0

    def decide(self, now_ns: int, ready: int) -> Decision | None:
        """The scale that the averages ask for when `ready` instances are; None while there is no sample."""
        if not self._samples:
            return None
        settings = self._settings
        stable = sum(self._samples) / len(self._samples)
        recent = list(self._samples)[-self._panic_window :]
        panic = sum(recent) / len(recent)
        ready_or_one = max(1, ready)
        most = math.ceil(settings.max_scale_up_rate * ready_or_one)
        least = math.floor(ready_or_one / settings.max_scale_down_rate)
        wanted_by_panic = math.ceil(panic / self.target)
        desired = min(max(math.ceil(stable / self.target), least), most)
        self._panic(now_ns, wanted_by_panic / ready_or_one)
        if self.panicking:
            self._most_in_panic = max(self._most_in_panic, desired, min(max(wanted_by_panic, least), most))
            desired = self._most_in_panic
        return Decision(desired, self.panicking, stable, panic, self._excess_burst(ready, panic))

    def _panic(self, now_ns: int, ratio: float) -> None:
        if ratio >= self._settings.panic_threshold_percentage / 100:
            self._panic_since_ns = now_ns
        elif self._panic_since_ns is not None and self._panic_since_ns + self._settings.stable_window_ns < now_ns:
            self._panic_since_ns, self._most_in_panic = None, 0

    def _excess_burst(self, ready: int, panic: float) -> float:
        capacity = float(self._settings.target_burst_capacity)
        if capacity < 0:
            return -1.0
        return math.floor(ready * self.total - capacity - panic) if capacity else 0.0


class Bounds:
    """min-scale, max-scale, initial-scale, and the way to zero."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._initial = settings.initial_scale
        self._active_since_ns: int | None = None
        self._idle_since_ns: int | None = None

    @property
    def at_birth(self) -> int:
        """The scale of a new service that is asked for."""
        return self.within(max(1, self._initial))

    @property
    def on_request(self) -> int:
        """The scale of a service that is asked for while it is at zero."""
        return self.within(1)

    def within(self, desired: int) -> int:
        """`desired`, between min-scale and max-scale."""
        desired = max(desired, self._settings.min_scale)
        return min(desired, self._settings.max_scale) if self._settings.max_scale else desired

    def apply(self, now_ns: int, desired: int, ready: int, starting: int) -> int:
        """The scale to have from now on, when the autoscaler wants `desired` and so many instances are there."""
        if self._initial and ready >= self.within(self._initial):
            self._initial = 0  # reached once: from here on the load decides
        desired = self.within(max(desired, self._initial))
        if ready and self._active_since_ns is None:
            self._active_since_ns = now_ns
        if desired:
            self._idle_since_ns = None
            return desired
        if not ready:
            return min(starting, 1)  # what was begun is seen through
        if self._active_since_ns is not None and now_ns - self._active_since_ns < self._settings.stable_window_ns:
            return 1
        if self._idle_since_ns is None:
            self._idle_since_ns = now_ns
        if now_ns - self._idle_since_ns < self._settings.scale_to_zero_grace_period_ns:
            return 1
        self._active_since_ns = self._idle_since_ns = None
        return 0
