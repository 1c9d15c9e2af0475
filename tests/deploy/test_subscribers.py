"""Triggers are deleted so that none stays in the broker's channel; what stays is found, and ended by a new broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.deploy.subscriptions import NAMESPACE, Subscriptions, broker, dead_subscriber, trigger
from tests.kube.fake_api import FakeApi, running
from workload_generator.base.errors import BenchError
from workload_generator.cluster.deploy.objects import delete
from workload_generator.cluster.deploy.subscribers import dead_subscribers, refuse_dead_subscribers, renew
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import Object, name_of
from workload_generator.scenarios import eventing_setup

TRIGGERS = 5
NAMES = [f"receiver-{number}" for number in range(TRIGGERS)]


@pytest_asyncio.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with running(FakeApi()) as api:
        yield api


@pytest_asyncio.fixture
async def kube(api: FakeApi, tmp_path: Path) -> AsyncIterator[Kube]:
    async with await Kube.connect(api.write_kubeconfig(tmp_path / "kubeconfig"), patience_s=5) as kube:
        yield kube


@pytest_asyncio.fixture
async def played(api: FakeApi) -> Subscriptions:
    played = Subscriptions(api)
    broker(api)
    for number in range(TRIGGERS):
        trigger(api, number)
    await until(lambda: sorted(played.subscribers()) == NAMES)
    return played


async def until(holds: object) -> None:
    async with asyncio.timeout(10):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def dead_after_deletion_at_once(api: FakeApi, played: Subscriptions) -> list[str]:
    for name in NAMES[:3]:
        api.remove(kinds.TRIGGERS, name, NAMESPACE)
    await until(lambda: len(api.objects(kinds.SUBSCRIPTIONS)) == TRIGGERS - 3)
    return played.subscribers()


async def test_deleting_at_once_leaves_dead_subscribers_and_ours_does_not(
    api: FakeApi, kube: Kube, played: Subscriptions
) -> None:
    gone: list[str] = []
    await delete(kube, api.objects(kinds.TRIGGERS)[:3], 20, lambda obj, why: None if why else gone.append(name_of(obj)))
    assert sorted(played.subscribers()) == NAMES[3:] and gone == NAMES[:3], "one after the other, each reported"
    assert await dead_subscribers(kube, api.objects(kinds.BROKERS)[0]) == []
    for number in range(3):
        trigger(api, number)
    await until(lambda: sorted(played.subscribers()) == NAMES)
    left = await dead_after_deletion_at_once(api, played)
    assert len(left) > 2, "the controllers are played as they were seen"
    (ours,) = api.objects(kinds.BROKERS)
    assert sorted(await dead_subscribers(kube, ours)) == sorted(set(left) - set(NAMES[3:]))


async def test_an_interrupted_deletion_is_resumed(api: FakeApi, kube: Kube, played: Subscriptions) -> None:
    said: list[str] = []
    first = asyncio.create_task(eventing_setup._delete_triggers(kube, NAMES[4:], 20, said.append))
    await until(lambda: said)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert 1 <= len(api.objects(kinds.TRIGGERS)) < TRIGGERS
    await eventing_setup._delete_triggers(kube, NAMES[4:], 20, said.append)
    assert played.subscribers() == NAMES[4:] and said[-1] == "Trigger eventing/receiver-3 is deleted; 0 left"


async def test_a_run_into_dead_subscribers_is_refused(api: FakeApi, kube: Kube, played: Subscriptions) -> None:
    await refuse_dead_subscribers(kube)  # there is no source
    channel = api.objects(kinds.CHANNELS)[0]
    dead_subscriber(api)
    api.put(kinds.CHANNELS, channel)
    await refuse_dead_subscribers(kube)
    await dead_after_deletion_at_once(api, played)
    with pytest.raises(BenchError, match="has dead subscribers in its channel: receiver-.*run kn-bench doctor --fix"):
        await refuse_dead_subscribers(kube)
    broker(api, ours=False)
    with pytest.raises(BenchError, match=r"kubectl replace --force -f -, which makes a new broker"):
        await refuse_dead_subscribers(kube)


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_new_broker_has_only_living_subscribers(
    api: FakeApi, kube: Kube, played: Subscriptions, is_interrupted: bool
) -> None:
    await dead_after_deletion_at_once(api, played)
    (before,) = api.objects(kinds.BROKERS)
    work = asyncio.create_task(renew(kube, before, 20))
    controllers = api.on_change

    def interrupt(change: str, obj: Object) -> None:
        controllers(change, obj)
        if is_interrupted and (change, obj["kind"]) == ("DELETED", "Broker"):
            work.cancel()

    api.on_change = interrupt
    await asyncio.wait([work])
    assert work.cancelled() is is_interrupted, "and the broker is there all the same"
    (after,) = api.objects(kinds.BROKERS)
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert (after["spec"], after["metadata"]["labels"]) == (before["spec"], before["metadata"]["labels"])
    await until(lambda: sorted(played.subscribers()) == NAMES[3:])
    assert await dead_subscribers(kube, after) == []
