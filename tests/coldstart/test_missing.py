"""A run whose target is not deployed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coldstart.played import NAMESPACE, Cluster
from tests.kube.conftest import api  # noqa: F401 - a fixture
from tests.kube.fake_api import FakeApi
from tests.support import Generator

MISSING = f"http://g.{NAMESPACE}.svc.cluster.local"
REASON = f"there is no revision of g in the namespace {NAMESPACE}"


async def test_a_target_that_is_not_deployed_is_reported_at_the_start_and_dropped_at_once(
    api: FakeApi,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Cluster(api)
    monkeypatch.setenv("KUBECONFIG", str(api.write_kubeconfig(tmp_path / "kubeconfig")))
    generator = Generator(tmp_path)
    rounds = {"requestsPerSecond": 1, "duration": "3s"}
    path = generator.experiment(MISSING, rate=rounds, coldStart={"maxWait": "1h"})
    ran = await generator.finish(await generator.start(f"--config={path}", "--cold-start", "--progress=plain"))
    assert f"workload-generator: {REASON}: its requests are dropped while that is so" in ran.stderr
    starts = [doc for doc in ran.lines if doc["event"] == "cold_start"]
    assert [each["message"] for each in ran.requests()] == [f"not sent: {REASON}"] * 3
    assert [each["reason"] for each in starts] == [f"not sent: {REASON}"] * 3
    assert {each["waited"] < 60_000 for each in starts} == {True}
