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
        attributes |= {"namespace": self.namespace, "subresource": subresource}
        about = {"apiVersion": ACCESS_REVIEWS.api_version, "kind": ACCESS_REVIEWS.kind, "metadata": {}}
        return {**about, "spec": {"resourceAttributes": attributes}}


def _rights(verbs: str, namespace: str, *resources: Resource) -> tuple[Right, ...]:
    return tuple(Right(verb, resource, namespace) for resource in resources for verb in verbs.split())


_SERVERS = (kinds.DEPLOYMENTS, kinds.VOLUME_CLAIMS)
_SCENARIO = (
    *_rights("get patch", KNATIVE_SERVING, kinds.CONFIG_MAPS),
    *_rights(f"{_READ} patch", FUNCTIONS, kinds.SERVICES),
)
_RUN = (*_rights(_READ, GENERATOR, kinds.PODS), *_rights("create", GENERATOR, _EXEC))
COMMANDS: Mapping[str, tuple[Right, ...]] = {
    "deploy, delete": (
        *_rights(f"{_READ} create patch", "", kinds.NAMESPACES),
        *_rights(_WRITE, FUNCTIONS, kinds.SERVICES),
        *_rights(_READ, FUNCTIONS, kinds.REVISIONS, kinds.PODS),
        *_rights(_WRITE, GENERATOR, *_SERVERS, kinds.SERVICE_ACCOUNTS, kinds.NETWORK_POLICIES),
        *_rights(_READ, GENERATOR, kinds.PODS),
    ),
    "patch": _SCENARIO,
    "trigger, extract-logs": _RUN,
    "scenario --platform cluster": (
        *_SCENARIO,
        *_rights(_READ, FUNCTIONS, kinds.PODS),
        *_rights(f"{_READ} patch", GENERATOR, kinds.DEPLOYMENTS),
        *_RUN,
    ),
    "trigger and scenario with several pods": (
        *_rights("get create patch", "", kinds.NAMESPACES),
        *_rights(_WRITE, SHARDS, kinds.JOBS),
        *_rights("get create patch", SHARDS, kinds.CONFIG_MAPS, kinds.NETWORK_POLICIES),
        *_rights(_READ, SHARDS, kinds.PODS),
        *_rights("create", SHARDS, _EXEC),
    ),
    "deploy eventing": (
        *_rights(_WRITE, EVENTING, kinds.BROKERS, kinds.TRIGGERS, kinds.RABBITMQ_CLUSTERS, kinds.BROKER_CONFIGS),
        *_rights(_WRITE, EVENTING, *_SERVERS, kinds.CORE_SERVICES, kinds.CONFIG_MAPS),
        *_rights(_READ, EVENTING, kinds.SUBSCRIPTIONS),
        *_rights(_WRITE, GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights("list", GENERATOR, kinds.REPLICA_SETS),
    ),
    "scenario eventing-1|2|3 --platform cluster": (
        *_rights(_WRITE, GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights(f"{_READ} patch", GENERATOR, kinds.DEPLOYMENTS),
        *_rights(_WRITE, EVENTING, kinds.TRIGGERS),
        *_rights(_READ, EVENTING, kinds.BROKERS, kinds.SUBSCRIPTIONS, kinds.DEPLOYMENTS, kinds.PODS),
        *_rights("get", EVENTING, kinds.CHANNELS),
        *_rights("create", EVENTING, _EXEC),
    ),
    "trigger and scenario, to record the path of requests": (
        *_rights("list watch", FUNCTIONS, kinds.SERVERLESS_SERVICES, kinds.ENDPOINTS),
        *_rights("list", FUNCTIONS, kinds.SERVICES),
    ),
    "prometheus snapshot": (
        *_rights("get list", METRICS, kinds.PODS),
        *_rights("create", METRICS, _PORT_FORWARD, _EXEC),
    ),
    "top": (
        *_rights("list", "", kinds.NODE_METRICS, kinds.POD_METRICS),
        *_rights("list watch", "", kinds.NODES, kinds.PODS, kinds.REVISIONS, kinds.POD_AUTOSCALERS),
    ),
    "top --source kubelet": _rights("get", "", _NODE_PROXY),
    "doctor": (
        *_rights("list", "", kinds.NODES, kinds.NAMESPACES, kinds.PODS, kinds.CRDS, kinds.DEPLOYMENTS),
        *_rights("list", "", kinds.RESOURCE_QUOTAS, kinds.LIMIT_RANGES, kinds.VOLUME_CLAIMS, kinds.STORAGE_CLASSES),
        *_rights("get", KNATIVE_SERVING, kinds.CONFIG_MAPS),
        *_rights("get", KNATIVE_EVENTING, kinds.CONFIG_MAPS),
        *_rights("list", "", kinds.BROKERS, kinds.SUBSCRIPTIONS),
        *_rights("get", "", kinds.CHANNELS),
        *(Right("create", kinds.PODS, namespace) for namespace in (*KNATIVE, METRICS)),
    ),
    "doctor --fix": (
        *_rights("get list", GENERATOR, kinds.CONTAINER_SOURCES),
        *_rights("patch", GENERATOR, kinds.SINK_BINDINGS),
        *_rights(_WRITE, EVENTING, kinds.BROKERS),
        *_rights(_READ, EVENTING, kinds.TRIGGERS),
        *_rights("list delete", GENERATOR, kinds.REPLICA_SETS),
        *_rights("list watch", GENERATOR, kinds.PODS),
    ),
}
"""By the command, or several that need the same."""
_ESSENTIAL = ("deploy, delete", "patch", "trigger, extract-logs", "scenario --platform cluster")
"""Without them there is no benchmark: a right that is missing is `failed`; that of another command is a warning."""


async def check_access(cluster: Cluster, reporter: Reporter) -> None:
    """Each command's missing rights. Raises ApiError when the API server refuses the reviews themselves."""
    slots = asyncio.Semaphore(_AT_ONCE)
    allowed: dict[Right, bool] = {}

    async def ask(right: Right) -> None:
        async with slots:
            answer = await cluster.kube.create(right.review())
            allowed[right] = bool(answer["status"].get("allowed"))

    rights = {right for rights in COMMANDS.values() for right in rights}
    await ask(rights.pop())  # alone: a refusal is one error, and the kind is looked up once
    for error in await asyncio.gather(*map(ask, rights), return_exceptions=True):
        if isinstance(error, BaseException):
            raise error
    for command, needed in COMMANDS.items():
        denied: dict[str, list[str]] = {}
        for right in needed:
            if not allowed[right]:
                where = f" in {right.namespace}" if right.namespace else ""
                denied.setdefault(f"{right.resource}{where}", []).append(right.verb)
        if denied:
            texts = "; ".join(f"{', '.join(verbs)} {subject}" for subject, verbs in denied.items())
            why, fix = f"kn-bench {command} needs it", "ask for a Role with these verbs, or use another --context"
            verdict: Verdict = "failed" if command in _ESSENTIAL else "warning"
            reporter.add(verdict, f"you may not {texts}", why, fix)
        else:
            reporter.ok(f"kn-bench {command}: you have all rights that it needs")
