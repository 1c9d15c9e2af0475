"""`--serve`: readiness, the metrics of runs that others start, and the end of the pod."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests import warm
from tests.support import BRIEF, OK, Generator, after, at_once, target
from workload_generator.base.private_folder import make_private_folder
from workload_generator.log.status_file import StatusFile, read_statuses
from workload_generator.log.totals import Totals
from workload_generator.run import metrics, serve
from workload_generator.run.lock import lock_holder, lock_path, run_lock

HEADER = {"run_id": "r", "experiment": {"name": "e", "mode": "open"}, "shard": {"index": 0, "count": 2}}
BEAT = {"line": {"planned": 9, "started": 8, "finished": 7, "dropped": 1}, "elapsed_ns": 10**9, "in_flight": 1}


@dataclass
class Pod:
    """A serving process."""

    process: warm.Process
    url: str

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as response:
            return response.status, await response.text()

    async def metrics(self) -> dict[str, float]:
        """Samples by name and labels, those of the first shard without its label."""
        status, text = await self.get("/metrics")
        assert status == 200
        return samples(text)

    async def end(self) -> int:
        self.process.terminate()
        return await self.process.wait()


def samples(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if (k, v) != ("shard", "0"))
            found[sample.name.removeprefix("workload_generator_") + (f"{{{labels}}}" if labels else "")] = sample.value
    return found


@contextlib.asynccontextmanager
async def serving(folder: Path, *flags: str, **environment: str) -> AsyncIterator[Pod]:
    """`--serve` with its temporary files in `folder`, as `Generator(folder)` has them."""
    variables = {k: v for k, v in os.environ.items() if k != "K_SINK"}
    variables |= {"PORT": "0", "BIND": "127.0.0.1", "TMPDIR": str(folder)} | environment
    process = await warm.start("workload_generator", "--serve", f"--log-dir={folder}", *flags, environment=variables)
    try:
        line = (await process.stderr.readline()).decode()
        port = re.search(r"on port ([0-9]+)$", line)
        assert port, line
        yield Pod(process, f"http://127.0.0.1:{port[1]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path, **{"run.runner._HEARTBEAT_S": 0.1, "run.signals.GRACE_S": 60.0})


@pytest.mark.parametrize(
    ("flags", "environment", "reason"),
    [
        ([], {}, None),
        (["--event"], {"K_SINK": "http://broker"}, None),
        (["--event=true"], {}, "K_SINK is not set"),
        (["--event=false"], {}, None),
        (["--log-dir=/nowhere"], {}, "/nowhere"),
    ],
)
async def test_readiness_says_why_not(
    tmp_path: Path, flags: list[str], environment: dict[str, str], reason: str | None
) -> None:
    async with serving(tmp_path, *flags, **environment) as pod:
        status, text = await pod.get("/readyz")
        assert (status, text) == (200, "ready\n") if reason is None else (status == 503 and reason in text), text
        assert await pod.get("/healthz") == (200, "ok\n"), "a pod that is not ready must not be restarted"
        assert await pod.end() == 0, "SIGTERM without a run"


async def test_a_run_shows_in_the_metrics_while_it_goes_and_after(tmp_path: Path, generator: Generator) -> None:
    async with serving(tmp_path) as pod, target(at_once) as url:
        assert (await pod.metrics())["run_in_progress"] == 0
        path = generator.experiment(url, rate={"duration": "60s"})
        run = await generator.run_until_sending(f"--config={path}", "--run-id=seen")
        while not (seen := await pod.metrics()).get("arrivals_finished_total"):
            await asyncio.sleep(0.05)
        assert seen["run_in_progress"] == 1
        assert seen["run_planned_seconds"] == 60
        assert seen["ttfb_seconds{quantile=0.5}"] > 0
        run.terminate()
        ran = await generator.finish(run)
        seen = await pod.metrics()
        counts = ran.trailer["counts"]["measure"]
        assert seen["run_in_progress"] == 0
        assert seen["results_total{outcome=ok,phase=measure}"] == counts["ok"] == seen["ttfb_seconds_count"]
        assert seen["responses_total{phase=measure,status=200}"] == counts["ok"]
        (info,) = [name for name in seen if name.startswith("run_info")]
        assert "run_id=seen" in info and "verdict=invalid" in info


async def test_sigterm_is_passed_on_to_the_run_and_waits_for_its_end(tmp_path: Path, generator: Generator) -> None:
    """The pod outlives the run, which answers what is in flight and closes its log."""
    async with serving(tmp_path) as pod, target(after(0.5)) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        run = await generator.run_until_sending(f"--config={path}")
        served = asyncio.create_task(pod.end())
        ran_code = await run.wait()
        assert await served == 0
    ran = await generator.finish(run)
    assert ran_code == 143
    assert ran.trailer["verdict"] == "invalid" and "SIGTERM" in ran.trailer["reasons"][0]
    assert ran.trailer["counts"]["measure"]["cancelled"] == 0


async def test_no_run_starts_in_a_terminating_pod(tmp_path: Path, generator: Generator) -> None:
    second_is_refused = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        await second_is_refused.wait()
        writer.write(OK)

    async with serving(tmp_path) as pod, target(answer) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        run = await generator.start("--output=json", "--progress=none", f"--config={path}")
        while not (await pod.metrics()).get("arrivals_started_total"):
            await asyncio.sleep(0.05)
        served = asyncio.create_task(pod.end())
        while (status := (await pod.get("/readyz"))[0]) == 200:
            await asyncio.sleep(0.01)
        assert status == 503
        second = await generator.start(f"--config={path}")
        assert b"one run at a time" in await second.stderr.read()
        assert await second.wait() == 2
        second_is_refused.set()
        assert await run.wait() == 143
        assert await served == 0


async def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with serving(tmp_path) as pod:
        port = pod.url.rpartition(":")[2]
        with pytest.raises(AssertionError, match=f"port {port}: .*address already in use"):
            async with serving(tmp_path / "other", PORT=port):
                raise NotImplementedError


async def test_without_serve_a_run_shows_nothing(tmp_path: Path, generator: Generator) -> None:
    async with target(at_once) as url:
        await generator.run(f"--config={generator.experiment(url, rate=BRIEF)}")
    assert not (tmp_path / f"workload-generator-{os.getuid()}/workload-generator.boards").exists()


def test_the_holder_of_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert lock_holder() is None, "no file"
    with run_lock("one"):
        assert lock_holder() == os.getpid()
    assert f"process {os.getpid()}" in lock_path().read_text()
    assert lock_holder() is None, "what an earlier run left"


def test_an_invisible_run_does_not_hold_up_the_pod_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(serve, "_UNSEEN_S", 0.1)
    monkeypatch.setattr(serve, "_reap", lambda: False)  # the children of the tests are not its own
    make_private_folder()
    with lock_path().open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("another container's, process 999999999, since then\n")
        file.flush()
        serve.RunServer(tmp_path, event=False, statuses=tmp_path)._see_out()
    assert "another container's" in capsys.readouterr().err


def test_a_failed_share_shows_as_infinity(tmp_path: Path) -> None:
    totals = Totals([[200]])
    totals.histograms["ttfb"].record_all([1000] * 9, beyond=1)
    StatusFile(tmp_path, HEADER, 10**10).update({**BEAT, "phase": "measure"}, totals)
    seen = samples(exposition(tmp_path))
    assert seen["ttfb_seconds{quantile=0.5}"] == 0.001
    assert seen["ttfb_seconds{quantile=0.99}"] == float("inf")
    assert seen["ttfb_seconds_count"] == 10
    assert (seen["arrivals_planned_total"], seen["requests_in_flight"]) == (9, 1)


def test_a_run_that_ended_before_its_first_heartbeat_is_shown_too(tmp_path: Path) -> None:
    StatusFile(tmp_path, HEADER, 10**10).finish(Totals([[200]]), "valid")
    seen = samples(exposition(tmp_path))
    assert (seen["arrivals_planned_total"], seen["requests_in_flight"]) == (0, 0)
    assert [name for name in seen if name.startswith("run_info") and "verdict=valid" in name]


def test_only_the_newest_run_is_shown_and_what_is_no_status_file_is_passed_over(tmp_path: Path) -> None:
    totals = Totals([[200]])
    for run, index in (("old", 0), ("old", 1), ("new", 0)):
        header = {**HEADER, "run_id": run, "shard": {"index": index, "count": 2}}
        StatusFile(tmp_path, header, 10**10).update({**BEAT, "phase": "ramp"}, totals)
    (tmp_path / "7.json").write_text("{")
    assert [(status["run_id"], status["shard"]) for status in read_statuses(tmp_path)] == [("new", 0)]


def exposition(folder: Path) -> str:
    class Statuses(Collector):
        def collect(self) -> Any:
            return metrics.families(read_statuses(folder), in_progress=True)

    registry = CollectorRegistry()
    registry.register(Statuses())
    return generate_latest(registry).decode()


def test_a_status_file_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "gone", HEADER, 10**10)
    status.update({**BEAT, "phase": "ramp"}, Totals([[200]]))
    status.finish(Totals([[200]]), "valid")
    assert read_statuses(tmp_path / "gone") == []
