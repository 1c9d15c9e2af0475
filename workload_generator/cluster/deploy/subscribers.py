"""Dead subscribers in a broker's channel: the fault, and its repair.

Eventing's subscription controller removes a Subscription from its channel by writing the whole list of subscribers,
from a cache: of Subscriptions that are deleted at the same time some stay. From then on the broker answers every event
with 500 after 6 s, though each living trigger gets it (seen on Eventing 1.22.2). A new broker has a new channel.
"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from workload_generator.base.errors import BenchError
from workload_generator.cluster.deploy.objects import apply, delete, manifest_of, wait_ready
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent
from workload_generator.kube.names import GENERATOR, PART_OF_LABEL, PRODUCT
from workload_generator.kube.resources import Object, name_of, namespace_of

CONSEQUENCE = "every event is answered with 500 after 6 s, though each living trigger gets it"


def is_ours(broker: Object) -> bool:
    """Whether `kn-bench` created it, by its label."""
    return bool((broker["metadata"].get("labels") or {}).get(PART_OF_LABEL) == PRODUCT)


def new_broker(broker: Object) -> str:
    """The command that makes a new broker of this one."""
    if is_ours(broker):
        return "kn-bench doctor --fix"
    kubectl = f"kubectl get broker {name_of(broker)} -n {namespace_of(broker)} -o yaml"
    return f"{kubectl} | kubectl replace --force -f -, which makes a new broker"


async def dead_subscribers(kube: Kube, broker: Object) -> list[str]:
    """The triggers to which the broker's channel delivers though their Subscriptions are gone. Raises ApiError."""
    namespace, channel = namespace_of(broker), f"{name_of(broker)}-kne-trigger"

    async def subscribers() -> dict[str, str]:
        found = await kube.find(kinds.CHANNELS, channel, namespace)
        listed = found["spec"].get("subscribers") or () if found is not None else ()
        return {each["uid"]: _trigger_of(each) for each in listed}

    try:
        before = await subscribers()
        living = {each["metadata"]["uid"] for each in (await kube.list(kinds.SUBSCRIPTIONS, namespace)).items}
        if before.keys() <= living:
            return []
        # A Subscription that ended meanwhile was removed from the channel before.
        return [name for uid, name in (await subscribers()).items() if uid in before and uid not in living]
    except ApiAbsent:  # a broker without channels
        return []


def _trigger_of(subscriber: Object) -> str:
    """The trigger's name in `http://broker-filter…/triggers/NAMESPACE/NAME/UID`, else the Subscription's uid."""
    words = urlsplit(subscriber.get("subscriberUri") or "").path.split("/")
    return words[3] if words[1:2] == ["triggers"] and len(words) > 3 else str(subscriber["uid"])


def fault_of(broker: Object, dead: list[str]) -> str:
    """The fault, in a line."""
    return f"Broker {namespace_of(broker)}/{name_of(broker)} has dead subscribers in its channel: {', '.join(dead)}"


async def refuse_dead_subscribers(kube: Kube) -> None:
    """Raises BenchError when the broker that the generator sends to has dead subscribers, ApiError."""
    try:
        source = await kube.find(kinds.CONTAINER_SOURCES, GENERATOR, GENERATOR)
    except ApiAbsent:  # the sink is set by hand
        return
    sink = (source or {"spec": {}})["spec"].get("sink", {}).get("ref") or {}
    if sink.get("kind") != kinds.BROKERS.kind:
        return
    broker = await kube.find(kinds.BROKERS, sink["name"], sink.get("namespace", GENERATOR))
    if broker is not None and (dead := await dead_subscribers(kube, broker)):
        raise BenchError(f"{fault_of(broker, dead)}: {CONSEQUENCE}; run {new_broker(broker)}")


async def renew(kube: Kube, broker: Object, timeout_s: float) -> None:
    """Replace the broker by a new one, also when this is cancelled meanwhile. Raises WaitTimeout, ApiError."""

    async def replace() -> None:
        await delete(kube, [broker], timeout_s)
        made = (await apply(kube, manifest_of(broker))).object
        there = (await kube.list(kinds.TRIGGERS, namespace_of(broker))).items
        await wait_ready(
            kube, [made, *(each for each in there if each["spec"]["broker"] == name_of(broker))], timeout_s
        )

    work = asyncio.ensure_future(replace())
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await work
        raise
