"""Conditions before a run, observed through the API: `zero` instances, or a previous load that is `drained`.

- zero: the services have no pods, not even terminating ones, which still take CPU
- drained: no pod is terminating, and each service has, and its autoscaler wants, no more instances than without load
  (one, or min-scale). The autoscaler remembers a load for its stable window
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from workload_generator.cluster.pods.locations import state_of
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.names import AUTOSCALING, FUNCTIONS, MIN_SCALE, SERVICE_LABEL
from workload_generator.kube.reflector import Reflector, wait_until
from workload_generator.kube.resources import POD_AUTOSCALERS, PODS, Key, Object, name_of

_MIN_SCALE = (MIN_SCALE, f"{AUTOSCALING}minScale")
_MOST_NAMED = 3

Objects = dict[Key, Object]


async def until_zero(kube: Kube, services: Sequence[str], within_s: float) -> None:
    """Wait until the services have no instance. Raises WaitTimeout, ApiError."""
    pods = Reflector(kube, PODS, FUNCTIONS, labels=SERVICE_LABEL)
    await wait_until(pods, lambda there: _named(_of(there, services)), within_s, "not scaled to zero")


async def until_drained(kube: Kube, services: Sequence[str], within_s: float) -> None:
    """Wait until the services have nothing of an earlier load. Raises WaitTimeout, ApiError."""
    scalers, pods = (Reflector(kube, kind, FUNCTIONS, labels=SERVICE_LABEL) for kind in (POD_AUTOSCALERS, PODS))

    def why_not() -> str:
        return _why_not_drained(pods.objects, scalers.objects, services)

    try:
        async with asyncio.timeout(within_s), scalers, pods:
            while why_not():
                if _wanting(scalers.objects, services):
                    await scalers.until(lambda now: not _wanting(now, services))
                else:
                    await pods.until(lambda _: not why_not())
    except TimeoutError:
        raise WaitTimeout(f"the previous load is not drained after {within_s:g} s: {why_not()}") from None


def _why_not_drained(pods: Objects, scalers: Objects, services: Sequence[str]) -> str:
    wanting = _wanting(scalers, services)
    if wanting:
        return ", ".join(wanting)
    there = _of(pods, services)
    if ending := _named([pod for pod in there if "deletionTimestamp" in pod["metadata"]]):
        return ending
    for service in services:
        instances = sum(_service(pod) == service for pod in there)
        rest = max((_at_rest(each) for each in _of(scalers, [service])), default=1)
        if instances > rest:
            return f"{service} has {instances} instances, {rest} without load"
    return ""


def _wanting(scalers: Objects, services: Sequence[str]) -> list[str]:
    """Each autoscaler that wants more instances than without load."""
    return [
        f"the autoscaler wants {wanted} instances of {_service(each)}"
        for each in _of(scalers, services)
        if (wanted := each.get("status", {}).get("desiredScale") or 0) > _at_rest(each)
    ]


def _at_rest(scaler: Object) -> int:
    annotations = scaler["metadata"].get("annotations") or {}
    least = next((annotations[key] for key in _MIN_SCALE if key in annotations), "0")
    return max(1, int(least) if least.isdigit() else 0)


def _of(objects: Objects, services: Sequence[str]) -> list[Object]:
    return [obj for obj in objects.values() if _service(obj) in services]


def _service(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get(SERVICE_LABEL, ""))


def _named(pods: list[Object]) -> str:
    if not pods:
        return ""
    named = "; ".join(f"{name_of(pod)} {state_of(pod)}" for pod in pods[:_MOST_NAMED])
    return f"{len(pods)} pods exist ({named}{'; …' if len(pods) > _MOST_NAMED else ''})"
