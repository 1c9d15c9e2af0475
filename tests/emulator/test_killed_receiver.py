"""A receiver that is killed under load: its counters tell its own losses from the broker's."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.emulator.platforms import local
from tests.emulator.test_broker import broker, state
from tests.eventing.services import Services
from tests.eventing.test_services import metric
from tests.support import Generator
from workload_generator.results.ingest.extract import extract

EVENTS = 300


async def test_unwritten_receipts_of_a_killed_receiver_are_not_the_brokers_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, generator = Services(tmp_path), Generator(tmp_path)
    services.data = generator.logs
    trigger = {"parallelism": EVENTS, "retry": 0, "faults": {"loss": 0.05}}
    try:
        logger = await services.logger()
        first = await services.receiver(logger.url)
        async with local(tmp_path, brokers=broker(t=trigger | {"subscriber": f"{first.url}/t/t"})) as platform:
            monkeypatch.setenv("K_SINK", f"{platform.url}/broker/a/b")
            path = generator.experiment("http://sink", event={"type": "t"}, rate={"requestsPerSecond": EVENTS})
            running = await generator.start(f"--config={path}", "--event", "--output=json", "--progress=none")
            while len(services.rows()) < EVENTS / 3:
                await asyncio.sleep(0.01)
            assert logger.process is not None
            logger.process.send_signal(signal.SIGSTOP)  # from here on nothing is acknowledged
            ran = await generator.finish(running)
            lost: list[str] = []
            while await metric(first.url, "received") + len(lost) < EVENTS:
                lost = (await injected(platform))["lost"]
            assert await metric(first.url, "acknowledged") < EVENTS - len(lost)
            await first.end(signal.SIGKILL)
            logger.process.send_signal(signal.SIGCONT)
        second = await services.receiver(logger.url)
        while not any(int(row["received"]) == EVENTS - len(lost) for row in services.rows("instances.csv")):
            await asyncio.sleep(0.05)  # the second tells what the first had counted
        assert await second.end() == 0
        assert await logger.end() == 0
    finally:
        await services.end()
    assert ran.code in (0, 3) and not list(services.spool.iterdir()), "both instances are accounted for"
    db = tmp_path / "b.db"
    extract(generator.logs, db)
    connection = sqlite3.connect(db)
    connection.row_factory = sqlite3.Row
    (account,) = connection.execute("SELECT * FROM event_accounts").fetchall()
    missing = {event_id for (event_id,) in connection.execute("SELECT event_id FROM lost_events")}
    connection.close()
    assert account["acknowledged"] == EVENTS
    assert set(lost) <= missing and account["unaccounted"] > 0
    assert account["lost"] - account["unaccounted"] == len(lost), "the rest is what the broker lost"


async def injected(platform: Any) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = (await state(platform))["triggers"]["t"]["ids"]
    return ids
