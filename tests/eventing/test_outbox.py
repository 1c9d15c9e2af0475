"""Servers that are not an event logger, an outbox that fails, and requests that are cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.eventing.services import SOON_S, Services, headers
from tests.ports import free_port
from workload_generator.base.errors import RequestRefused
from workload_generator.eventing import outbox as outboxes
from workload_generator.eventing.outbox import LoggerClock, Outbox
from workload_generator.eventing.receipts import Receipt, decode_batch
from workload_generator.eventing.receiver import Receiver
from workload_generator.eventing.spool import Spool

NO_LOGGER = [b"", b"ok", b"{}", b"[]", b'{"written": 0, "received_ns": 1, "sent_ns": 1}', b'{"written": 1}']
"""Bodies of 200 responses that do not confirm a receipt."""


async def somebody(port: int, answer: bytes) -> web.AppRunner:
    async def take(_request: web.Request) -> web.Response:
        return web.Response(body=answer)

    app = web.Application()
    app.router.add_post("/receipts", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


async def post(url: str, event_id: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(url, headers=headers(event_id)) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("answer", NO_LOGGER)
async def test_a_server_that_is_not_a_logger_gets_no_receipts(services: Services, answer: bytes) -> None:
    """The receipts stay in the spool, and reach the real logger later."""
    port = free_port()
    other = await somebody(port, answer)
    receiver = await services.receiver(f"http://127.0.0.1:{port}")
    assert (await post(receiver.url, "e-1"))[0] == 202
    await other.cleanup()
    await services.logger(port)
    await services.wait_for({"e-1"})
    assert await receiver.end() == 0


async def test_without_a_spool_a_server_that_is_not_a_logger_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the receiver's response, see test_without_logger_and_spool_events_are_refused."""
    monkeypatch.setattr(outboxes, "_PATIENCE_S", 0.3)
    port = free_port()
    other = await somebody(port, b"{}")
    outbox = Outbox("r-0", f"http://127.0.0.1:{port}", None)
    await outbox.start()
    with pytest.raises(RequestRefused, match=rf"127.0.0.1:{port}/receipts is not an event logger") as refused:
        await outbox.put([Receipt("e-1", 1, "", "")])
    assert refused.value.status == 503 and not outbox.is_ready
    await other.cleanup()
    await outbox.stop()


async def test_a_failed_drainer_ends_its_receiver_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled: asyncio.Queue[int] = asyncio.Queue()
    monkeypatch.setattr(os, "kill", lambda _pid, number: signalled.put_nowait(number))

    def breaks(_spool: Spool) -> bytes:
        raise RuntimeError("the spool cannot be read")

    monkeypatch.setattr(Spool, "first", breaks)
    outbox = Outbox("r-0", f"http://127.0.0.1:{free_port()}", tmp_path)
    await outbox.start()
    async with asyncio.timeout(SOON_S):
        assert await signalled.get() == signal.SIGTERM
        await outbox.put([Receipt("e-1", 1, "", "")])  # safe in the spool still
    with pytest.raises(RuntimeError, match="cannot be read"):
        await outbox.stop()
    assert b"e-1" in (tmp_path / "r-0.spool").read_bytes()


async def test_a_cancelled_request_counts_as_neither_refused_nor_acknowledged() -> None:
    """Its receipt may still reach the logger, and the account of the events must not count it as refused."""
    arrived, may_answer = asyncio.Event(), asyncio.Event()
    written: list[Receipt] = []

    async def write(request: web.Request) -> web.Response:
        arrived.set()
        await may_answer.wait()
        written.extend(receipts := decode_batch(await request.read()).receipts)
        return web.json_response({"written": len(receipts), "received_ns": 1, "sent_ns": 1})

    logger, port = web.Application(), free_port()
    logger.router.add_post("/receipts", write)
    runner = web.AppRunner(logger)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    receiver = Receiver("r-0", f"http://127.0.0.1:{port}", None)
    await receiver.start()
    answering = asyncio.create_task(receiver.answer("/", headers("e-1").items(), b"", 1))
    async with asyncio.timeout(SOON_S):
        await arrived.wait()
    answering.cancel()
    await asyncio.gather(answering, return_exceptions=True)
    may_answer.set()
    await receiver.stop()
    await runner.cleanup()
    assert answering.cancelled() and [receipt.event_id for receipt in written] == ["e-1"]
    assert [receiver.counters[name] for name in ("received", "refused", "acknowledged")] == [1, 0, 0]


async def test_the_end_does_not_wait_for_a_logger_that_hangs_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_REQUEST_S", 0.3)
    monkeypatch.setattr(outboxes, "_MOST_IN_BATCH", 1)
    asked: list[web.Request] = []

    async def hang(request: web.Request) -> web.Response:
        asked.append(request)
        await asyncio.Event().wait()
        return web.Response()

    logger, port = web.Application(), free_port()
    logger.router.add_post("/receipts", hang)
    runner = web.AppRunner(logger, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    outbox = Outbox("r-0", f"http://127.0.0.1:{port}", None)
    await outbox.start()
    waiting = [outbox.put([Receipt(f"e-{number}", number, "", "")]) for number in range(20)]
    await outbox.stop()
    await runner.cleanup()
    refused = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(each, RequestRefused) and each.status == 503 for each in refused)
    assert len(asked) <= 2, "and the last report"


def test_an_old_exchange_of_times_gives_way_to_a_new_one() -> None:
    """The first has the shortest round trip; ten minutes later this clock has gone 5 ms wrong."""
    second, ms = 10**9, 10**6
    clock = LoggerClock()
    assert clock.offset(0) == (None, None)
    clock.add(0, ms, ms, 2 * ms)
    assert clock.offset(2 * ms) == (0, ms) and clock.offset(2 * ms + 100 * second) == (0, 2.5 * ms)
    later = 600 * second
    clock.add(20 * second, 20 * second, 20 * second, 20 * second + 4 * ms)
    assert clock.offset(2 * ms) == (0, ms), "a worse exchange soon after"
    clock.add(later, later - 3 * ms, later - 3 * ms, later + 4 * ms)
    assert clock.offset(later + 4 * ms) == (5 * ms, 2 * ms)
