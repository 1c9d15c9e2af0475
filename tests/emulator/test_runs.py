"""The generator against the platform: every arrival has a result, also while instances scale and crash."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.platforms import CALMLY, DOMAIN, FUNCTION, SOON, Local, local, until
from tests.support import Generator, Ran, one_result_each
from workload_generator.emulator.platform_events import PlatformEvent

NAME = f"{FUNCTION}-0"


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


async def run(
    generator: Generator, platform: Local, *flags: str, services: tuple[str, ...] = (NAME,), **keys: Any
) -> Ran:
    path = generator.experiment([f"http://{service}.{DOMAIN}" for service in services], **keys)
    ran = await generator.run(f"--config={path}", f"--dev-url={platform.url}", *flags)
    assert ran.code in (0, 3), ran.stderr
    assert ran.lines[0]["platform"] == "local"
    one_result_each(ran)
    return ran


def firsts(ran: Ran) -> dict[str, int]:
    """The number of first requests, by instance."""
    counts: dict[str, int] = defaultdict(int)
    for row in ran.requests():
        if "instance" in row:
            counts[row["instance"]] += row["cold"] is True
    return counts


def scales(events: list[PlatformEvent]) -> list[int]:
    return [int(event.message.partition(":")[0].split()[-1]) for event in events if event.kind == "scale"]


async def test_a_thousand_requests_in_flight_at_zero(generator: Generator, tmp_path: Path) -> None:
    async with local(tmp_path, {NAME: {"faults": {"slow-start": "2s"}}}) as platform:
        ran = await run(
            generator, platform, rate={"requestsPerSecond": 2000, "duration": "500ms", "maxIdleConnsPerHost": 1000}
        )
        assert Counter(row["status"] for row in ran.requests()) == {200: 1000}
        assert list(firsts(ran).values()) == [1]
        assert min(row["ttfb"] for row in ran.requests()) > 1000, "all of them waited for one start"


async def test_instances_come_go_and_crash_under_load(generator: Generator, tmp_path: Path) -> None:
    settings = {"containerConcurrency": 2, "max-scale": 4, "env": {"DELAY_MS": "40"}}
    async with local(tmp_path, {NAME: settings}, **SOON) as platform:

        async def kill() -> None:
            """One after every thirtieth answer, whatever time that takes."""
            for answers in itertools.count(30, 30):
                while (await platform.state())["counts"]["answered"] < answers:
                    await asyncio.sleep(0.01)
                await platform.own("/faults", "POST", {"service": NAME, "kill": 1})

        await platform.ask()
        killing = asyncio.create_task(kill())
        ran = await run(generator, platform, rate={"requestsPerSecond": 100, "duration": "2s"})
        killing.cancel()
        statuses = Counter(row["status"] for row in ran.requests())
        assert sum(statuses.values()) == 200 and statuses.keys() <= {200, 502, 0}
        assert {row["error"] for row in ran.requests() if row["status"] == 0} <= {"reset", "body"}
        assert statuses[200] > 100, "requests wait while instances are replaced"
        assert set(firsts(ran).values()) <= {0, 1}, "0 is one whose first answer did not get through"
        killed = [event for event in platform.events if event.kind == "exited"]
        assert len(killed) >= 3 and platform.kinds().count("ready") >= 3
        assert platform.platform.to_json()["in_flight"] == 0


async def test_exactly_one_true_an_instance_while_it_scales(generator: Generator, tmp_path: Path) -> None:
    settings = {"containerConcurrency": 2, "max-scale": 4, "env": {"DELAY_MS": "40"}}
    async with local(tmp_path, {NAME: settings}, **SOON) as platform:
        ran = await run(generator, platform, rate={"requestsPerSecond": 120, "duration": "2s"})
        assert Counter(row["status"] for row in ran.requests()) == {200: 240}
        counts = firsts(ran)
        assert set(counts.values()) == {1} and len(counts) == platform.kinds().count("first-byte") > 1


async def test_scale_to_zero_and_back_with_an_intermittent_load(tmp_path: Path) -> None:
    """Each run starts at zero instances. The pause between them ends at zero, not after a fixed time."""
    async with local(tmp_path, {NAME: {"env": {"DELAY_MS": "500"}}}, **CALMLY) as platform:  # busy between requests
        counts = []
        for number in (1, 2):
            folder = tmp_path / f"run-{number}"
            folder.mkdir()
            ran = await run(Generator(folder), platform, rate={"requestsPerSecond": 20, "duration": "500ms"})
            assert Counter(row["status"] for row in ran.requests()) == {200: 10}
            counts += firsts(ran).values()
            await until(lambda number=number: platform.kinds().count("exited") == number)
        assert scales(platform.events) == [1, 0] * 2
        assert counts == [1, 1]


async def test_cold_start_rounds_find_zero_every_time(generator: Generator, tmp_path: Path) -> None:
    async with local(tmp_path, **SOON) as platform:
        services = (NAME, f"{FUNCTION}-1")
        rate = {"requestsPerSecond": 0.05, "duration": "60s", "rampUp": None}  # three rounds, as fast as zero comes
        ran = await run(
            generator, platform, "--cold-start", services=services, rate=rate, coldStart={"settle": "100ms"}
        )
        assert [(row["status"], row["cold"]) for row in ran.requests()] == [(200, True)] * 6
        for service in services:
            assert scales([event for event in platform.events if event.service == service])[:5] == [1, 0, 1, 0, 1]
        spawned = [event for event in platform.events if event.kind == "spawned"]
        ready = {event.instance: event for event in platform.events if event.kind == "ready"}
        for row, event in zip(ran.requests(), spawned, strict=True):
            assert row["instance"] == event.instance
            held_ms = (ready[event.instance].mono_ns - event.mono_ns) / 1e6
            assert row["ttfb"] > held_ms, "the platform's clock and the generator's agree"


async def test_an_overload_gets_503(generator: Generator, tmp_path: Path) -> None:
    settings = {"containerConcurrency": 1, "max-scale": 2, "queue-limit": 10, "env": {"DELAY_MS": "100"}}
    async with local(tmp_path, {NAME: settings}, **SOON) as platform:
        ran = await run(generator, platform, rate={"requestsPerSecond": 60, "duration": "1s"})
        statuses = Counter(row["status"] for row in ran.requests())
        assert statuses.keys() == {200, 503} and sum(statuses.values()) == 60
        assert max(scales(platform.events)) == 2
        counts = (await platform.state())["counts"]
        assert (counts["answered"], counts["refused"]) == (statuses[200], statuses[503])


async def test_injected_faults_are_in_the_log(generator: Generator, tmp_path: Path) -> None:
    services = (NAME, f"{FUNCTION}-1", f"{FUNCTION}-2")
    faults = dict(
        zip(services, ({"error-rate": 1, "error-status": 418}, {"reset-rate": 1}, {"latency": "30ms"}), strict=True)
    )
    async with local(tmp_path, {name: {"faults": fault} for name, fault in faults.items()}) as platform:
        ran = await run(generator, platform, services=services, rate={"requestsPerSecond": 60, "duration": "300ms"})
        by_target = [[row for row in ran.requests() if row["target"].startswith(f"http://{name}")] for name in services]
        assert {row["status"] for row in by_target[0]} == {418}
        assert {(row["status"], row["error"]) for row in by_target[1]} == {(0, "reset")}
        assert {row["status"] for row in by_target[2]} == {200} and min(row["ttfb"] for row in by_target[2]) > 29
