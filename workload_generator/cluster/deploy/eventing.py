"""Triggers as manifests, and how to know that a trigger delivers with the parallelism that it says."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping

from workload_generator.cluster.deploy.readiness import why_not_ready
from workload_generator.cluster.deploy.services import FIRST
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.names import BROKER_CLASS, PARALLELISM, RABBITMQ_BROKER
from workload_generator.kube.reflector import Reflector
from workload_generator.kube.resources import DEPLOYMENTS, Object, name_of, owned_by

MOST_PARALLELISM = 1000  # eventing-rabbitmq's webhook refuses more
_VARIABLE = "PARALLELISM"


def is_rabbitmq(broker: Object) -> bool:
    """Whether a Broker is RabbitMQ's: the only one whose triggers have a parallelism."""
    return bool((broker["metadata"].get("annotations") or {}).get(BROKER_CLASS) == RABBITMQ_BROKER)


def parallelism_of(trigger: Object) -> str:
    """What the Trigger says; without it the broker delivers one event at a time."""
    return str(trigger["metadata"].get("annotations", {}).get(PARALLELISM, "1"))


def triggers(template: Object, count: int, parallelism: int | None) -> list[Object]:
    """`count` copies of a Trigger called `<name>-0`; each has its number in its name and in its subscriber's path."""
    base = name_of(template).removesuffix(FIRST)
    made = []
    for number in range(count):
        each = copy.deepcopy(template)
        each["metadata"]["name"] = f"{base}-{number}"
        subscriber = each["spec"]["subscriber"]
        if "uri" in subscriber:
            subscriber["uri"] = subscriber["uri"].removesuffix(f"{base}{FIRST}") + f"{base}-{number}"
        if parallelism is not None:
            each["metadata"].setdefault("annotations", {})[PARALLELISM] = str(parallelism)
        made.append(each)
    return made


async def wait_for_dispatchers(kube: Kube, namespace: str, wanted: Mapping[str, str], timeout_s: float) -> None:
    """Until each RabbitMQ trigger (`wanted`: uid → parallelism) has a dispatcher that works with it. WaitTimeout.

    An annotation leaves the Trigger's generation as it is, so that its Ready says nothing of it: the Deployment does.
    """
    missing: dict[str, str] = {}

    def look(deployments: dict[tuple[str, str], Object]) -> bool:
        missing.clear()
        missing.update({uid: _lacking(deployments.values(), uid, value) for uid, value in wanted.items()})
        return not any(missing.values())

    try:
        async with asyncio.timeout(timeout_s), Reflector(kube, DEPLOYMENTS, namespace) as reflector:
            await reflector.until(look)
    except TimeoutError:
        reasons = "; ".join(sorted({reason for reason in missing.values() if reason}))
        raise WaitTimeout(f"the triggers' dispatchers are not as patched after {timeout_s:g} s: {reasons}") from None


def _lacking(deployments: Iterable[Object], uid: str, value: str) -> str:
    for each in deployments:
        if owned_by(each, uid):
            containers = each["spec"]["template"]["spec"]["containers"]
            told = [env.get("value") for one in containers for env in one.get("env") or () if env["name"] == _VARIABLE]
            if told and value not in told:
                return f"{name_of(each)} has {_VARIABLE} {told[0]}, not {value}"
            if told:
                return why_not_ready(each)
    return "no dispatcher"
