"""The path of requests to functions: asked for by a flag, and recorded as it was observed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import needs
from tests.deploy.controller import Controller
from tests.kube.fake_api import FakeApi, running
from workload_generator.cluster.paths import observed, recorded
from workload_generator.kube.client import Kube
from workload_generator.kube.resources import ENDPOINTS, SERVERLESS_SERVICES, SERVICES, Object

REVISION = "empty-go-http-0-00001"
ABOUT: dict[str, Any] = {"name": REVISION, "namespace": "functions"}
LABELS = {
    "serving.knative.dev/service": "empty-go-http-0",
    "serving.knative.dev/revision": REVISION,
    "networking.internal.knative.dev/serviceType": "Public",
}


def mode(word: str) -> Object:
    return {"metadata": {**ABOUT, "labels": LABELS}, "spec": {"mode": word}}


def endpoints(*namespaces: str) -> Object:
    addresses = [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "namespace": each}} for each in namespaces]
    return {"metadata": {**ABOUT, "labels": LABELS}, "subsets": [{"addresses": addresses}] if addresses else None}


@pytest.mark.parametrize(
    ("word", "spaces", "kind", "path"),
    [
        ("Proxy", ("knative-serving",), "activator", "activator"),
        ("Serve", ("functions", "functions"), "pods", "direct"),
        ("Serve", ("knative-serving",), "activator", "activator"),
        ("Proxy", ("functions",), "pods", "direct"),
        ("Serve", ("functions", "knative-serving"), "mixed", None),
        ("Proxy", (), None, "activator"),
        ("Serve", (), None, "direct"),
        (None, (), None, None),
    ],
)
def test_the_path_is_whose_the_endpoints_are(
    word: str | None, spaces: tuple[str, ...], kind: str | None, path: str | None
) -> None:
    key = ("functions", REVISION)
    modes = {key: mode(word)} if word else {}
    found = observed(REVISION, modes, {key: endpoints(*spaces)})
    assert found == {"revision": REVISION, "mode": word, "endpoints": kind, "path": path}


@pytest_asyncio.fixture
async def observed_api() -> AsyncIterator[FakeApi]:
    async with running(FakeApi()) as api:
        about = {"name": "empty-go-http-0", "namespace": "functions"}
        api.put(SERVICES, {"metadata": about, "status": {"latestReadyRevisionName": REVISION}})
        yield api


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def last(file: Path, **fields: Any) -> dict[str, Any]:
    """The last line, once it has these fields."""
    while not (lines := read(file)) or not fields.items() <= lines[-1].items():
        await asyncio.sleep(0.01)
    return lines[-1]


async def test_the_path_is_recorded_with_its_changes(observed_api: FakeApi, tmp_path: Path) -> None:
    api, file = observed_api, tmp_path / "logs" / "s_environment.jsonl"
    api.put(SERVERLESS_SERVICES, mode("Proxy"))
    api.put(ENDPOINTS, endpoints("knative-serving"))
    async with await Kube.connect(api.write_kubeconfig(tmp_path / "kubeconfig")) as kube:
        async with recorded(kube, ["empty-go-http-0"], "r1", file):
            about = {"event": "path", "run_id": "r1", "service": "empty-go-http-0", "revision": REVISION}
            first = await last(file, **about, mode="Proxy", endpoints="activator", path="activator")
            assert first["time"].endswith("Z") and read(file) == [first]
            api.put(SERVERLESS_SERVICES, mode("Serve"))
            api.put(ENDPOINTS, endpoints("functions"))
            await last(file, **about, mode="Serve", endpoints="pods", path="direct")
        before = read(file)
        async with recorded(kube, [], "r2", file):
            assert read(file) == before
        api.fail("/serverlessservices", status=403, reason="Forbidden", times=9)
        async with recorded(kube, ["empty-go-http-0"], "r3", file):
            assert "fault of 403" in (await last(file, run_id="r3", path=None))["why"]


@needs.mark(needs.KUSTOMIZE)
@pytest.mark.parametrize(("path", "value"), [("activator", "-1"), ("direct", "0")])
def test_deploy_and_patch_ask_for_a_path(
    controller: Controller, kn_bench: Callable[..., int], path: str, value: str
) -> None:
    def annotations() -> dict[str, str]:
        found = controller.api.find(SERVICES, "empty-go-http-0", "functions")
        assert found is not None
        return dict(found["spec"]["template"].get("metadata", {}).get("annotations") or {})

    name = "autoscaling.knative.dev/target-burst-capacity"
    assert kn_bench("deploy", "empty-go-http", f"--path={path}") == 0
    assert annotations()[name] == value
    assert kn_bench("patch", "--path=none") == 0
    assert name not in annotations()
    assert kn_bench("patch", f"--path={path}") == 0
    assert annotations()[name] == value
