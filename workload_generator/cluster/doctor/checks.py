"""What has to be true of a cluster, and of this machine, before a benchmark runs: all checks, in their order.

Each stands alone: one that the API refuses is `unknown`, with what it had found until then, and the others go on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from workload_generator.cluster.doctor.admission import check_admission
from workload_generator.cluster.doctor.apis import check_apis
from workload_generator.cluster.doctor.capacity import check_capacity
from workload_generator.cluster.doctor.configuration import check_configuration
from workload_generator.cluster.doctor.deployed import check_conditions, check_generator, check_pods, check_rabbitmq
from workload_generator.cluster.doctor.findings import Check, Cluster, Finding, Findings
from workload_generator.cluster.doctor.limits import check_limits, check_storage
from workload_generator.cluster.doctor.nodes import check_nodes
from workload_generator.cluster.doctor.rights import check_access
from workload_generator.cluster.doctor.source_check import check_sources
from workload_generator.cluster.doctor.tools import check_tools, check_tools_for, installed_tools
from workload_generator.cluster.doctor.versions import check_versions
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiError

_CHECKS: Mapping[str, Check] = {
    "versions": check_versions,
    "APIs": check_apis,
    "access": check_access,
    "admission": check_admission,
    "configuration": check_configuration,
    "nodes": check_nodes,
    "capacity": check_capacity,
    "quotas": check_limits,
    "storage": check_storage,
    "conditions": check_conditions,
    "RabbitMQ": check_rabbitmq,
    "pods": check_pods,
    "generator": check_generator,
}


async def check_machine() -> list[Finding]:
    """What can be told without a cluster."""
    found = Findings("tools")
    check_tools(await installed_tools(), found)
    return found.all


async def check_all(kube: Kube, *, fix: bool, timeout_s: float) -> list[Finding]:
    """All checks in order. ApiError when the cluster does not answer at all; see `check_sources` for `fix`."""
    version = await kube.version()
    cluster = Cluster(kube, int(re.sub(r"\D.*", "", str(version["minor"])) or 0))
    tools = Findings("tools")
    installed = await installed_tools()
    check_tools(installed, tools)
    check_tools_for(installed, cluster.minor, tools)
    findings = tools.all
    for name, check in _CHECKS.items():
        found = Findings(name)
        try:
            await check(cluster, found)
        except ApiError as error:
            found.unknown(str(error))
        findings += found.all
    sources = Findings("container sources")
    await check_sources(kube, sources, fix=fix, timeout_s=timeout_s)
    return findings + sources.all
