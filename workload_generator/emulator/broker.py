"""Brokers of the embedded platform: `/broker/<namespace>/<name>` takes events, triggers deliver them at least once.

Rules:
- an event is acknowledged (202) once it is in the queue of every trigger whose filter it passes
- a trigger makes `parallelism` deliveries at a time. A failed delivery is retried with back-off; then the event goes to
  the dead letter sink, or is counted as undelivered
- injected faults are drawn from the platform's seed, for each trigger apart, and listed by event id, so that an account
  of the events can be checked against them
- queues are in memory: events that are queued when the platform ends are lost

Sources: https://knative.dev/docs/eventing/event-delivery/ and, for the statuses that are retried,
https://github.com/knative/eventing/blob/main/pkg/kncloudevents/retries.go
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import Any, NamedTuple

import aiohttp

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.errors import RequestRefused
from workload_generator.cloudevents.decode import Incoming, is_cloudevents, read_events
from workload_generator.emulator.platform_events import PlatformEvents
from workload_generator.emulator.proxied_request import ProxiedRequest
from workload_generator.emulator.settings import BrokerSettings, TriggerSettings

MOST_IDS = 100_000
"""How many ids of each kind are listed; further ones are only counted."""

_RETRIED = frozenset({404, 408, 409, 429})  # and 5xx
_MOST_EVENT = 4 * 1024 * 1024
_FORWARDED = re.compile("ce-|(content-type|traceparent|tracestate)$")
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


class QueuedEvent(NamedTuple):
    """An event as it is delivered."""

    id: str
    headers: dict[str, str]
    body: bytes


class EmulatedTrigger:
    """One trigger's queue and deliveries."""

    def __init__(
        self, name: str, settings: TriggerSettings, session: aiohttp.ClientSession, seed: str, events: PlatformEvents
    ) -> None:
        self.settings = settings
        self.queue: asyncio.Queue[QueuedEvent] = asyncio.Queue()
        self._name = name
        self._session = session
        self._events = events
        self._random = random.Random(seed)
        self._in_flight = 0
        self._ids: dict[str, list[str]] = {"injected_lost": [], "injected_duplicated": [], "undelivered": []}
        self._counts = dict.fromkeys(("matched", "delivered", "attempts", "dead_lettered", *self._ids), 0)
        self.tasks = [asyncio.create_task(self._work()) for _ in range(settings.parallelism)]

    def matches(self, event: Incoming) -> bool:
        """Whether the event passes the filter: all attributes equal; an empty value matches any that is present."""
        attributes = event.attributes
        return all(
            name in attributes and value in ("", attributes[name]) for name, value in self.settings.filter.items()
        )

    def enqueue(self, event: QueuedEvent) -> None:
        """Queue an event for delivery."""
        self._counts["matched"] += 1
        self.queue.put_nowait(event)

    def to_json(self, ids: bool) -> dict[str, Any]:
        """Counts; with `ids` also the ids of the events that were lost, duplicated or not delivered."""
        listed = {name.removeprefix("injected_"): each for name, each in self._ids.items()}
        return {
            "settings": self.settings.to_json(),
            **self._counts,
            "queued": self.queue.qsize(),
            "in_flight": self._in_flight,
            **({"ids": listed} if ids else {}),
        }

    async def _work(self) -> None:
        while True:
            event = await self.queue.get()
            self._in_flight += 1
            try:
                await self._deliver(event)
            finally:
                self._in_flight -= 1

    async def _deliver(self, event: QueuedEvent) -> None:
        faults = self.settings.faults
        lost, duplicated = self._random.random() < faults.loss, self._random.random() < faults.duplicates
        if faults.delay_ns:
            await asyncio.sleep(faults.delay_ns / NS_PER_S)
        if lost:
            self._count("injected_lost", event)
            return
        status = await self._send_with_retries(event)
        if status is not None:
            await self._give_up(event, status)
            return
        if duplicated and await self._send_with_retries(event) is None:
            self._count("injected_duplicated", event)
        self._counts["delivered"] += 1

    async def _send_with_retries(self, event: QueuedEvent) -> int | None:
        """None when the subscriber took the event, else its last status (0: no response)."""
        settings = self.settings
        for retry in range(-1, settings.retry):
            if retry >= 0:
                await asyncio.sleep(settings.retry_delay_s(retry))
            self._counts["attempts"] += 1
            status = await self._send(settings.subscriber, event.body, event.headers)
            if 200 <= status < 300:
                return None
            if status and status not in _RETRIED and status < 500:
                break
        return status

    async def _send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0

    async def _give_up(self, event: QueuedEvent, status: int) -> None:
        sink, headers = self.settings.dead_letter_sink, event.headers
        if sink is not None:
            if not is_cloudevents(headers.get("content-type", "")):  # a structured event has no room for attributes
                error = {"ce-knativeerrordest": self.settings.subscriber, "ce-knativeerrorcode": str(status)}
                headers = headers | error
            if 200 <= await self._send(sink, event.body, headers) < 300:
                self._counts["dead_lettered"] += 1
                return
        self._count("undelivered", event)
        if self._counts["undelivered"] == 1:
            answer = f"responded {status}" if status else "did not respond"
            self._events.add("undelivered", self._name, None, f"the subscriber {answer}; only the first is reported")

    def _count(self, kind: str, event: QueuedEvent) -> None:
        self._counts[kind] += 1
        if len(self._ids[kind]) < MOST_IDS:
            self._ids[kind].append(event.id)


class EmulatedBroker:
    """One broker: its ingress and its triggers. To be made in the event loop."""

    def __init__(self, name: str, settings: BrokerSettings, seed: int, events: PlatformEvents) -> None:
        self._session = session = aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0))
        self._settings = settings
        self._received = self._refused = 0
        self._triggers = {
            key: EmulatedTrigger(f"{name}/{key}", each, session, f"{seed}/{name}/{key}", events)
            for key, each in settings.triggers.items()
        }

    async def take(self, request: ProxiedRequest) -> None:
        """Take the event of a request. Raises RequestRefused."""
        try:
            if request.method != b"POST":
                raise RequestRefused(405, "events are sent by POST")
            headers = [
                (name.decode("latin-1").lower(), value.decode("utf-8", "surrogateescape"))
                for name, value in request.headers
            ]
            body = await request.body(_MOST_EVENT)
            events = read_events(headers, body)
            if len(events) != 1:
                raise RequestRefused(400, "a broker takes single events, not batches")
            (event,) = events
            matching = [trigger for trigger in self._triggers.values() if trigger.matches(event)]
            if any(trigger.queue.qsize() >= self._settings.queue_limit for trigger in matching):
                raise RequestRefused(429, f"a queue is full: {self._settings.queue_limit:,} events (queue-limit)")
        except RequestRefused:
            self._refused += 1
            raise
        queued = QueuedEvent(event.id, {name: value for name, value in headers if _FORWARDED.match(name)}, body)
        self._received += 1
        for trigger in matching:
            trigger.enqueue(queued)
        request.respond(202, b"", b"text/plain")

    async def close(self) -> None:
        """Stop delivering."""
        tasks = [task for trigger in self._triggers.values() for task in trigger.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def to_json(self, ids: bool = False) -> dict[str, Any]:
        """Counts of the ingress and of each trigger."""
        triggers = {name: trigger.to_json(ids) for name, trigger in self._triggers.items()}
        return {"received": self._received, "refused": self._refused, "triggers": triggers}
