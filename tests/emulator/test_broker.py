"""The platform's broker: filters, retries, dead letters, and injected faults with the account that finds them."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.emulator.platforms import Local, local, until
from tests.eventing.services import Services, headers
from tests.support import Generator
from workload_generator.base.errors import ExperimentError
from workload_generator.emulator.settings import load_config
from workload_generator.results.ingest.extract import extract


class Subscriber:
    """Responds to event number n with `status(n)`, and keeps the events in order."""

    def __init__(self, status: Callable[[int], int] = lambda _: 202) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.at_once = self.most_at_once = 0
        self.pause_s = 0.0
        self._status = status
        self.url = ""

    async def take(self, request: web.BaseRequest) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        self.got.append(({k.lower(): v for k, v in request.headers.items()}, await request.read()))
        number = len(self.got)
        await asyncio.sleep(self.pause_s)
        self.at_once -= 1
        return web.Response(status=self._status(number))

    @property
    def ids(self) -> list[str]:
        return [got["ce-id"] for got, _ in self.got]


@contextlib.asynccontextmanager
async def subscriber(status: Callable[[int], int] = lambda _: 202) -> AsyncIterator[Subscriber]:
    made = Subscriber(status)
    server = web.Server(made.take)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/x"
    try:
        yield made
    finally:
        listening.close()
        await server.shutdown(0)


async def send(platform: Local, event_id: str = "e-1", path: str = "/broker/a/b", **extensions: str) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(platform.url + path, headers=headers(event_id, **extensions), data=b'{"n": 1}') as response,
    ):
        return response.status


async def state(platform: Local) -> dict[str, Any]:
    broker: dict[str, Any] = (await platform.own("/brokers/a/b")).json()
    return broker


def broker(**triggers: dict[str, Any]) -> dict[str, Any]:
    return {"a/b": {"triggers": triggers}}


async def test_an_event_goes_to_every_matching_trigger(tmp_path: Path) -> None:
    async with subscriber() as all_, subscriber() as some:
        own = {"subscriber": some.url, "filter": {"type": "t", "kind": "x", "source": ""}}
        async with local(tmp_path, brokers=broker(all={"subscriber": all_.url}, some=own)) as platform:
            assert [await send(platform, f"e-{n}", kind="xy"[n % 2]) for n in range(4)] == [202] * 4
            await until(lambda: len(all_.got) == 4 and len(some.got) == 2)
            assert all_.ids == ["e-0", "e-1", "e-2", "e-3"] and some.ids == ["e-0", "e-2"]
            assert all_.got[0][1] == b'{"n": 1}' and all_.got[0][0]["ce-kind"] == "x"


async def test_structured_and_large_events_are_forwarded_unchanged(tmp_path: Path) -> None:
    document = {"specversion": "1.0", "id": "s", "type": "t", "source": "/s", "data": "x" * 200_000}
    async with subscriber() as end, local(tmp_path, brokers=broker(all={"subscriber": end.url})) as platform:
        async with aiohttp.ClientSession() as session:
            kind = {"Content-Type": "application/cloudevents+json"}
            async with session.post(f"{platform.url}/broker/a/b", data=orjson.dumps(document), headers=kind) as answer:
                assert answer.status == 202
        await until(lambda: len(end.got) == 1)
        assert orjson.loads(end.got[0][1]) == document and end.got[0][0]["content-type"] == kind["Content-Type"]


@pytest.mark.parametrize(
    ("path", "given", "status", "reason"),
    [
        ("/broker/a/c", headers("e"), 404, "no broker a/c; known brokers: a/b"),
        ("/broker/a/b", {}, 415, "not a CloudEvent"),
        ("/broker/a/b", {"ce-id": "e"}, 400, "no specversion"),
        ("/broker/a/b", {"Content-Type": "application/cloudevents-batch+json"}, 400, "not JSON"),
    ],
)
async def test_invalid_events_are_refused(
    tmp_path: Path, path: str, given: dict[str, str], status: int, reason: str
) -> None:
    async with local(tmp_path, brokers=broker()) as platform, aiohttp.ClientSession() as session:
        async with session.post(platform.url + path, headers=given) as answer:
            assert answer.status == status and reason in await answer.text()
        async with session.get(f"{platform.url}/broker/a/b") as answer:
            assert answer.status == 405


async def test_a_failed_delivery_is_retried(tmp_path: Path) -> None:
    async with subscriber(lambda number: 202 if number > 2 else 503) as end:
        settings = {"subscriber": end.url, "retry": 3, "backoff-delay": "1ms"}
        async with local(tmp_path, brokers=broker(t=settings)) as platform:
            await send(platform)
            await until(lambda: len(end.got) == 3)
            found = await state(platform)
            assert (found["triggers"]["t"]["attempts"], end.ids) == (3, ["e-1"] * 3)


@pytest.mark.parametrize(("status", "attempts"), [(503, 3), (400, 1), (404, 3)])
async def test_after_the_last_retry_an_event_goes_to_the_dead_letter_sink(
    tmp_path: Path, status: int, attempts: int
) -> None:
    async with subscriber(lambda _: status) as end, subscriber() as grave:
        settings = {"subscriber": end.url, "retry": 2, "backoff-delay": "1ms", "dead-letter-sink": grave.url}
        async with local(tmp_path, brokers=broker(t=settings, gone=settings | {"dead-letter-sink": None})) as platform:
            await send(platform)
            await until(lambda: len(grave.got) == 1 and len(end.got) == 2 * attempts)
            assert grave.got[0][0]["ce-knativeerrorcode"] == str(status) and grave.ids == ["e-1"]
            await until(lambda: any(event.kind == "undelivered" for event in platform.events))
            found = await state(platform)
            assert found["triggers"]["t"]["dead_lettered"] == 1
            assert found["triggers"]["gone"]["ids"]["undelivered"] == ["e-1"]


@pytest.mark.parametrize("parallelism", [1, 4])
async def test_parallelism_limits_concurrent_deliveries(tmp_path: Path, parallelism: int) -> None:
    async with subscriber() as end:
        end.pause_s = 0.02
        settings = {"subscriber": end.url, "parallelism": parallelism}
        async with local(tmp_path, brokers=broker(t=settings)) as platform:
            for n in range(12):
                await send(platform, f"e-{n}")
            await until(lambda: len(end.got) == 12)
            assert end.most_at_once <= parallelism
            assert parallelism > 1 or end.ids == [f"e-{n}" for n in range(12)], "one at a time keeps the order"


async def test_a_full_queue_is_a_429(tmp_path: Path) -> None:
    async with subscriber() as end:
        end.pause_s = 1
        brokers = {"a/b": {"queue-limit": 1, "triggers": {"t": {"subscriber": end.url}}}}
        async with local(tmp_path, brokers=brokers) as platform:
            statuses = [await send(platform, f"e-{n}") for n in range(4)]
            assert statuses[0] == 202 and statuses[-1] == 429


async def test_injected_loss_and_duplication_are_found_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From generator to extraction, by trigger: the counts and the ids are those of the broker."""
    services, generator = Services(tmp_path), Generator(tmp_path)
    services.data = generator.logs
    try:
        logger = await services.logger()
        receiver = await services.receiver(logger.url)
        faults = {
            "even": {},
            "loses": {"loss": 0.05},
            "doubles": {"duplicates": 0.05, "delay": "1ms"},
            "both": {"loss": 0.1, "duplicates": 0.1},
        }
        triggers = {
            name: {"subscriber": f"{receiver.url}/t/{name}", "parallelism": 8, "faults": own}
            for name, own in faults.items()
        }
        async with local(tmp_path, brokers=broker(**triggers)) as platform:
            monkeypatch.setenv("K_SINK", f"{platform.url}/broker/a/b")
            monkeypatch.setenv("EVENT_LOGGER_URL", logger.url)
            path = generator.experiment(
                "http://sink", event={"type": "t"}, rate={"requestsPerSecond": 600, "duration": "500ms"}
            )
            ran = await generator.run(f"--config={path}", "--event")
            assert ran.code in (0, 3), ran.stderr
            sent = ran.trailer["counts"]["measure"]["ok"]
            assert sent == 300, "every event was acknowledged"

            async def queued() -> int:
                found = await state(platform)
                return sum(each["queued"] + each["in_flight"] for each in found["triggers"].values())

            while await queued():
                await asyncio.sleep(0.02)
            injected = {name: each["ids"] for name, each in (await state(platform))["triggers"].items()}
        await receiver.end()
        await logger.end()
    finally:
        await services.end()
    db = tmp_path / "b.db"
    extract(generator.logs, db)
    measured = {doc["event_id"] for doc in ran.requests("measure")}
    connection = sqlite3.connect(db)
    connection.row_factory = sqlite3.Row
    found: dict[str, dict[str, list[str]]] = {name: {"lost": [], "duplicated": []} for name in faults}
    for kind in ("lost", "duplicated"):
        for row in connection.execute(f"SELECT trigger, event_id FROM {kind}_events"):
            found[row["trigger"]][kind].append(row["event_id"])
    wanted = {
        name: {kind: sorted(set(ids[kind]) & measured) for kind in ("lost", "duplicated")}
        for name, ids in injected.items()
    }
    assert {name: {kind: sorted(ids) for kind, ids in each.items()} for name, each in found.items()} == wanted
    assert wanted["loses"]["lost"] and wanted["doubles"]["duplicated"] and wanted["both"]["lost"]
    for row in connection.execute("SELECT * FROM event_accounts"):
        kinds = Counter({kind: len(ids) for kind, ids in wanted[row["trigger"]].items()})
        assert (row["sent"], row["acknowledged"], row["unaccounted"]) == (300, 300, 0)
        assert (row["lost"], row["duplicated"]) == (kinds["lost"], kinds["duplicated"])
        assert row["once"] == 300 - kinds["lost"] - kinds["duplicated"] and row["delay_error"] > 0
    connection.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("brokers: {a/b: {triggers: {t: {}}}}", "subscriber: is missing"),
        ("brokers: {a/b: {triggers: {t: {subscriber: here}}}}", "not an http:// or https:// URL"),
        ("brokers: {a/b: {trigger: {}}}", "did you mean triggers?"),
        ("brokers: {a/b: {triggers: {t: {subscriber: 'http://a', retri: 1}}}}", "did you mean retry?"),
        ("brokers: {a/b: {triggers: {t: {subscriber: 'http://a', faults: {los: 1}}}}}", "did you mean loss?"),
        ("brokers: {a/b: {triggers: {t: {subscriber: 'http://a', faults: {loss: 2}}}}}", "not a share"),
        (
            "brokers: {a/b: {triggers: {t: {subscriber: 'http://a', backoff-policy: steep}}}}",
            "not exponential or linear",
        ),
        ("brokers: {a/b: {triggers: {t: {subscriber: 'http://a', parallelism: 0}}}}", "number of deliveries"),
    ],
)
def test_invalid_settings_of_a_broker(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ExperimentError) as refused:
        load_config(tmp_path / "p.yaml", ["f"], {})
    assert complaint in str(refused.value)
