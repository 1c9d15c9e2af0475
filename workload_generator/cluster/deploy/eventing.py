"""Triggers: their manifests, and whether they deliver with their parallelism."""

from __future__ import annotations

from collections.abc import Iterable

from workload_generator.cluster.deploy.readiness import why_not_ready
from workload_generator.kube.names import BROKER_CLASS, PARALLELISM, RABBITMQ_BROKER
from workload_generator.kube.resources import Object, name_of, owned_by

MOST_PARALLELISM = 1000  # the limit of eventing-rabbitmq's webhook
_VARIABLE = "PARALLELISM"


def is_rabbitmq(broker: Object) -> bool:
    """Whether a Broker is RabbitMQ's, whose triggers have a parallelism."""
    return bool((broker["metadata"].get("annotations") or {}).get(BROKER_CLASS) == RABBITMQ_BROKER)


def parallelism_of(trigger: Object) -> str:
    """The parallelism of a Trigger; the default is one event at a time."""
    return str(trigger["metadata"].get("annotations", {}).get(PARALLELISM, "1"))


def why_no_dispatcher(trigger: Object, deployments: Iterable[Object]) -> str:
    """Empty when a RabbitMQ broker's trigger has a ready dispatcher with its parallelism; otherwise the reason.

    An annotation does not change the Trigger's generation, so its Ready does not include it; the Deployment has it.
    """
    value = parallelism_of(trigger)
    for each in deployments:
        if owned_by(each, trigger["metadata"]["uid"]):
            containers = each["spec"]["template"]["spec"]["containers"]
            told = [env.get("value") for one in containers for env in one.get("env") or () if env["name"] == _VARIABLE]
            if told and value not in told:
                return f"{name_of(each)} has {_VARIABLE} {told[0]}, not {value}"
            if told:
                return why_not_ready(each)
    return "no dispatcher"
