"""The receiver: takes CloudEvents, and answers 2xx only when their receipts are safe.

`POST /` and `POST /t/<trigger>`: two triggers that lead to one receiver stay two deliveries.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from aiohttp import web

from workload_generator.cloudevents.decode import BadEvent, read_events
from workload_generator.eventing.counters import Column
from workload_generator.eventing.http_service import Refused, read_body
from workload_generator.eventing.outbox import Outbox
from workload_generator.eventing.receipts import Receipt

COUNTED = (
    "received", "acknowledged", "refused", "rejected", "spooled", "batches", "failed_batches",
)  # fmt: skip
"""Of events: taken in, answered with 2xx, answered with 429 or 503, and what was no event. Then of receipts."""

_TRIGGER = "/t/"
_LONGEST_TRIGGER = 253  # as Kubernetes has names
_LONGEST_ID = 4096


class Receiver:
    """One worker."""

    def __init__(
        self, instance: str, logger: str | None, spool: Path | None, body_timeout_s: float, counters: Column
    ) -> None:
        self._instance, self._logger, self._spool = instance, logger, spool
        self._body_timeout_s = body_timeout_s
        self._counters = counters
        self._last_ns = 0

    async def start(self) -> None:
        """Begin."""
        self._outbox = Outbox(self._instance, self._logger, self._spool, self._counters)
        await self._outbox.start()

    def is_ready(self) -> bool:
        """Whether receipts can be made safe."""
        return self._outbox.is_ready

    async def stop(self) -> None:
        """Everything is answered: end."""
        await self._outbox.stop()

    async def answer(self, request: web.BaseRequest, arrived_ns: int) -> web.StreamResponse:
        """Take what one request brings."""
        try:
            trigger = _trigger_of(request)
            body = await read_body(request, self._body_timeout_s)
            events = read_events(request.headers.items(), body)
            if any(len(event.id) > _LONGEST_ID or not event.id.isprintable() for event in events):
                raise Refused(400, f"an id is longer than {_LONGEST_ID:,} characters, or not printable")
        except BadEvent as bad:
            self._counters.add("rejected")
            raise Refused(bad.status, str(bad)) from None
        except Refused:
            self._counters.add("rejected")
            raise
        receipts = []
        for event in events:
            self._last_ns = max(arrived_ns, self._last_ns + 1)
            sequence = event.sequence
            receipts.append(
                Receipt(event.id, self._last_ns, trigger, sequence if sequence.isprintable() else sequence[:0])
            )
        self._counters.add("received", len(events))
        if receipts:
            try:
                await self._outbox.put(receipts)
            except BaseException:  # refused, or its sender has gone: either way it has no answer
                self._counters.add("refused", len(events))
                raise
            self._counters.add("acknowledged", len(events))
        return web.Response(status=202)


def _trigger_of(request: web.BaseRequest) -> str:
    path = request.rel_url.raw_path
    if path != "/" and not path.startswith(_TRIGGER):
        raise Refused(404, "events go to / or to /t/<trigger>; there are /healthz, /readyz, /metrics and /clock")
    if request.method != "POST":
        raise Refused(405, f"{request.method} is not for events: they come by POST")
    trigger = unquote(path.removeprefix(_TRIGGER) if path != "/" else "")
    if (path != "/" and not trigger) or len(trigger) > _LONGEST_TRIGGER or not trigger.isprintable():
        raise Refused(404, f"no trigger's name: 1 to {_LONGEST_TRIGGER} printable characters")
    return trigger
