"""The list of all checks, and the loop that runs them.

Checks are independent: one that the API refuses reports `unknown` after what it had reported until then, and the
others run. To add one, write a `reporter.Check` and enter it in CHECKS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from workload_generator.cluster.doctor.admission import check_admission
from workload_generator.cluster.doctor.apis import check_apis
from workload_generator.cluster.doctor.broker_check import check_subscribers
from workload_generator.cluster.doctor.capacity import check_capacity
from workload_generator.cluster.doctor.configuration import check_configuration
from workload_generator.cluster.doctor.deployed import check_conditions, check_generator, check_pods, check_rabbitmq
from workload_generator.cluster.doctor.limits import check_limits, check_storage
from workload_generator.cluster.doctor.nodes import check_nodes
from workload_generator.cluster.doctor.reporter import Check, CheckResult, Cluster, Reporter
from workload_generator.cluster.doctor.rights import check_access
from workload_generator.cluster.doctor.source_check import check_sources
from workload_generator.cluster.doctor.tools import check_installed, check_tools
from workload_generator.cluster.doctor.versions import check_versions
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiError

CHECKS: Mapping[str, Check] = {
    "tools": check_tools,
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
    "subscribers": check_subscribers,
    "container sources": check_sources,
}
"""In the order in which they run and are printed."""


async def check_machine() -> list[CheckResult]:
    """The results that need no cluster."""
    reporter = Reporter("tools")
    await check_installed(reporter)
    return reporter.results


async def check_all(kube: Kube, *, fix: bool, timeout_s: float) -> list[CheckResult]:
    """The results of all checks; `fix` is for those that can repair. Raises ApiError if the cluster does not answer."""
    version = await kube.version()
    minor = int(re.sub(r"\D.*", "", str(version["minor"])) or 0)
    cluster = Cluster(kube, minor, fix=fix, fix_timeout_s=timeout_s)
    results: list[CheckResult] = []
    for name, check in CHECKS.items():
        reporter = Reporter(name)
        try:
            await check(cluster, reporter)
        except ApiError as error:
            reporter.unknown(str(error))
        results += reporter.results
    return results
