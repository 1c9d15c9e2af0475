"""Cold starts of the embedded platform: proofs and phases, against known delays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.emulator.platforms import DOMAIN, FUNCTION, SOON, local, until
from tests.emulator.test_runs import run
from tests.results.logs import rows_of
from tests.support import Generator
from workload_generator.base.backoff import Backoff
from workload_generator.coldstart.proof import Moment
from workload_generator.emulator import service
from workload_generator.results.ingest.extract import extract
from workload_generator.results.report.answers import ask
from workload_generator.results.report.conclusions import summarise
from workload_generator.results.report.sections import make_tables

NAME = f"{FUNCTION}-0"


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


def lines(ran: Any) -> list[dict[str, Any]]:
    return [doc for doc in ran.lines if doc["event"] == "cold_start"]


ROUNDS = {"requestsPerSecond": 0.1, "duration": "20s"}
COLD = {"settle": "100ms", "maxWait": "30s"}


async def test_every_start_from_zero_is_proven_and_its_phases_add_up(generator: Generator, tmp_path: Path) -> None:
    late = f"{FUNCTION}-1"
    services = {NAME: {"env": {"SLEEP_BEFORE_S": "0.4"}}, late: {"env": {"READY_AFTER_S": "0.6"}}}
    async with local(tmp_path, services, **SOON) as platform:
        ran = await run(generator, platform, "--cold-start", services=(NAME, late), rate=ROUNDS, coldStart=COLD)
    starts, requests = lines(ran), ran.requests()
    assert ran.lines[0]["cold_starts"] == {"source": "local", "wait": "zero", "unknown": None}
    assert len(starts) == len(requests) >= 2 and {each["proven"] for each in starts} == {True}
    for start, request in zip(starts, requests, strict=True):
        assert (start["seq"], start["instance"]) == (request["seq"], request["instance"])
        assert request["cold"] is start["cold"] is True and start["zero_for"] >= 100
        points = start["points"]
        assert list(points) == ["scale", "created", "listening", "ready", "first_byte"]
        assert abs(points["first_byte"] - request["ttfb"]) <= 0.002
        if NAME in start["target"]:
            assert points["listening"] - points["created"] >= 400 - start["error"], "it sleeps before it listens"
        else:
            assert points["ready"] - points["created"] >= 600 - start["error"], "it is ready late"
    db = tmp_path / "benchmark.db"
    assert not extract(generator.logs, db).skipped
    sums = rows_of(db, "SELECT seq, sum(ms) AS ms, min(ms) AS least FROM cold_start_phases GROUP BY seq")
    by_seq = {row["seq"]: row for row in sums}
    for request in requests:
        found = by_seq[request["seq"]]
        assert found["least"] >= 0 and abs(found["ms"] - request["ttfb"]) <= 0.002
    (proof,) = rows_of(db, "SELECT sum(requests) AS n, sum(proven) AS p, min(share) AS s FROM cold_start_proofs")
    assert proof["n"] == proof["p"] == len(starts) and proof["s"] == 1
    assert extract(generator.logs, db).rows == 0 and len(rows_of(db, "SELECT * FROM cold_starts")) == len(starts)


async def test_a_crashed_start_proves_nothing_and_a_later_one_does(
    generator: Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "BACKOFF", Backoff(0.1, 0.1))
    monkeypatch.setattr(service, "MOST_RETRIES", 2)
    env = {"CRASH_ONCE": str(tmp_path / "crashed")}
    cold = {**COLD, "settle": "400ms"}  # until then the platform refuses
    async with local(tmp_path, {NAME: {"env": env}}, **SOON) as platform:
        ran = await run(generator, platform, "--cold-start", rate={**ROUNDS, "duration": "30s"}, coldStart=cold)
        crashed = [event.instance for event in platform.events if event.kind == "exited"][0]
    first, second, third = lines(ran)
    assert [row["status"] for row in ran.requests()] == [504, 200, 200]
    assert (first["zero"], first["proven"], first["instance"]) == (True, None, None), first
    # The platform tries again by itself, before the second request or after it: only the third finds a zero for sure.
    assert second["instance"] != crashed, second
    assert (third["proven"], third["cold"]) == (True, True) and third["instance"] not in (crashed, second["instance"])


async def test_a_burst_at_zero_starts_more_instances_than_it_needs(generator: Generator, tmp_path: Path) -> None:
    """One instance could take all requests; the autoscaler starts more while none is ready."""
    ready_s, requests = 0.8, 4
    scaling = {"target": 1, "max-scale": 3, "env": {"READY_AFTER_S": str(ready_s), "DELAY_MS": "200"}}
    async with local(tmp_path, {NAME: scaling}, **SOON) as platform:
        cold = {**COLD, "burst": requests, "maxWait": "60s"}
        ran = await run(generator, platform, "--cold-start", rate={**ROUNDS, "duration": "4s"}, coldStart=cold)
        spawned = {each.instance: each.mono_ns for each in platform.events if each.kind == "spawned"}
        ended = {each.instance: each.mono_ns for each in platform.events if each.kind == "exited"}
    rows = ran.requests()
    (burst,) = [doc for doc in ran.lines if doc["event"] == "cold_burst"]
    assert (burst["seq"], burst["requests"], burst["zero"], burst["source"]) == (0, requests, True, "local")
    assert [row["status"] for row in rows] == [200] * requests and not lines(ran)
    assert {each["instance"] for each in burst["instances"]} == set(spawned) and len(spawned) == 3
    db = tmp_path / "benchmark.db"
    assert not extract(generator.logs, db).skipped
    (cost,) = rows_of(db, "SELECT * FROM cold_burst_costs")
    used = {row["instance"] for row in rows}
    assert (cost["requests"], cost["ok"], cost["waiting"], cost["unknown"]) == (requests, requests, requests, 0)
    assert (cost["started"], cost["needed"], cost["overshoot"]) == (3, len(used), 3 - len(used))
    wasted_s = sum(ended[name] - spawned[name] for name in spawned if name not in used) / 1e9
    assert abs(cost["wasted_s"] - wasted_s) < 0.01
    assert abs(cost["instance_s"] - sum(ended[name] - spawned[name] for name in spawned) / 1e9) < 0.01
    for row in rows_of(db, "SELECT * FROM cold_burst_requests"):
        assert 1000 * ready_s - 6 <= row["wait"] <= row["ttfb"] - 200 + 6, "all waited until it was ready, then 200 ms"
    assert cost["wait_max"] >= cost["wait_mean"] >= 1000 * ready_s - 6
    answers = ask(db)
    (table,) = [each for each in make_tables(answers)["cold"] if each.key == "cold_bursts"]
    shown = dict(zip((column.name for column in table.columns), table.rows[0], strict=True))
    assert len(table.rows) == 1 and (shown["bursts"], shown["waiting"], shown["started"]) == (1, requests, 3)
    assert (shown["wait max"], shown["wasted s"]) == (cost["wait_max"], cost["wasted_s"])
    told = [each.text for each in summarise(answers).conclusions if "at zero" in each.text]
    assert len(told) == 1 and f"{len(used)} of 3 started instances answered a request" in told[0]
    assert extract(generator.logs, db).rows == 0


async def test_a_target_that_never_scales_to_zero_gets_no_request(generator: Generator, tmp_path: Path) -> None:
    warm = {"min-scale": 1}
    async with local(tmp_path, {NAME: warm}, **SOON) as platform:
        await until(lambda: any(event.kind == "ready" for event in platform.events))
        cold = {"maxWait": "300ms", "settle": "0s"}
        ran = await run(generator, platform, "--cold-start", rate={**ROUNDS, "duration": "4s"}, coldStart=cold)
        state = await platform.state()
    (row,), (start,) = ran.requests(), lines(ran)
    assert row["error"] == "dropped" and "not at zero within 300ms" in row["message"] and NAME in row["message"]
    assert (start["zero"], start["proven"], start["points"]) == (False, None, {}) and start["waited"] >= 300
    assert state["counts"]["requests"] == 0


async def test_dropped_events_do_not_look_like_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two polls the platform may drop events; the instances are then listed."""
    from workload_generator.coldstart.emulator import EmulatorSource
    from workload_generator.coldstart.timeline import InstanceTimeline

    async with local(tmp_path, {NAME: {"min-scale": 1}}, **SOON) as platform:
        timeline = InstanceTimeline()
        source = EmulatorSource(platform.url, timeline)
        real, kept = source._ask, 1

        async def forgetful(path: str) -> Any:
            answer = await real(path)
            if path == "/_platform":
                return {**answer, "events": answer["events"][-kept:]}
            return answer[-kept:]

        monkeypatch.setattr(source, "_ask", forgetful)
        await until(lambda: any(event.kind == "ready" for event in platform.events))
        await source.open()
        (living,) = timeline.living(NAME)
        assert not timeline.zero(NAME, 0).reached
        timeline.mark(NAME, "whose-end-was-missed", "created", Moment(1))
        source._last = 0
        await source.refresh()
        assert timeline.living(NAME) == (living,)
        await source.close()


async def test_rounds_report_warm_requests(generator: Generator, tmp_path: Path) -> None:
    async with local(tmp_path) as platform:
        rate = {"requestsPerSecond": 5, "duration": "400ms"}
        cold = {"wait": "interval", "gap": "10ms"}
        ran = await run(generator, platform, "--cold-start", rate=rate, coldStart=cold)
    first, *others = lines(ran)
    assert (first["proven"], first["cold"]) == (True, True)
    for each in others:
        assert (each["proven"], each["cold"], each["zero"]) == (False, False, False)
        assert first["instance"] in each["reason"]


async def test_without_access_a_run_completes_and_cold_starts_are_unknown(generator: Generator) -> None:
    from tests.support import at_once, target

    async with target(at_once) as url:
        path = generator.experiment(url, rate={**ROUNDS, "duration": "1s"}, coldStart={"wait": "zero"})
        ran = await generator.run(f"--config={path}", "--cold-start")
    assert [row["status"] for row in ran.requests()] == [200] and not lines(ran)
    assert ran.lines[0]["cold_starts"]["wait"] == "interval" and ran.lines[0]["cold_starts"]["unknown"]
    assert ran.stderr.count("cold starts cannot be observed") == 1, ran.stderr


def test_the_domain_names_the_service() -> None:
    from workload_generator.coldstart.watcher import service_of

    assert service_of(f"{NAME}.{DOMAIN}:80") == NAME
