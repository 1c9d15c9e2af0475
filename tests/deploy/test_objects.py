"""Applying and waiting, below the commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.kube.fake_api import FakeApi, running
from workload_generator.cluster.deploy.objects import apply
from workload_generator.kube import resources as kinds
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiConflict


@pytest_asyncio.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with running(FakeApi()) as api:
        yield api


@pytest_asyncio.fixture
async def kube(api: FakeApi, tmp_path: Path) -> AsyncIterator[Kube]:
    async with await Kube.connect(api.write_kubeconfig(tmp_path / "kubeconfig"), patience_s=5) as kube:
        yield kube


MANIFEST = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "c", "namespace": "n"},
    "data": {"a": "1"},
}
STATUS = {"manager": "kn-bench", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}}
OTHERS = {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {"f:z": {}}}}
APPLIED = {"manager": "kn-bench", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:a": {}}}}
PATCHED = {"manager": "kn-bench", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:b": {}}}}


def there(api: FakeApi) -> None:
    about = {"name": "c", "namespace": "n", "managedFields": [STATUS, OTHERS, APPLIED, PATCHED]}
    api.put(kinds.CONFIG_MAPS, {"metadata": about, "data": {"a": "1", "b": "2", "z": "3"}})


async def test_what_we_patched_becomes_what_we_applied_and_what_others_own_stays_theirs(
    api: FakeApi, kube: Kube
) -> None:
    there(api)
    await apply(kube, MANIFEST)
    found = api.find(kinds.CONFIG_MAPS, "c", "n")
    assert found is not None
    both = {**APPLIED, "fieldsV1": {"f:data": {"f:a": {}, "f:b": {}}}}
    assert found["metadata"]["managedFields"] == [STATUS, OTHERS, both]


async def test_controllers_that_are_faster_only_cost_another_look(api: FakeApi, kube: Kube) -> None:
    there(api)
    api.fail("PATCH .*/c$", status=409, reason="Conflict", times=3)
    assert (await apply(kube, MANIFEST)).outcome == "unchanged"
    api.requests.clear()
    there(api)
    api.fail("PATCH .*/c$", status=409, reason="Conflict", times=99)
    with pytest.raises(ApiConflict):
        await apply(kube, MANIFEST)
    assert len(api.requests) < 50


async def test_a_dry_run_takes_nothing_over(api: FakeApi, kube: Kube) -> None:
    there(api)
    await apply(kube, MANIFEST, dry_run=True)
    assert len([line for line in api.requests if line.startswith("PATCH")]) == 1
