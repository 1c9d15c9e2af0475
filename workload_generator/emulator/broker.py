"""Brokers of the embedded platform: `/broker/<namespace>/<name>` takes events, triggers deliver them at least once.

Rules:
- an event is acknowledged (202) when it stands in the queue of every trigger whose filter it passes
- a trigger has `parallelism` deliveries at a time; what fails is repeated with growing pauses, then goes to the dead
  letter sink, and is counted when there is none
- injected faults are drawn from the platform's seed for each trigger apart, and known by id: what a trigger lost or
  delivered twice on purpose is listed, so that an account of events can be held against it
- everything is in memory: what is queued when the platform ends is gone

Sources: https://knative.dev/docs/eventing/event-delivery/ and, for which answers are repeated,
https://github.com/knative/eventing/blob/main/pkg/kncloudevents/retries.go
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import aiohttp

from workload_generator.base.clock import NS_PER_S
from workload_generator.cloudevents.decode import BadEvent, Incoming, is_cloudevents, read_events
from workload_generator.emulator.exchange import Exchange
from workload_generator.emulator.journal import Journal
from workload_generator.emulator.settings import BrokerSettings, TriggerSettings

INGRESS = b"/broker/"
MOST_IDS = 100_000
"""How many ids of each kind are listed; what is beyond is only counted."""

_REPEATED = frozenset({404, 408, 409, 429})
_TIMEOUT_S = 30.0

Kept = tuple[str, dict[str, str], bytes]
"""An event in a queue: its id, the headers that it is sent with, its body."""


class Trigger:
    """One trigger's queue and deliveries."""

    def __init__(
        self, name: str, settings: TriggerSettings, session: aiohttp.ClientSession, seed: str, journal: Journal
    ) -> None:
        self.settings = settings
        self.queue: asyncio.Queue[Kept] = asyncio.Queue()
        self._name = name
        self._session = session
        self._journal = journal
        self._random = random.Random(seed)
        self._in_flight = 0
        self._counts = dict.fromkeys(("matched", "delivered", "attempts", "dead_lettered", "undelivered"), 0)
        self._lost = _Ids()
        self._duplicated = _Ids()
        self._undelivered = _Ids()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(settings.parallelism)]

    def wants(self, event: Incoming) -> bool:
        """Whether the event passes the filter: every attribute equal; an empty text passes any that is there."""
        attributes = event.attributes
        return all(
            name in attributes and value in ("", attributes[name]) for name, value in self.settings.filter.items()
        )

    def take(self, kept: Kept) -> None:
        """Queue an event."""
        self._counts["matched"] += 1
        self.queue.put_nowait(kept)

    async def close(self) -> None:
        """Deliver nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def to_json(self, ids: bool) -> dict[str, Any]:
        """Counts; with `ids` which events were lost and doubled on purpose, and which could not be delivered."""
        by_id = {"lost": self._lost, "duplicated": self._duplicated, "undelivered": self._undelivered}
        return {
            "settings": self.settings.to_json(),
            **self._counts,
            **{f"injected_{name}": each.count for name, each in by_id.items() if name != "undelivered"},
            "queued": self.queue.qsize(),
            "in_flight": self._in_flight,
            **({"ids": {name: each.ids for name, each in by_id.items()}} if ids else {}),
        }

    async def _work(self) -> None:
        while True:
            kept = await self.queue.get()
            self._in_flight += 1
            try:
                await self._deliver(kept)
            finally:
                self._in_flight -= 1

    async def _deliver(self, kept: Kept) -> None:
        faults = self.settings.faults
        loses, doubles = self._random.random() < faults.loss, self._random.random() < faults.duplicates
        if faults.delay_ns:
            await asyncio.sleep(faults.delay_ns / NS_PER_S)
        if loses:
            self._lost.add(kept[0])
            return
        status = await self._send_until_taken(kept)
        if status is None:
            if doubles and await self._send_until_taken(kept) is None:
                self._duplicated.add(kept[0])
            self._counts["delivered"] += 1
            return
        await self._give_up(kept, status)

    async def _send_until_taken(self, kept: Kept) -> int | None:
        """None when it was taken, else the last status (0: no answer)."""
        settings = self.settings
        for retry in range(-1, settings.retry):
            if retry >= 0:
                await asyncio.sleep(settings.retry_delay_s(retry))
            self._counts["attempts"] += 1
            status = await self._send(settings.subscriber, kept)
            if 200 <= status < 300:
                return None
            if status and status not in _REPEATED and status < 500:
                break
        return status

    async def _send(self, url: str, kept: Kept, extra: Mapping[str, str] | None = None) -> int:
        headers = kept[1] if extra is None else {**kept[1], **extra}
        try:
            async with self._session.post(url, data=kept[2], headers=headers) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0

    async def _give_up(self, kept: Kept, status: int) -> None:
        sink = self.settings.dead_letter_sink
        if sink is not None:
            why = {"ce-knativeerrordest": self.settings.subscriber, "ce-knativeerrorcode": str(status)}
            structured = is_cloudevents(kept[1].get("content-type", ""))
            if 200 <= await self._send(sink, kept, None if structured else why) < 300:
                self._counts["dead_lettered"] += 1
                return
        self._counts["undelivered"] += 1
        self._undelivered.add(kept[0])
        if self._undelivered.count == 1:
            answer = f"answered {status}" if status else "did not answer"
            self._journal.add("undelivered", self._name, None, f"its subscriber {answer}; the first of maybe more")


class Broker:
    """One broker: its ingress and its triggers."""

    def __init__(
        self, name: str, settings: BrokerSettings, session: aiohttp.ClientSession, seed: int, journal: Journal
    ) -> None:
        self._settings = settings
        self._received = self._refused = 0
        self._triggers = {
            key: Trigger(f"{name}/{key}", each, session, f"{seed}/{name}/{key}", journal)
            for key, each in settings.triggers.items()
        }

    def take(self, exchange: Exchange) -> None:
        """Take the event of one request."""
        try:
            if exchange.method != b"POST":
                raise BadEvent(405, "events come by POST")
            headers = _headers_of(exchange.head)
            body = exchange.take_body()
            events = read_events(headers, body)
            if len(events) != 1:
                raise BadEvent(400, "a broker takes events one by one, and no batches")
            (event,) = events
            wanted = [trigger for trigger in self._triggers.values() if trigger.wants(event)]
            if any(trigger.queue.qsize() >= self._settings.queue_limit for trigger in wanted):
                raise BadEvent(429, f"{self._settings.queue_limit:,} events wait for a subscriber")
        except BadEvent as bad:
            self._refused += 1
            exchange.sink.respond(exchange, bad.status, str(bad))
            return
        kept = (event.id, {name: value for name, value in headers if _goes_on(name)}, body)
        self._received += 1
        for trigger in wanted:
            trigger.take(kept)
        exchange.sink.answer(exchange, 202, b"", b"text/plain")

    async def close(self) -> None:
        """Deliver nothing more."""
        for trigger in self._triggers.values():
            await trigger.close()

    def to_json(self, ids: bool = False) -> dict[str, Any]:
        """Counts of the ingress, and of each trigger."""
        triggers = {name: trigger.to_json(ids) for name, trigger in self._triggers.items()}
        return {"received": self._received, "refused": self._refused, "triggers": triggers}


class Brokers:
    """All brokers of a platform, by `<namespace>/<name>`; `begin` has to be called in the event loop."""

    def __init__(self, settings: Mapping[str, BrokerSettings], seed: int, journal: Journal) -> None:
        self._settings, self._seed, self._journal = settings, seed, journal
        self._brokers: dict[str, Broker] = {}
        self._session: aiohttp.ClientSession | None = None

    def begin(self) -> None:
        """Begin to take and to deliver."""
        if self._settings:
            session = self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), connector=aiohttp.TCPConnector(limit=0)
            )
            self._brokers = {
                name: Broker(name, each, session, self._seed, self._journal) for name, each in self._settings.items()
            }

    def take(self, exchange: Exchange, target: bytes) -> None:
        """Take a request to `/broker/…`."""
        name = target.partition(b"?")[0].removeprefix(INGRESS).rstrip(b"/").decode("latin-1")
        broker = self._brokers.get(name)
        if broker is None:
            known = ", ".join(self._brokers) or "none: the platform's configuration names them (docs/local.md)"
            exchange.sink.respond(exchange, 404, f"there is no broker {name[:200]}; there are {known}")
        else:
            broker.take(exchange)

    async def close(self) -> None:
        """Deliver nothing more."""
        for broker in self._brokers.values():
            await broker.close()
        if self._session is not None:
            await self._session.close()

    def to_json(self, name: str | None = None) -> dict[str, Any] | None:
        """All brokers' counts, or one's with the ids of its injected faults; None when there is none of the name."""
        if name is None:
            return {key: broker.to_json() for key, broker in self._brokers.items()}
        broker = self._brokers.get(name)
        return None if broker is None else broker.to_json(ids=True)


class _Ids:
    """Ids in the order of their adding, and how many there were."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.count = 0

    def add(self, event_id: str) -> None:
        """Keep one."""
        self.count += 1
        if len(self.ids) < MOST_IDS:
            self.ids.append(event_id)


def _headers_of(head: bytes) -> list[tuple[str, str]]:
    """Names in lower case and values of a request's head."""
    pairs = (line.partition(b":") for line in head.split(b"\r\n")[1:-2])
    return [
        (name.decode("latin-1").lower(), value.strip().decode("utf-8", "surrogateescape")) for name, _, value in pairs
    ]


def _goes_on(name: str) -> bool:
    return name.startswith("ce-") or name in ("content-type", "traceparent", "tracestate")
