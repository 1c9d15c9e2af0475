"""The check of ContainerSources, which can mend what it finds."""

from __future__ import annotations

from workload_generator.cluster.deploy.sources import examine, mend
from workload_generator.cluster.doctor.findings import Findings
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, WaitTimeout
from workload_generator.kube.resources import CONTAINER_SOURCES, name_of, namespace_of

_WHY = "the generator has nowhere to send its events"


async def check_sources(kube: Kube, found: Findings, *, fix: bool, timeout_s: float) -> None:
    """Every source: whether a pod of it is ready and has K_SINK. With `fix` what is wrong is mended and waited for."""
    try:
        sources = (await kube.list(CONTAINER_SOURCES)).items
    except ApiAbsent:
        return
    except ApiError as error:
        return found.unknown(str(error))
    for source in sources:
        try:
            state = await examine(kube, source)
        except ApiError as error:
            found.unknown(f"{namespace_of(source)}/{name_of(source)}: {error}")
            continue
        text = f"{state.namespace}/{state.name}: {state.text}"
        if not state.fault:
            found.ok(text)
        elif state.fault == "starting":
            found.warning(text, _WHY, "wait, and look again")
        elif not fix:
            found.failed(text, _WHY, "kn-bench doctor --fix")
        else:
            try:
                done = await mend(kube, state, timeout_s)
            except (WaitTimeout, ApiError) as error:
                found.failed(f"{text}; {error}", _WHY, "look at its events: kubectl describe")
            else:
                found.ok(f"mended: {text}; {done}")
    return None
