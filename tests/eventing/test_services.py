"""Acknowledged events are in the file, also when a process is killed; other events are refused."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.eventing.services import SOON_S, Load, Services, headers
from workload_generator.commands import program
from workload_generator.eventing.receipts import (
    InstanceReport,
    Receipt,
    ReceiptBatch,
    csv_lines,
    decode_batch,
    encode_batch,
    original_receipt,
)
from workload_generator.eventing.spool import Spool, open_spool, orphans


async def metric(url: str, name: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
        values = re.findall(rf"^[a-z_]*{name}_total\{{.*\}} ([0-9]+)$", await response.text(), re.MULTILINE)
        return sum(map(int, values))


async def test_a_killed_receiver_loses_nothing_that_it_acknowledged(services: Services) -> None:
    logger = await services.logger()
    first = await services.receiver(logger.url)
    async with Load(f"{first.url}/t/a") as load:
        await load.until(300)
        await first.end(signal.SIGKILL)
        acknowledged = set(load.acknowledged)
    assert acknowledged <= services.ids(), "written before it was acknowledged: nothing to wait for"
    assert {row["trigger"] for row in services.rows()} == {"a"}


async def test_a_killed_logger_loses_nothing_and_stops_no_receiver(services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url)
    async with Load(receiver.url) as load:
        await load.until(200)
        await logger.end(signal.SIGKILL)
        await load.until(len(load.acknowledged) + 200)
        assert await metric(receiver.url, "spooled") > 0
        await services.logger(logger.port)
        await load.until(len(load.acknowledged) + 200)
    await services.wait_for(load.acknowledged)
    assert load.statuses.keys() == {202}


async def test_a_spool_outlives_its_receiver(services: Services) -> None:
    logger = await services.logger()
    await logger.end()
    first = await services.receiver(logger.url)
    async with Load(first.url) as load:
        await load.until(50)
        await first.end(signal.SIGKILL)
    assert not load.acknowledged & services.ids()
    await services.logger(logger.port)
    second = await services.receiver(logger.url)
    await services.wait_for(load.acknowledged)
    async with asyncio.timeout(SOON_S):
        while len(list(services.spool.glob("*.spool"))) > 1:  # the counters of the first reach the logger too
            await asyncio.sleep(0.02)
    assert await second.end() == 0
    assert not list(services.spool.iterdir())


async def test_without_logger_and_spool_events_are_refused(services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url, spool=False)
    await logger.end()
    async with aiohttp.ClientSession() as session:
        async with session.post(receiver.url, headers=headers("e-1")) as response:
            assert response.status == 503 and response.headers["Retry-After"] == "1"
            assert "could not be written" in await response.text()
        async with session.get(f"{receiver.url}/readyz") as response:
            assert response.status == 503
        await services.logger(logger.port)
        async with session.post(receiver.url, headers=headers("e-2")) as response:
            assert response.status == 202
    assert services.ids() == {"e-2"}
    assert await metric(receiver.url, "received") == 2 and await metric(receiver.url, "refused") == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_writes_everything_before_the_end(services: Services, workers: int) -> None:
    logger = await services.logger(None, f"--workers={workers}")
    receivers = [await services.receiver(logger.url, f"--workers={workers}") for _ in range(2)]
    async with Load(f"{receivers[0].url}/t/a", "a") as one, Load(f"{receivers[1].url}/t/b", "b") as other:
        await one.until(100)
        await other.until(100)
        assert [await receiver.end() for receiver in receivers] == [0, 0]
    assert await logger.end() == 0
    rows = services.rows()
    assert one.acknowledged | other.acknowledged <= {row["event_id"] for row in rows}
    assert max(Counter(row["event_id"] for row in rows).values()) == 1
    reports = {row["instance"]: row for row in services.rows("instances.csv")}
    written = Counter(row["instance"] for row in rows)
    assert {name: int(row["received"]) for name, row in reports.items() if int(row["received"])} == written
    assert all(int(row["half_rtt_ns"]) >= 0 for row in reports.values() if row["half_rtt_ns"])


def a_child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


async def test_a_killed_worker_ends_all_and_loses_nothing_acknowledged(services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url, "--workers=2")
    assert receiver.process is not None
    pid = receiver.process.pid
    async with Load(f"{receiver.url}/t/a", connections=16) as load:
        await load.until(200)
        os.kill(a_child_of(pid), signal.SIGKILL)
        assert await receiver.process.wait() == 1, "for a restart by its supervisor"
        acknowledged = set(load.acknowledged)
    assert acknowledged <= services.ids()


async def test_a_full_buffer_is_a_429(services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url, spool=False)
    assert logger.process is not None

    async def send(session: aiohttp.ClientSession, number: int, count: int) -> int:
        events = [
            {"specversion": "1.0", "type": "t", "source": "/s", "id": f"{number}-{each}"} for each in range(count)
        ]
        kind = {"Content-Type": "application/cloudevents-batch+json"}
        async with session.post(receiver.url, data=orjson.dumps(events), headers=kind) as response:
            assert response.status != 429 or response.headers["Retry-After"] == "1"
            return response.status

    async with aiohttp.ClientSession() as session:
        logger.process.send_signal(signal.SIGSTOP)
        waiting = [asyncio.create_task(send(session, 0, 2000))]  # on its way to the logger
        async with asyncio.timeout(SOON_S):
            while await metric(receiver.url, "received") < 2000:
                await asyncio.sleep(0.01)
            waiting += [asyncio.create_task(send(session, number, 2000)) for number in range(1, 11)]
            while await metric(receiver.url, "received") < 22_000:
                await asyncio.sleep(0.01)
        assert await send(session, 11, 1) == 429
        logger.process.send_signal(signal.SIGCONT)
        assert await asyncio.gather(*waiting) == [202] * 11
        assert await send(session, 12, 1) == 202
    ids = services.ids()
    assert len(ids) == 22_001 and "11-0" not in ids
    assert await metric(receiver.url, "refused") == 1


async def test_two_triggers_are_two_deliveries(services: Services) -> None:
    logger = await services.logger(cold=True)
    receiver = await services.receiver(logger.url, cold=True)
    async with aiohttp.ClientSession() as session:
        for path in ("/t/a", "/t/b%20c", "/"):
            async with session.post(receiver.url + path, headers=headers("e-1", sequence="7")) as response:
                assert response.status == 202
    rows = services.rows()
    assert [(row["event_id"], row["trigger"], row["sequence"]) for row in rows] == [
        ("e-1", "a", "7"), ("e-1", "b c", "7"), ("e-1", "", "7"),
    ]  # fmt: skip
    assert all(re.fullmatch(r"20..-..-..T..:..:..\.[0-9]{9}Z", row["timestamp"]) for row in rows)


async def test_no_two_receipts_of_a_receiver_have_the_same_time(services: Services) -> None:
    """Two receipts with the same time would count as one receipt that was sent twice."""
    logger = await services.logger(cold=True)
    receiver = await services.receiver(logger.url, cold=True)
    events = [{"specversion": "1.0", "type": "t", "source": "/s", "id": "e-1"}] * 100
    kind = {"Content-Type": "application/cloudevents-batch+json"}
    async with aiohttp.ClientSession() as session:
        async with session.post(receiver.url, data=orjson.dumps(events), headers=kind) as response:
            assert response.status == 202
    assert len({row["timestamp"] for row in services.rows()}) == len(events)


async def test_receipts_of_the_originals_receiver_are_accepted(services: Services) -> None:
    logger = await services.logger()
    document = {"event_id": "x,1", "timestamp": "2025-02-09T10:11:12.123456789Z"}
    async with aiohttp.ClientSession() as session, session.post(logger.url, json=document) as response:
        assert response.status == 200
    assert [(row["event_id"], row["timestamp"]) for row in services.rows()] == [tuple(document.values())]
    assert original_receipt({"event_id": "a", "timestamp": 1}) is None


async def test_invalid_batches_are_refused(services: Services) -> None:
    logger = await services.logger()
    async with aiohttp.ClientSession() as session:
        for body in (b"", b"{", b"[]", b'["i",1,null,[["a"]]]', b'["i",1,null,[["a",1,"t\\n",""]]]',
                     b'["i",1,null,[["a",-1,"t",""]]]', b'["i","1",null,[]]', b"\xff"):  # fmt: skip
            async with session.post(f"{logger.url}/receipts", data=body) as response:
                assert response.status == 400, body
    assert services.rows() == [] and await metric(logger.url, "rejected") == 8


async def test_a_torn_line_is_ended_before_the_next(services: Services) -> None:
    services.data.mkdir()
    (services.data / "events.csv").write_bytes(b"event_id,timestamp,trigger,instance,attempt,sequence\ntorn,2025-")
    logger = await services.logger()
    receiver = await services.receiver(logger.url)
    async with aiohttp.ClientSession() as session, session.post(receiver.url, headers=headers("e-1")) as response:
        assert response.status == 202
    assert [row["event_id"] for row in services.rows()] == ["torn", "e-1"]


async def test_a_full_disk_is_reported(services: Services) -> None:
    logger = await services.logger()
    await logger.end()
    services.data.joinpath("events.csv").unlink()
    services.data.joinpath("events.csv").symlink_to("/dev/full")
    full = Services(services.data.parent)
    try:
        with pytest.raises(AssertionError, match="event_logger has ended"):
            await full.logger()
    finally:
        await full.end()


def test_batches_round_trip() -> None:
    batch = ReceiptBatch(
        "i", 3, InstanceReport(5, 1, 4, -7, 8), [Receipt('a,"b"', 1_739_182_272_123_456_789, "t", "9")]
    )
    assert decode_batch(encode_batch(batch)) == batch
    assert csv_lines(batch) == b'"a,""b""",2025-02-10T10:11:12.123456789Z,t,i,3,9\n'


def test_a_spool_skips_a_torn_batch(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, "i")
    spool.append(b"one")
    spool.append(b"two")
    assert list(orphans(tmp_path)) == [], "it is held"
    with spool.path.open("ab") as torn:
        torn.write(b"tor")
    again = spool.path.with_name("j.spool")
    again.write_bytes(spool.path.read_bytes())
    (other,) = orphans(tmp_path)
    found = []
    while (batch := other.first()) is not None:
        found.append(batch)
        other.drop_first()
    assert found == [b"one", b"two"] and other.is_empty
    assert other.instance == "j" and isinstance(other, Spool)
    other.close(reported=True)
    assert not again.exists()


@pytest.mark.parametrize(
    ("name", "flags", "complaint"),
    [
        ("receiver", [], "no destination for receipts"),
        ("receiver", ["--logger=here"], "not an http:// or https:// URL"),
        ("receiver", ["--spool=x", "--workers=0"], "--workers"),
        ("receiver", ["--spool=x", "--port=70000"], "--port"),
        ("event-logger", ["--sync-interval=0"], "--sync-interval"),
        ("event-logger", ["--body-timeout=0"], "--body-timeout"),
    ],
)
def test_bad_flags_are_usage_errors(
    name: str, flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENT_LOGGER_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        sys.exit(program.main(name, flags))
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


async def test_the_clock_answers(services: Services) -> None:
    logger = await services.logger()
    async with aiohttp.ClientSession() as session, session.get(f"{logger.url}/clock") as response:
        stamps = await response.json()
    assert 0 < stamps["received_ns"] <= stamps["sent_ns"]
    await asyncio.sleep(0)
