"""The receiver: takes CloudEvents, and acknowledges them (202) once their receipts are durable.

Events come by `POST /` or `POST /t/<trigger>`, so that the deliveries of two triggers to one receiver stay distinct.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from aiohttp.web import Response

from workload_generator.base.errors import RequestRefused
from workload_generator.cloudevents.decode import read_events
from workload_generator.eventing.http_workers import Headers
from workload_generator.eventing.outbox import Outbox
from workload_generator.eventing.receipts import Receipt

_TRIGGER = "/t/"
_LONGEST_TRIGGER = 253  # of a Kubernetes name
_LONGEST_ID = 4096


class Receiver:
    """The service of one worker. Raises UsageError when the spool cannot be used."""

    most_body_bytes = 4 * 1024 * 1024

    def __init__(self, instance: str, logger: str | None, spool: Path | None) -> None:
        self._outbox = Outbox(instance, logger, spool)
        self.counters = self._outbox.counters
        self._last_ns = 0

    async def start(self) -> None:
        """Start the outbox."""
        await self._outbox.start()

    def is_ready(self) -> bool:
        """Whether receipts can be made durable."""
        return self._outbox.is_ready

    async def stop(self) -> None:
        """Stop the outbox."""
        await self._outbox.stop()

    async def answer(self, path: str, headers: Headers, body: bytes, arrived_ns: int) -> Response:
        """Take the events of a request."""
        trigger = _trigger_of(path)
        events = read_events(headers, body)
        if any(len(event.id) > _LONGEST_ID or not event.id.isprintable() for event in events):
            raise RequestRefused(400, f"an id has more than {_LONGEST_ID:,} characters, or is not printable")
        receipts = []
        for event in events:
            self._last_ns = max(arrived_ns, self._last_ns + 1)
            sequence = event.sequence if event.sequence.isprintable() else ""
            receipts.append(Receipt(event.id, self._last_ns, trigger, sequence))
        self.counters.add("received", len(events))
        if receipts:
            try:
                await self._outbox.put(receipts)
            except RequestRefused:  # not CancelledError: the outbox may still write the receipts of a cancelled request
                self.counters.add("refused", len(events))
                raise
            self.counters.add("acknowledged", len(events))
        return Response(status=202)


def _trigger_of(path: str) -> str:
    if path != "/" and not path.startswith(_TRIGGER):
        raise RequestRefused(404, "send events to / or /t/<trigger>; other paths: /healthz, /readyz, /metrics, /clock")
    trigger = unquote(path.removeprefix(_TRIGGER) if path != "/" else "")
    if (path != "/" and not trigger) or len(trigger) > _LONGEST_TRIGGER or not trigger.isprintable():
        raise RequestRefused(404, f"expected a trigger's name of 1 to {_LONGEST_TRIGGER} printable characters in /t/…")
    return trigger
