"""Our client and reflector with a real API server, which confirms the behaviour of the fake one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from workload_generator.kube import client, errors
from workload_generator.kube.client import Kube
from workload_generator.kube.reflector import Reflector, delete_and_wait
from workload_generator.kube.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES, Resource, name_of


@pytest_asyncio.fixture
async def ours(kubeconfig: Path) -> AsyncIterator[Kube]:
    async with await Kube.connect(kubeconfig) as kube:
        yield kube


def config_map(name: str, namespace: str, **data: str) -> dict[str, Any]:
    about = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data}


async def test_apply_patch_and_delete(ours: Kube, namespace: str) -> None:
    await ours.apply(config_map("a", namespace, a="1", b="1"))
    await ours.patch(CONFIG_MAPS, "a", {"data": {"theirs": "2"}}, namespace)
    assert (await ours.apply(config_map("a", namespace, a="3")))["data"] == {"a": "3", "theirs": "2"}
    with pytest.raises(errors.ApiConflict, match=r"\.data\.theirs"):
        await ours.apply(config_map("a", namespace, a="3", theirs="4"), force=False)
    assert (await ours.apply(config_map("a", namespace, a="3", theirs="4")))["data"]["theirs"] == "4"
    with pytest.raises(errors.ApiConflict) as raised:
        await ours.create(config_map("a", namespace))
    assert raised.value.reason == "AlreadyExists"
    stale = {"metadata": {"resourceVersion": "1"}, "data": {"a": "5"}}
    with pytest.raises(errors.ApiConflict):
        await ours.patch(CONFIG_MAPS, "a", stale, namespace)
    assert await delete_and_wait(ours, CONFIG_MAPS, "a", namespace, timeout_s=30) is True
    assert await delete_and_wait(ours, CONFIG_MAPS, "a", namespace, timeout_s=30) is False


async def test_error_responses(ours: Kube, namespace: str) -> None:
    with pytest.raises(errors.Invalid, match="dta: field not declared in schema"):
        await ours.apply({**config_map("b", namespace), "dta": {}})
    with pytest.raises(errors.ApiAbsent, match=r"no API absent\.example/v1/things"):
        await ours.list(Resource("absent.example/v1", "things", "Thing"))
    with pytest.raises(errors.ApiAbsent, match="Nothing"):
        await ours.apply({"apiVersion": "apps/v1", "kind": "Nothing", "metadata": {"name": "x"}})


async def test_a_list_in_pages_and_the_changes_after_it(
    ours: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TURN_S", 1)
    await asyncio.gather(*(ours.create(config_map(f"m{number}", namespace)) for number in range(120)))
    pages = [page async for page in ours.pages(CONFIG_MAPS, namespace, page=50)]
    assert [len(page.items) for page in pages] == [50, 50, 21]  # kube-root-ca.crt is another one
    assert len({page.resource_version for page in pages}) == 1
    async with asyncio.timeout(60), Reflector(ours, CONFIG_MAPS, namespace) as maps:
        for number in range(5):
            await ours.delete(CONFIG_MAPS, f"m{number}", namespace)
            await asyncio.sleep(0.7)  # longer than one watch
        await maps.until(lambda objects: len(objects) == 116)
        assert maps.lists == 1


async def test_a_deployments_pods_are_followed(ours: Kube, namespace: str) -> None:
    container = {"name": "main", "image": "registry.example/x:1", "resources": {"requests": {"cpu": "10m"}}}
    labels = {"app": "x"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "x", "namespace": namespace},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    async with asyncio.timeout(60), Reflector(ours, PODS, namespace, labels="app=x") as pods:
        await ours.apply(deployment)
        await pods.until(lambda now: [pod["status"]["phase"] for pod in now.values()] == ["Running"] * 3)
        await delete_and_wait(ours, DEPLOYMENTS, "x", namespace)
        await pods.until(lambda now: not now)


@pytest.mark.usefixtures("has_knative")
async def test_a_dry_run_of_a_knative_service_stores_nothing(ours: Kube, namespace: str) -> None:
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "f", "namespace": namespace},
        "spec": {"template": {"spec": {"containers": [{"image": "registry.example/f:1"}]}}},
    }
    assert name_of(await ours.apply(service, dry_run=True)) == "f"
    assert await ours.find(SERVICES, "f", namespace) is None
