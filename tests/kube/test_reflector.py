"""The reflector loses no change, whatever fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kube.fake_api import FakeApi
from workload_generator.kube import client, errors
from workload_generator.kube.client import Kube
from workload_generator.kube.reflector import ObjectChange, Reflector
from workload_generator.kube.resources import PODS, Object


def pod(name: str, phase: str = "Pending") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ours"}, "status": {"phase": phase}}


def names(objects: dict[tuple[str, str], Any]) -> set[str]:
    return {name for _, name in objects}


async def when(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


class Heard:
    """All changes of a reflector, collected."""

    def __init__(self, reflector: Reflector) -> None:
        self.changes: list[ObjectChange] = []
        self._task = asyncio.create_task(self._collect(reflector))

    async def _collect(self, reflector: Reflector) -> None:
        async for change in reflector.changes():
            self.changes.append(change)

    async def end(self) -> list[tuple[str, str, bool]]:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return [(change.type, change.object["metadata"]["name"], change.listed) for change in self.changes]


async def test_changes_have_their_time_of_arrival(api: FakeApi, kube: Kube) -> None:
    api.put(PODS, pod("old"))
    async with Reflector(kube, PODS, "ours") as pods:
        assert names(pods.objects) == {"old"}
        heard = Heard(pods)
        await when(lambda: api.watching == 1)
        before_ns = time.monotonic_ns()
        api.put(PODS, pod("new"))
        api.put(PODS, pod("new", "Running"))
        api.remove(PODS, "old", "ours")
        await when(lambda: len(heard.changes) == 3)
        assert all(before_ns < change.mono_ns <= time.monotonic_ns() for change in heard.changes)
        assert heard.changes[1].before is not None and heard.changes[1].before["status"]["phase"] == "Pending"
        assert await heard.end() == [("ADDED", "new", False), ("MODIFIED", "new", False), ("DELETED", "old", False)]
        assert names(pods.objects) == {"new"}


@pytest.mark.parametrize("how", ["ended", "refused", "disconnected"])
async def test_a_new_watch_continues_where_the_last_one_ended(api: FakeApi, kube: Kube, how: str) -> None:
    async with Reflector(kube, PODS, "ours") as pods:
        heard = Heard(pods)
        await when(lambda: api.watching == 1)
        api.put(PODS, pod("one"))
        await when(lambda: len(heard.changes) == 1)
        if how == "refused":
            api.fail("GET .*pods", status=503, times=2)
        elif how == "disconnected":
            api.fail("GET .*pods", disconnect=True, times=2)
        api.end_watches()
        api.put(PODS, pod("two"))
        await when(lambda: len(heard.changes) == 2)
        assert await heard.end() == [("ADDED", "one", False), ("ADDED", "two", False)]
        assert pods.lists == 1
        assert (pods.breaks == 0) == (how == "ended")  # aiohttp itself repeats one of two lost GETs


@pytest.mark.parametrize("as_event", [False, True])
async def test_an_expired_version_lists_again_and_marks_the_changes(api: FakeApi, kube: Kube, as_event: bool) -> None:
    for name in ("same", "changed", "gone"):
        api.put(PODS, pod(name))
    async with Reflector(kube, PODS, "ours") as pods:
        heard = Heard(pods)
        await when(lambda: api.watching == 1)
        watchers, api._watchers = api._watchers, []  # what happens now, this watch does not hear
        api.put(PODS, pod("changed", "Running"))
        api.remove(PODS, "gone", "ours")
        api.put(PODS, pod("new"))
        api.compact()
        api._watchers = watchers
        api.end_watches(expired=as_event)
        await when(lambda: len(heard.changes) == 3)
        assert sorted(await heard.end()) == [
            ("ADDED", "new", True),
            ("DELETED", "gone", True),
            ("MODIFIED", "changed", True),
        ]
        assert pods.lists == 2
        assert names(pods.objects) == {"same", "changed", "new"}


async def test_a_new_watch_continues_from_the_last_bookmark(api: FakeApi, kube: Kube) -> None:
    async with Reflector(kube, PODS, "ours") as pods:
        await when(lambda: api.watching == 1)
        api.compact()
        api.bookmark()
        api.put(PODS, pod("one"))
        await pods.until(lambda objects: names(objects) == {"one"})
        api.end_watches()
        api.put(PODS, pod("two"))
        await pods.until(lambda objects: names(objects) == {"one", "two"})
        assert pods.lists == 1


async def test_a_silent_watch_is_replaced(api: FakeApi, kube: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_S", 0.3)
    async with Reflector(kube, PODS, "ours") as pods:
        await when(lambda: pods.breaks >= 2)
        api.put(PODS, pod("one"))
        await pods.until(lambda objects: names(objects) == {"one"})


async def test_a_permanent_error_is_raised(api: FakeApi, kube: Kube) -> None:
    async with Reflector(kube, PODS, "ours") as pods:
        heard = Heard(pods)
        waiting = asyncio.create_task(pods.until(lambda _objects: False))
        await when(lambda: api.watching == 1)
        api.forbidden.add(("watch", "pods"))
        api.end_watches()
        with pytest.raises(errors.Forbidden):
            await waiting
        with pytest.raises(errors.Forbidden):
            await heard._task
    api.forbidden.add(("list", "pods"))
    with pytest.raises(errors.Forbidden):
        async with Reflector(kube, PODS):
            pass


async def test_an_expired_token_does_not_end_it(api: FakeApi, kube: Kube, tmp_path: Path) -> None:
    async with Reflector(kube, PODS, "ours") as pods:
        await when(lambda: api.watching == 1)
        api.tokens = {"new"}
        api.write_kubeconfig(tmp_path / "kubeconfig", "new")
        api.end_watches()
        api.put(PODS, pod("one"))
        await pods.until(lambda objects: names(objects) == {"one"})
        assert pods.lists == 1
        api.tokens.clear()
        api.end_watches()
        with pytest.raises(errors.Unauthorized):
            await pods.until(lambda _objects: False)


async def test_shrink_reduces_what_is_kept(api: FakeApi, kube: Kube) -> None:
    api.put(PODS, {**pod("one"), "spec": {"big": "x" * 1000}})
    keep = lambda obj: {"metadata": obj["metadata"]}  # noqa: E731
    async with Reflector(kube, PODS, "ours", shrink=keep) as pods:
        assert set(pods.objects["ours", "one"]) == {"metadata"}


async def test_at_most_one_full_page_is_in_memory(api: FakeApi, kube: Kube) -> None:
    for number in range(1200):
        api.put(PODS, {"metadata": {"name": f"p{number}", "namespace": "ours"}, "spec": {"big": "x"}})
    asked: list[int] = []

    def shrink(pod: Object) -> Object:
        asked.append(len([line for line in api.requests if "/pods?" in line]))
        return {"metadata": pod["metadata"]}

    async with Reflector(kube, PODS, "ours", shrink=shrink) as reflector:
        assert len(reflector.objects) == 1200
    assert [asked.count(page) for page in (1, 2, 3)] == [500, 500, 200]


async def test_a_watch_is_retried_after_retry_after(api: FakeApi, kube: Kube) -> None:
    async with Reflector(kube, PODS, "ours") as reflector:
        await when(lambda: api.watching == 1)
        api.fail("GET /api/v1/namespaces/ours/pods", status=429, retry_after=1, times=1)
        began = time.monotonic()
        api.end_watches()
        api.put(PODS, {"metadata": {"name": "late", "namespace": "ours"}})
        await reflector.until(lambda objects: len(objects) == 1)
        assert time.monotonic() - began >= 0.45  # half of the second at least
