"""The scale of a service: the arithmetic of Knative's Pod Autoscaler (KPA), without clock or process.

`Autoscaler` wants a scale, `Bounds` limits it, `service.EmulatedService` asks both every tick and its fleet follows.

Rules:
- concurrency is the number of the service's requests in the platform, queued ones included, averaged over each second.
  The stable average is that over `stable-window`, the panic average that over `panic-window-percentage` of it
- each average divided by the target is a desired scale; panic mode takes the larger of both, and never scales down
- a change is limited by max-scale-up-rate and max-scale-down-rate, relative to the ready instances, then by min-scale
  and max-scale
- the last instance is stopped only after a stable window of activity, and the grace period

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
"""The length of a concurrency sample (Knative's `BucketSize`, and the interval of its scrapes)."""

_LEAST_TARGET = 0.01  # autoscaling.TargetMin


class Meter:
    """The time-weighted average of a count."""

    def __init__(self, now_ns: int) -> None:
        self.value = 0
        self._area = 0
        self._since_ns = self._changed_ns = now_ns

    def add(self, change: int, now_ns: int) -> None:
        """Change the count, now."""
        self._area += self.value * (now_ns - self._changed_ns)
        self._changed_ns = now_ns
        self.value += change

    def take(self, now_ns: int) -> float:
        """The average since the last call."""
        self.add(0, now_ns)
        length_ns = now_ns - self._since_ns
        average = self._area / length_ns if length_ns > 0 else float(self.value)
        self._area, self._since_ns = 0, now_ns
        return average


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. With `excess_burst` below 0, bursts have to be buffered (the activator stays in the path)."""

    desired: int
    panicking: bool
    stable: float
    panic: float
    excess_burst: float


class Autoscaler:
    """Averages and panic of one service."""

    def __init__(self, settings: Settings) -> None:
        window = settings.stable_window_ns // SAMPLE_NS  # in samples, as `_panic_window`
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
        self._panic_scale = 0

    @property
    def panicking(self) -> bool:
        """Whether it is in panic mode."""
        return self._panic_since_ns is not None

    def record(self, concurrency: float) -> None:
        """Add the average of the last second."""
        self._samples.append(concurrency)

    def forget(self) -> None:
        """Drop all samples: the service is at zero without requests."""
        self._samples.clear()
        self._panic_since_ns, self._panic_scale = None, 0

    def decide(self, now_ns: int, ready: int) -> Decision | None:
        """The decision for a service with `ready` instances; None without samples."""
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
            self._panic_scale = max(self._panic_scale, desired, min(max(wanted_by_panic, least), most))
            desired = self._panic_scale
        return Decision(desired, self.panicking, stable, panic, self._excess_burst(ready, panic))

    def _panic(self, now_ns: int, ratio: float) -> None:
        if ratio >= self._settings.panic_threshold_percentage / 100:
            self._panic_since_ns = now_ns
        elif self._panic_since_ns is not None and self._panic_since_ns + self._settings.stable_window_ns < now_ns:
            self._panic_since_ns, self._panic_scale = None, 0

    def _excess_burst(self, ready: int, panic: float) -> float:
        capacity = float(self._settings.target_burst_capacity)
        if capacity < 0:
            return -1.0
        return math.floor(ready * self.total - capacity - panic) if capacity else 0.0


class Bounds:
    """Applies min-scale, max-scale, initial-scale and the delays of scale to zero."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._initial = settings.initial_scale
        self._active_since_ns: int | None = None
        self._idle_since_ns: int | None = None

    def within(self, desired: int) -> int:
        """`desired`, limited by min-scale and max-scale."""
        desired = max(desired, self._settings.min_scale)
        return min(desired, self._settings.max_scale) if self._settings.max_scale else desired

    def apply(self, now_ns: int, desired: int, ready: int, starting: int) -> int:
        """The scale for the autoscaler's `desired`, with these numbers of instances that are ready and starting."""
        if self._initial and ready >= self.within(self._initial):
            self._initial = 0  # it holds until it is reached once
        desired = self.within(max(desired, self._initial))
        if ready and self._active_since_ns is None:
            self._active_since_ns = now_ns
        if desired:
            self._idle_since_ns = None
            return desired
        if not ready:
            return min(starting, 1)  # let a start complete
        if self._active_since_ns is not None and now_ns - self._active_since_ns < self._settings.stable_window_ns:
            return 1
        if self._idle_since_ns is None:
            self._idle_since_ns = now_ns
        if now_ns - self._idle_since_ns < self._settings.scale_to_zero_grace_period_ns:
            return 1
        self._active_since_ns = self._idle_since_ns = None
        return 0
