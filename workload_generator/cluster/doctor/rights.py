"""Whether the user may do what our commands do: one SelfSubjectAccessReview for each verb and resource."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from workload_generator.cluster.doctor.reporter import Cluster, Reporter, Verdict
from workload_generator.kube import resources as kinds
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
from workload_generator.kube.resources import ACCESS_REVIEWS, Object, Resource

_READ = "get list watch"
_WRITE = f"{_READ} create patch delete"
_EXEC = replace(kinds.PODS, plural="pods/exec")
_PORT_FORWARD = replace(kinds.PODS, plural="pods/portforward")
_NODE_PROXY = replace(kinds.NODES, plural="nodes/proxy")
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource in a namespace. Without a namespace: in all of them, or on a kind that has none."""

    verb: str
    resource: Resource
    namespace: str = ""

    def review(self) -> Object:
        """The question to the API server."""
        plural, _, subresource = self.resource.plural.partition("/")
        attributes = {"verb": self.verb, "group": self.resource.group, "resource": plural}
        attributes |= {"namespace": self.namespace} if self.namespace else {}
        attributes |= {"subresource": subresource} if subresource else {}
        about = {"apiVersion": ACCESS_REVIEWS.api_version, "kind": ACCESS_REVIEWS.kind, "metadata": {}}
        return {**about, "spec": {"resourceAttributes": attributes}}


@dataclass(frozen=True, slots=True)
class CommandRights:
    """The rights of one command, or of several that need the same, and the verdict when one is missing."""

    name: str
    verdict: Verdict
    rights: tuple[Right, ...]


def _rights(verbs: str, namespace: str, *resources: Resource) -> tuple[Right, ...]:
    return tuple(Right(verb, resource, namespace) for resource in resources for verb in verbs.split())


def _command(name: str, verdict: Verdict, *rights: Right) -> CommandRights:
    return CommandRights(name, verdict, rights)


_SERVERS = (kinds.DEPLOYMENTS, kinds.VOLUME_CLAIMS)
_SCENARIO = (
    *_rights("get patch", KNATIVE_SERVING, kinds.CONFIG_MAPS),
    *_rights(f"{_READ} patch", FUNCTIONS, kinds.SERVICES),
)
_RUN = (*_rights(_READ, GENERATOR, kinds.PODS), *_rights("create", GENERATOR, _EXEC))
COMMANDS = (
    _command(
        "deploy, delete",
        "failed",
        *_rights(f"{_READ} create patch", "", kinds.NAMESPACES),
        *_rights(_WRITE, FUNCTIONS, kinds.SERVICES),
        *_rights(_READ, FUNCTIONS, kinds.REVISIONS, kinds.PODS),
        *_rights(_WRITE, GENERATOR, *_SERVERS, kinds.SERVICE_ACCOUNTS, kinds.NETWORK_POLICIES),
        *_rights(_READ, GENERATOR, kinds.PODS),
    ),
    _command("patch", "failed", *_SCENARIO),
    _command("trigger, extract-logs", "failed", *_RUN),
    _command(
        "scenario --platform cluster",
        "failed",
        *_SCENARIO,
        *_rights(_READ, FUNCTIONS, kinds.PODS),
        *_rights(f"{_READ} patch", GENERATOR, kinds.DEPLOYMENTS),
        *_RUN,
    ),
    _command(
        "trigger and scenario with several pods",
        "warning",
        *_rights("get create patch", "", kinds.NAMESPACES),
        *_rights(_WRITE, SHARDS, kinds.JOBS),
        *_rights("get create patch", SHARDS, kinds.CONFIG_MAPS, kinds.NETWORK_POLICIES),
        *_rights(_READ, SHARDS, kinds.PODS),
        *_rights("create", SHARDS, _EXEC),
    ),
    _command(
        "deploy eventing",
        "warning",
        *_rights(_WRITE, EVENTING, kinds.BROKERS, kinds.TRIGGERS, kinds.RABBITMQ_CLUSTERS, kinds.BROKER_CONFIGS),
        *_rights(_WRITE, EVENTING, *_SERVERS, kinds.CORE_SERVICES, kinds.CONFIG_MAPS),
        *_rights(_WRITE, GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights("list", GENERATOR, kinds.REPLICA_SETS),
    ),
    _command(
        "scenario eventing-1|2|3 --platform cluster",
        "warning",
        *_rights(_WRITE, GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights(f"{_READ} patch", GENERATOR, kinds.DEPLOYMENTS),
        *_rights(_WRITE, EVENTING, kinds.TRIGGERS),
        *_rights(_READ, EVENTING, kinds.BROKERS, kinds.DEPLOYMENTS, kinds.PODS),
        *_rights("create", EVENTING, _EXEC),
    ),
    _command(
        "prometheus snapshot",
        "warning",
        *_rights("get list", METRICS, kinds.PODS),
        *_rights("create", METRICS, _PORT_FORWARD, _EXEC),
    ),
    _command(
        "top",
        "warning",
        *_rights("list", "", kinds.NODE_METRICS, kinds.POD_METRICS),
        *_rights("list watch", "", kinds.NODES, kinds.PODS, kinds.REVISIONS, kinds.POD_AUTOSCALERS),
    ),
    _command("top --source kubelet", "warning", *_rights("get", "", _NODE_PROXY)),
    _command(
        "doctor",
        "warning",
        *_rights("list", "", kinds.NODES, kinds.NAMESPACES, kinds.PODS, kinds.CRDS, kinds.DEPLOYMENTS),
        *_rights("list", "", kinds.RESOURCE_QUOTAS, kinds.LIMIT_RANGES, kinds.VOLUME_CLAIMS, kinds.STORAGE_CLASSES),
        *_rights("get", KNATIVE_SERVING, kinds.CONFIG_MAPS),
        *_rights("get", KNATIVE_EVENTING, kinds.CONFIG_MAPS),
        *(Right("create", kinds.PODS, namespace) for namespace in (*KNATIVE, METRICS)),
    ),
    _command(
        "doctor --fix",
        "warning",
        *_rights("get list patch", GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights("list delete", GENERATOR, kinds.REPLICA_SETS),
        *_rights("list watch", GENERATOR, kinds.PODS),
    ),
)


async def check_access(cluster: Cluster, reporter: Reporter) -> None:
    """Each command's missing rights. Raises ApiError when the API server refuses the reviews themselves."""
    slots = asyncio.Semaphore(_AT_ONCE)
    allowed: dict[Right, bool] = {}

    async def ask(right: Right) -> None:
        async with slots:
            answer = await cluster.kube.create(right.review())
            allowed[right] = bool(answer["status"].get("allowed"))

    rights = {right for command in COMMANDS for right in command.rights}
    await ask(rights.pop())  # alone: a refusal is one error, and the kind is looked up once
    for error in await asyncio.gather(*map(ask, rights), return_exceptions=True):
        if isinstance(error, BaseException):
            raise error
    for command in COMMANDS:
        denied = _denied(command, allowed)
        if denied:
            reporter.add(
                command.verdict,
                f"you may not {'; '.join(denied)}",
                f"kn-bench {command.name} needs it",
                "ask for a Role with these verbs, or use another --context",
            )
        else:
            reporter.ok(f"kn-bench {command.name}: you have all rights that it needs")


def _denied(command: CommandRights, allowed: Mapping[Right, bool]) -> list[str]:
    """The rights that are missing: `list, watch pods in functions`, one text for each resource."""
    verbs: dict[tuple[Resource, str], list[str]] = {}
    for right in command.rights:
        if not allowed[right]:
            verbs.setdefault((right.resource, right.namespace), []).append(right.verb)
    return [
        f"{', '.join(names)} {resource}" + (f" in {namespace}" if namespace else "")
        for (resource, namespace), names in verbs.items()
    ]
