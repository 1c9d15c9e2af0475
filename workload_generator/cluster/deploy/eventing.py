"""Triggers: their manifests, and the wait until they deliver with their parallelism."""

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

MOST_PARALLELISM = 1000  # the limit of eventing-rabbitmq's webhook
_VARIABLE = "PARALLELISM"


def is_rabbitmq(broker: Object) -> bool:
    """Whether a Broker is RabbitMQ's, whose triggers have a parallelism."""
    return bool((broker["metadata"].get("annotations") or {}).get(BROKER_CLASS) == RABBITMQ_BROKER)


def parallelism_of(trigger: Object) -> str:
    """The parallelism of a Trigger; the default is one event at a time."""
    return str(trigger["metadata"].get("annotations", {}).get(PARALLELISM, "1"))


def triggers(template: Object, count: int, parallelism: int | None) -> list[Object]:
    """`count` copies of the Trigger `<name>-0`, with their numbers in their names and in their subscribers' paths."""
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
    """Wait until each RabbitMQ trigger (`wanted`: uid → parallelism) has a dispatcher with it. Raises WaitTimeout.

    An annotation does not change the Trigger's generation, so its Ready does not include it; the Deployment has it.
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
        raise WaitTimeout(f"trigger dispatchers without the new parallelism after {timeout_s:g} s: {reasons}") from None


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
