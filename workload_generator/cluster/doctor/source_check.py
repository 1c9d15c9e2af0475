"""The check of ContainerSources, which can also repair them."""

from __future__ import annotations

from workload_generator.cluster.deploy.sources import examine, mend
from workload_generator.cluster.doctor.reporter import Cluster, Reporter
from workload_generator.kube.errors import ApiError, WaitTimeout
from workload_generator.kube.resources import CONTAINER_SOURCES, name_of, namespace_of

_WHY = "the generator has no destination for its events"


async def check_sources(cluster: Cluster, reporter: Reporter) -> None:
    """Whether each source has a ready pod with K_SINK. With `cluster.fix`, repair the source and wait for the pod."""
    for source in await cluster.installed(CONTAINER_SOURCES):
        try:
            state = await examine(cluster.kube, source)
        except ApiError as error:
            reporter.unknown(f"{namespace_of(source)}/{name_of(source)}: {error}")
            continue
        text = f"{state.namespace}/{state.name}: {state.text}"
        if not state.fault:
            reporter.ok(text)
        elif state.fault == "starting":
            reporter.warning(text, _WHY, "wait, then run kn-bench doctor again")
        elif not cluster.fix:
            reporter.failed(text, _WHY, "kn-bench doctor --fix")
        else:
            try:
                done = await mend(cluster.kube, state, cluster.fix_timeout_s)
            except (WaitTimeout, ApiError) as error:
                fix = f"kubectl describe containersource {state.name} -n {state.namespace}"
                reporter.failed(f"{text}; {error}", _WHY, fix)
            else:
                reporter.ok(f"repaired: {text}; {done}")
