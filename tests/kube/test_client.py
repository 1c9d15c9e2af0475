"""The client against a server that refuses requests, breaks connections and expires versions."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.kube.fake_api import FakeApi
from workload_generator.kube import client, credentials, errors
from workload_generator.kube.client import Kube
from workload_generator.kube.reflector import delete_and_wait
from workload_generator.kube.resources import CONFIG_MAPS, NODES, PODS, SERVICES, Resource, is_ready


def config_map(name: str = "a", **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "ours"},
        "data": data,
    }


async def test_all_pages_of_a_list_are_one_state(api: FakeApi, kube: Kube) -> None:
    for number in range(1200):
        api.put(PODS, {"metadata": {"name": f"p{number}", "namespace": "ours"}})
    pages = kube.pages(PODS, "ours")
    first = await anext(pages)
    api.put(PODS, {"metadata": {"name": "later", "namespace": "ours"}})
    rest = [page async for page in pages]
    assert [len(page.items) for page in (first, *rest)] == [500, 500, 200]
    assert {page.resource_version for page in rest} == {first.resource_version}
    assert first.items[0]["kind"] == "Pod"
    assert len((await kube.list(PODS, "ours")).items) == 1201


async def test_a_forgotten_page_is_expired(api: FakeApi, kube: Kube) -> None:
    for number in range(3):
        api.put(PODS, {"metadata": {"name": f"p{number}", "namespace": "ours"}})
    pages = kube.pages(PODS, "ours", page=2)
    await anext(pages)
    api.compact()
    with pytest.raises(errors.Expired):
        await anext(pages)


async def test_what_is_applied_is_ours_and_what_others_set_stays(api: FakeApi, kube: Kube) -> None:
    await kube.apply(config_map(a="1", b="1"))
    await kube.patch(CONFIG_MAPS, "a", {"data": {"theirs": "2"}}, "ours")
    done = await kube.apply(config_map(a="3"))
    assert done["data"] == {"a": "3", "theirs": "2"}


async def test_a_field_of_another_manager_is_a_conflict_unless_forced(api: FakeApi, kube: Kube) -> None:
    api.put(CONFIG_MAPS, config_map(a="1"))
    uid = (await kube.get(CONFIG_MAPS, "a", "ours"))["metadata"]["uid"]
    api._owners[uid] = {"helm": {("data", "a")}}
    with pytest.raises(errors.ApiConflict, match=r"helm.*data\.a"):
        await kube.apply(config_map(a="2"), force=False)
    assert (await kube.apply(config_map(a="2")))["data"] == {"a": "2"}


async def test_a_dry_run_shows_admission_and_stores_nothing(api: FakeApi, kube: Kube) -> None:
    api.admit = lambda obj: obj["metadata"].setdefault("labels", {}).update(admitted="yes")
    assert (await kube.create(config_map(), dry_run=True))["metadata"]["labels"] == {"admitted": "yes"}
    assert await kube.find(CONFIG_MAPS, "a", "ours") is None


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 403, "reason": "Forbidden"}, errors.Forbidden),
        ({"status": 409, "reason": "Conflict"}, errors.ApiConflict),
        ({"status": 422, "reason": "Invalid"}, errors.Invalid),
        ({"status": 410, "reason": "Expired"}, errors.Expired),
        ({"status": 500, "reason": "InternalError"}, errors.Busy),
    ],
)
async def test_a_refused_write_is_not_retried_and_has_its_own_error(
    api: FakeApi, kube: Kube, fault: dict[str, Any], expected: type[errors.ApiError]
) -> None:
    api.put(CONFIG_MAPS, config_map())
    api.fail("PATCH .*configmaps/a", **fault, times=9)
    with pytest.raises(expected, match="PATCH /api/v1/namespaces/ours/configmaps/a: fault of"):
        await kube.patch(CONFIG_MAPS, "a", {"data": {"b": "1"}}, "ours")
    assert sum(line.startswith("PATCH") for line in api.requests) == 1


async def test_a_429_is_retried_after_its_retry_after(api: FakeApi, kube: Kube) -> None:
    api.put(CONFIG_MAPS, config_map())
    api.fail("PATCH", status=429, retry_after=1)
    began = asyncio.get_running_loop().time()
    await kube.patch(CONFIG_MAPS, "a", {"data": {"b": "1"}}, "ours")
    assert asyncio.get_running_loop().time() - began >= 1


async def test_retries_end_with_patience_s(api: FakeApi, kube: Kube) -> None:
    api.fail("GET", status=429, retry_after=600)
    with pytest.raises(errors.Busy) as raised:
        await kube.list(PODS)
    assert raised.value.retry_after_s == 600


async def test_a_read_survives_broken_connections_and_a_write_does_not(api: FakeApi, kube: Kube) -> None:
    api.put(CONFIG_MAPS, config_map())
    api.fail("GET .*configmaps", disconnect=True, times=2)
    api.fail("GET .*configmaps", status=503, times=1)
    assert await kube.find(CONFIG_MAPS, "a", "ours")
    api.fail("POST", disconnect=True)
    with pytest.raises(errors.Unreachable):
        await kube.create(config_map("b"))


async def test_a_slow_response_times_out(api: FakeApi, tmp_path: Path) -> None:
    api.fail("GET", delay_s=30)
    path = api.write_kubeconfig(tmp_path / "slow")
    async with await Kube.connect(path, patience_s=0, timeout_s=0.2) as kube:
        with pytest.raises(errors.Unreachable, match="did not answer in time"):
            await kube.list(PODS)


async def test_an_absent_api_and_an_absent_object_are_different_errors(tmp_path: Path) -> None:
    from tests.kube.fake_api import running

    async with running(FakeApi(served=[CONFIG_MAPS])) as api:
        async with await Kube.connect(api.write_kubeconfig(tmp_path / "config")) as kube:
            with pytest.raises(errors.NotFound, match='"x" not found') as raised:
                await kube.get(CONFIG_MAPS, "x", "ours")
            assert not isinstance(raised.value, errors.ApiAbsent)
            with pytest.raises(errors.ApiAbsent, match=r"no API serving\.knative\.dev/v1/services/x"):
                await kube.find(SERVICES, "x", "ours")
            with pytest.raises(errors.ApiAbsent, match=r"no API serving\.knative\.dev/v1"):
                await kube.apply({"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "x"}})


async def test_deleting_waits_for_finalizers(api: FakeApi, kube: Kube) -> None:
    held = config_map()
    held["metadata"]["finalizers"] = ["ours/held"]
    api.put(CONFIG_MAPS, held)
    with pytest.raises(errors.WaitTimeout, match=r"configmaps ours/a is not gone after 0\.3 s"):
        await delete_and_wait(kube, CONFIG_MAPS, "a", "ours", timeout_s=0.3)
    deleting = asyncio.create_task(delete_and_wait(kube, CONFIG_MAPS, "a", "ours", timeout_s=20))
    await asyncio.sleep(0.1)
    assert not deleting.done()
    await kube.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, "ours")
    assert await deleting is True
    assert await delete_and_wait(kube, CONFIG_MAPS, "a", "ours") is False


async def test_deleting_does_not_wait_for_another_of_the_same_name(api: FakeApi, kube: Kube) -> None:
    api.put(CONFIG_MAPS, config_map())

    def replace(change: str, obj: dict[str, Any]) -> None:
        if change == "DELETED" and obj["metadata"]["name"] == "a":
            api.put(CONFIG_MAPS, config_map(new="yes"))

    api.on_change = replace
    assert await delete_and_wait(kube, CONFIG_MAPS, "a", "ours", timeout_s=20) is True
    (left,) = api.objects(CONFIG_MAPS)
    assert left["data"] == {"new": "yes"}


async def test_ready_is_of_the_present_generation(kube: Kube) -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "observedGeneration": 1}
    assert is_ready({"metadata": {"generation": 1}, "status": ready})
    assert not is_ready({"metadata": {"generation": 2}, "status": ready})


async def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    api = FakeApi()
    api.url = "http://127.0.0.1:1"
    async with await Kube.connect(api.write_kubeconfig(tmp_path / "config"), patience_s=0) as kube:
        with pytest.raises(errors.Unreachable, match="127.0.0.1:1 cannot be reached"):
            await kube.list(NODES)


async def test_a_pod_reads_its_token_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trustme

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "namespace").write_text("ours")
    pod = credentials.pod_credentials(tmp_path)
    first = await pod.load()
    (tmp_path / "token").write_text("two\n")
    second = await pod.load()
    assert (first.token, second.token, second.server, second.namespace) == (
        "one",
        "two",
        "https://10.0.0.1:443",
        "ours",
    )
    assert first.tls is second.tls
    assert not pod.is_stale()


def test_paths() -> None:
    assert PODS.path("p", "ours", "log") == "/api/v1/namespaces/ours/pods/p/log"
    assert SERVICES.path(namespace="ours") == "/apis/serving.knative.dev/v1/namespaces/ours/services"
    assert NODES.path("n", "ignored") == "/api/v1/nodes/n"
    assert str(Resource("apps/v1", "deployments", "Deployment")) == "deployments.apps"


async def test_a_watch_ends_when_the_server_ends_it(api: FakeApi, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TURN_S", 1)
    version = (await kube.list(PODS)).resource_version
    api.put(PODS, {"metadata": {"name": "p", "namespace": "ours"}})
    async with contextlib.aclosing(kube.watch(PODS, resource_version=version)) as events:
        seen = [(event.type, event.object["metadata"]["name"]) async for event in events]
    assert seen == [("ADDED", "p")]


async def test_raw_reads_any_path(api: FakeApi, kube: Kube) -> None:
    api.raw["/api/v1/nodes/n/proxy/stats/summary"] = {"node": {"nodeName": "n"}}
    assert b'"nodeName"' in await kube.raw("/api/v1/nodes/n/proxy/stats/summary", {"only_cpu_and_memory": "true"})
    assert api.requests[-1] == "GET /api/v1/nodes/n/proxy/stats/summary?only_cpu_and_memory=true"
    with pytest.raises(errors.ApiAbsent):
        await kube.raw("/nothing")
    api.fail("GET /api/v1/nodes/n/proxy", status=503)  # asked again, as all GETs are
    assert await kube.raw("/api/v1/nodes/n/proxy/stats/summary")
