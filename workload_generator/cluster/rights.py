"""Whether whoever runs our commands may do what they do: a question to the API for each verb and resource."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from workload_generator.cluster.findings import (
    EVENTING,
    FUNCTIONS,
    GENERATOR,
    KNATIVE_EVENTING,
    KNATIVE_SERVING,
    SHARDS,
    Cluster,
    Findings,
    Verdict,
)
from workload_generator.kube.resources import (
    ACCESS_REVIEWS,
    BROKERS,
    CONFIG_MAPS,
    CONTAINER_SOURCES,
    CRDS,
    DEPLOYMENTS,
    JOBS,
    NODE_METRICS,
    NODES,
    POD_METRICS,
    PODS,
    REPLICA_SETS,
    REVISIONS,
    SERVICES,
    TRIGGERS,
    Object,
    Resource,
)

_LOOK = ("get", "list", "watch")
_CHANGE = (*_LOOK, "create", "patch", "delete")
_AT_ONCE = 8


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
        "deploy, delete, patch",
        "failed",
        (
            Need(_CHANGE, SERVICES, FUNCTIONS),
            Need(_LOOK, REVISIONS, FUNCTIONS),
            Need(("list", "watch"), PODS, FUNCTIONS),
        ),
    ),
    Command(
        "scenario --platform cluster",
        "failed",
        (
            Need(("get", "patch"), CONFIG_MAPS, KNATIVE_SERVING),
            Need(("get", "list", "watch", "patch"), SERVICES, FUNCTIONS),
            Need(_LOOK, PODS, FUNCTIONS),
            Need(_LOOK, PODS, GENERATOR),
            Need(("create",), PODS, GENERATOR, "exec"),
        ),
    ),
    Command(
        "scenario with several pods",
        "warning",
        (
            Need(_CHANGE, JOBS, SHARDS),
            Need(("create", "patch", "delete"), CONFIG_MAPS, SHARDS),
            Need(_LOOK, PODS, SHARDS),
            Need(("create",), PODS, SHARDS, "exec"),
        ),
    ),
    Command(
        "trigger, eventing scenarios",
        "warning",
        (
            Need(_CHANGE, TRIGGERS, EVENTING),
            Need(_LOOK, BROKERS, EVENTING),
            Need(_LOOK, PODS, EVENTING),
            Need(_LOOK, CONTAINER_SOURCES, GENERATOR),
            Need(("create",), PODS, EVENTING, "exec"),
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
        ),
    ),
    Command(
        "doctor",
        "warning",
        (
            Need(("list",), NODES),
            Need(("list",), PODS),
            Need(("list",), CRDS),
            Need(("list",), DEPLOYMENTS),
            Need(("get",), CONFIG_MAPS, KNATIVE_SERVING),
            Need(("get",), CONFIG_MAPS, KNATIVE_EVENTING),
            Need(("create",), PODS, KNATIVE_SERVING),
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
