"""The check of brokers' channels, which can also replace a broker of ours."""

from __future__ import annotations

from workload_generator.cluster.deploy.eventing import is_rabbitmq
from workload_generator.cluster.deploy.subscribers import (
    CONSEQUENCE,
    dead_subscribers,
    fault_of,
    is_ours,
    new_broker,
    renew,
)
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube.errors import ApiError, WaitTimeout
from workload_generator.kube.resources import BROKERS, name_of, namespace_of


async def check_subscribers(cluster: Cluster, reporter: Reporter) -> None:
    """Whether each broker's channel delivers to living triggers only. With `cluster.fix`, replace a broker of ours."""
    for broker in await cluster.installed(BROKERS):
        if is_rabbitmq(broker):
            continue
        dead = await dead_subscribers(cluster.kube, broker)
        if not dead:
            reporter.ok(f"Broker {namespace_of(broker)}/{name_of(broker)} has no dead subscribers")
        elif not cluster.fix or not is_ours(broker):
            reporter.failed(fault_of(broker, dead), CONSEQUENCE, new_broker(broker))
        else:
            try:
                await renew(cluster.kube, broker, cluster.fix_timeout_s)
            except (WaitTimeout, ApiError) as error:
                reporter.failed(f"{fault_of(broker, dead)}; {error}", CONSEQUENCE, "run kn-bench doctor --fix again")
            else:
                reporter.ok(f"repaired: {fault_of(broker, dead)}; there is a new broker")
