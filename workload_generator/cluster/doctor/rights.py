"""Whether whoever runs our commands may do what they do: a question to the API for each verb and resource."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from workload_generator.cluster.doctor.findings import Cluster, Findings, Verdict
from workload_generator.kube.names import (
    EVENTING,
    FUNCTIONS,
    GENERATOR,
    KNATIVE,
    KNATIVE_EVENTING,
    KNATIVE_SERVING,
    METRICS,
    SHARDS,
)
from workload_generator.kube.resources import (
    ACCESS_REVIEWS,
    BROKER_CONFIGS,
    BROKERS,
    CONFIG_MAPS,
    CONTAINER_SOURCES,
    CORE_SERVICES,
    CRDS,
    DEPLOYMENTS,
    JOBS,
    LIMIT_RANGES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODE_METRICS,
    NODES,
    POD_AUTOSCALERS,
    POD_METRICS,
    PODS,
    RABBITMQ_CLUSTERS,
    REPLICA_SETS,
    RESOURCE_QUOTAS,
    REVISIONS,
    SERVICE_ACCOUNTS,
    SERVICES,
    STORAGE_CLASSES,
    TRIGGERS,
    VOLUME_CLAIMS,
    Object,
    Resource,
)

_LOOK = ("get", "list", "watch")
_CHANGE = (*_LOOK, "create", "patch", "delete")
_AT_ONCE = 8
_LOOKED_AT = (NODES, NAMESPACES, PODS, CRDS, DEPLOYMENTS, RESOURCE_QUOTAS, LIMIT_RANGES, VOLUME_CLAIMS, STORAGE_CLASSES)


@dataclass(frozen=True, slots=True)
class Need:
    """Verbs on a resource, or on `subresource` of it. No namespace: in all, or of a kind that is in none."""

    verbs: tuple[str, ...]
    resource: Resource
    namespace: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        plural, _, group = str(self.resource).partition(".")
        named = "/".join(filter(None, (plural, self.subresource))) + (f".{group}" if group else "")
        return named + (f" in {self.namespace}" if self.namespace else "")


@dataclass(frozen=True, slots=True)
class Command:
    """A command, or several that need the same, and what it does not do without its rights."""

    name: str
    verdict: Verdict
    needs: tuple[Need, ...]


COMMANDS = (
    Command(
        "deploy, delete",
        "failed",
        (
            Need(("get", "list", "watch", "create", "patch"), NAMESPACES),
            Need(_CHANGE, SERVICES, FUNCTIONS),
            Need(_LOOK, REVISIONS, FUNCTIONS),
            Need(_CHANGE, DEPLOYMENTS, GENERATOR),
            Need(_CHANGE, VOLUME_CLAIMS, GENERATOR),
            Need(_CHANGE, SERVICE_ACCOUNTS, GENERATOR),
            Need(_CHANGE, NETWORK_POLICIES, GENERATOR),
            Need(_LOOK, PODS, GENERATOR),
            Need(_LOOK, PODS, FUNCTIONS),
        ),
    ),
    Command(
        "patch",
        "failed",
        (
            Need(("get", "list", "watch", "patch"), SERVICES, FUNCTIONS),
            Need(("get", "patch"), CONFIG_MAPS, KNATIVE_SERVING),
        ),
    ),
    Command(
        "trigger, extract-logs",
        "failed",
        (Need(_LOOK, PODS, GENERATOR), Need(("create",), PODS, GENERATOR, "exec")),
    ),
    Command(
        "scenario --platform cluster",
        "failed",
        (
            Need(("get", "patch"), CONFIG_MAPS, KNATIVE_SERVING),
            Need(("get", "list", "watch", "patch"), SERVICES, FUNCTIONS),
            Need(_LOOK, PODS, FUNCTIONS),
            Need(("get", "list", "watch", "patch"), DEPLOYMENTS, GENERATOR),
            Need(_LOOK, PODS, GENERATOR),
            Need(("create",), PODS, GENERATOR, "exec"),
        ),
    ),
    Command(
        "trigger and scenario with several pods",
        "warning",
        (
            Need(("get", "create", "patch"), NAMESPACES),
            Need(_CHANGE, JOBS, SHARDS),
            Need(("get", "create", "patch"), CONFIG_MAPS, SHARDS),
            Need(("get", "create", "patch"), NETWORK_POLICIES, SHARDS),
            Need(_LOOK, PODS, SHARDS),
            Need(("create",), PODS, SHARDS, "exec"),
        ),
    ),
    Command(
        "deploy eventing",
        "warning",
        (
            Need(_CHANGE, BROKERS, EVENTING),
            Need(_CHANGE, TRIGGERS, EVENTING),
            Need(_CHANGE, RABBITMQ_CLUSTERS, EVENTING),
            Need(_CHANGE, BROKER_CONFIGS, EVENTING),
            Need(_CHANGE, DEPLOYMENTS, EVENTING),
            Need(_CHANGE, CORE_SERVICES, EVENTING),
            Need(_CHANGE, VOLUME_CLAIMS, EVENTING),
            Need(_CHANGE, CONFIG_MAPS, EVENTING),
            Need(_CHANGE, CONTAINER_SOURCES, GENERATOR),
            Need(("list",), REPLICA_SETS, GENERATOR),
        ),
    ),
    Command(
        "scenario eventing-1|2|3 --platform cluster",
        "warning",
        (
            Need(_CHANGE, CONTAINER_SOURCES, GENERATOR),
            Need(("get", "list", "watch", "patch"), DEPLOYMENTS, GENERATOR),
            Need(_CHANGE, TRIGGERS, EVENTING),
            Need(_LOOK, BROKERS, EVENTING),
            Need(_LOOK, DEPLOYMENTS, EVENTING),
            Need(_LOOK, PODS, EVENTING),
            Need(("create",), PODS, EVENTING, "exec"),
        ),
    ),
    Command(
        "prometheus snapshot",
        "warning",
        (
            Need(("get", "list"), PODS, METRICS),
            Need(("create",), PODS, METRICS, "portforward"),
            Need(("create",), PODS, METRICS, "exec"),
        ),
    ),
    Command(
        "top",
        "warning",
        (
            Need(("list",), NODE_METRICS),
            Need(("list",), POD_METRICS),
            Need(("list", "watch"), NODES),
            Need(("list", "watch"), PODS),
            Need(("list", "watch"), REVISIONS),
            Need(("list", "watch"), POD_AUTOSCALERS),
        ),
    ),
    Command("top --source kubelet", "warning", (Need(("get",), NODES, subresource="proxy"),)),
    Command(
        "doctor",
        "warning",
        (
            *(Need(("list",), resource) for resource in _LOOKED_AT),
            Need(("get",), CONFIG_MAPS, KNATIVE_SERVING),
            Need(("get",), CONFIG_MAPS, KNATIVE_EVENTING),
            *(Need(("create",), PODS, namespace) for namespace in (*KNATIVE, METRICS)),
        ),
    ),
    Command(
        "doctor --fix",
        "warning",
        (
            Need(("get", "list", "patch"), CONTAINER_SOURCES, GENERATOR),
            Need(("list", "delete"), REPLICA_SETS, GENERATOR),
            Need(("list", "watch"), PODS, GENERATOR),
        ),
    ),
)


async def check_access(cluster: Cluster, found: Findings) -> None:
    """For each command, what it needs and may not do. Raises ApiError when the questions themselves are refused."""
    questions = {(need, verb) for command in COMMANDS for need in command.needs for verb in need.verbs}
    slots = asyncio.Semaphore(_AT_ONCE)
    allowed: dict[tuple[Need, str], bool] = {}

    async def ask(need: Need, verb: str) -> None:
        async with slots:
            answer = await cluster.kube.create(_review(need, verb))
            allowed[need, verb] = bool(answer["status"].get("allowed"))

    await ask(*questions.pop())  # alone, so that one refusal is one error, and kinds are asked for once
    results = await asyncio.gather(*(ask(*question) for question in questions), return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException):
            raise error
    for command in COMMANDS:
        denied = [
            f"{', '.join(verbs)} {need}"
            for need in command.needs
            if (verbs := [verb for verb in need.verbs if not allowed[need, verb]])
        ]
        if denied:
            found.add(
                command.verdict,
                f"you may not {'; '.join(denied)}",
                f"kn-bench {command.name} needs it",
                "ask for a Role with these verbs, or use another --context",
            )
        else:
            found.ok(f"kn-bench {command.name}: may do all it needs")


def _review(need: Need, verb: str) -> Object:
    asked = {"verb": verb, "group": need.resource.group, "resource": need.resource.plural}
    if need.namespace:
        asked["namespace"] = need.namespace
    if need.subresource:
        asked["subresource"] = need.subresource
    return {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "metadata": {},
        "spec": {"resourceAttributes": asked},
    }
