"""Makes a receiver's receipts durable: batches for the event logger, else the spool.

Rules:
- one batch is in flight at a time; receipts that arrive meanwhile are the next batch
- a receipt is durable once the logger has answered 200 for it, or once it is synced to the spool. Only then is its
  event acknowledged; when neither succeeds, the event is refused
- the buffer is limited; receipts beyond the limit are refused at once
- a server whose 200 does not confirm every receipt as written is not an event logger, and no receipt counts as written
- each instance reports its counters to the logger. Those of a killed instance are reported by the next process with
  the same spool folder
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path

import aiohttp
import orjson

from workload_generator.base.backoff import Backoff
from workload_generator.base.errors import RequestRefused
from workload_generator.eventing.counters import Counters
from workload_generator.eventing.receipts import InstanceReport, Receipt, ReceiptBatch, decode_batch, encode_batch
from workload_generator.eventing.spool import COUNTED, Spool, open_spool, orphans

_MOST_IN_BATCH = 2000
_MOST_WAITING = 20_000
_REQUEST_S = 5.0
_PATIENCE_S = 3.0  # how long a batch is retried without a spool
_BACKOFF = Backoff(0.1, 0.5, jitter=0.5)
_DRAIN_INTERVAL_S = 0.2
_REPORT_S = 1.0
_DRIFT_PPM = 15

_Entry = tuple[list[Receipt], "asyncio.Future[None]"]


def _terminate_on_failure(task: asyncio.Task[None]) -> None:
    """End the process: without this task it answers no request, or never empties its spool."""
    if not task.cancelled() and task.exception() is not None:
        os.kill(os.getpid(), signal.SIGTERM)


class LoggerClock:
    """This clock − the logger's, by the best exchange of times so far (RFC 5905, sections 8 and 10).

    An exchange is known within half its round trip when it is made, and within 15 µs more with each second: a later
    one with a longer round trip is the better one some time.
    """

    def __init__(self) -> None:
        self._best: tuple[int, int, int] | None = None  # the offset, half the round trip, and when

    def add(self, began_ns: int, received_ns: int, sent_ns: int, ended_ns: int) -> None:
        """An exchange that began and ended by this clock, and was received and sent by the logger's."""
        half_rtt_ns = max(0, ended_ns - began_ns - (sent_ns - received_ns)) // 2
        _, error_ns = self.offset(ended_ns)
        if error_ns is None or half_rtt_ns < error_ns:
            self._best = (began_ns + ended_ns) // 2 - (received_ns + sent_ns) // 2, half_rtt_ns, ended_ns

    def offset(self, now_ns: int) -> tuple[int, int] | tuple[None, None]:
        """The offset and its error, both in ns; None before the first exchange."""
        if self._best is None:
            return None, None
        offset_ns, half_rtt_ns, at_ns = self._best
        return offset_ns, half_rtt_ns + max(0, now_ns - at_ns) * _DRIFT_PPM // 1_000_000


class Outbox:
    """The outbox of one worker. Without `logger` everything goes to the spool, without `spool` nothing does.

    Raises UsageError when the spool cannot be used.
    """

    def __init__(self, instance: str, logger: str | None, spool: Path | None) -> None:
        self._instance = instance
        self._url = f"{logger.rstrip('/')}/receipts" if logger else None
        self._own = None if spool is None else open_spool(spool, instance)
        self._spools = [] if self._own is None else [self._own]
        self.counters = Counters(COUNTED) if self._own is None else self._own.counters
        self._entries: deque[_Entry] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._failure: str | None = None  # of the last request to the logger
        self._clock = LoggerClock()
        self._reported: tuple[int, ...] = (0, 0, 0)
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Start; called in the worker's own process."""
        if self._own is not None:
            self._spools = [*orphans(self._own.path.parent), self._own]
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_S))
        self._task, self._drainer = asyncio.create_task(self._run()), asyncio.create_task(self._drain())
        for task in (self._task, self._drainer):
            task.add_done_callback(_terminate_on_failure)

    @property
    def is_ready(self) -> bool:
        """Whether receipts can be made durable."""
        return self._own is not None or self._failure is None

    def put(self, receipts: list[Receipt]) -> asyncio.Future[None]:
        """Returns a future that is done once the receipts are durable. It, or the call, raises RequestRefused."""
        if self._waiting + len(receipts) > _MOST_WAITING:
            raise RequestRefused(429, f"the buffer is full: {self._waiting:,} receipts wait for the event logger")
        future = asyncio.get_running_loop().create_future()
        self._entries.append((receipts, future))
        self._waiting += len(receipts)
        self._wake.set()
        return future

    async def stop(self) -> None:
        """Finish what was put, report the counters, and end. Raises the exception of a task that failed."""
        self._stopping = True
        self._wake.set()
        await self._task
        self._drainer.cancel()
        (ended,) = await asyncio.gather(self._drainer, return_exceptions=True)
        await self._session.close()
        for spool in self._spools:
            spool.close(reported=spool is self._own and self._reported == self._report()[:3])
        if isinstance(ended, Exception):
            raise ended

    async def _run(self) -> None:
        while True:
            if self._entries:
                await self._process(self._take())
                continue
            self._wake.clear()
            if self._stopping:
                await self._send_report()
                return
            try:
                async with asyncio.timeout(_REPORT_S):
                    await self._wake.wait()
            except TimeoutError:
                await self._send_report()

    def _take(self) -> list[_Entry]:
        entries: list[_Entry] = []
        size = 0
        while self._entries and size < _MOST_IN_BATCH:
            entries.append(self._entries.popleft())
            size += len(entries[-1][0])
        self._waiting -= size
        return entries

    async def _process(self, entries: list[_Entry]) -> None:
        failure = await self._make_durable([receipt for receipts, _ in entries for receipt in receipts])
        for _, future in entries:
            if future.done():  # its request was cancelled
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(RequestRefused(503, f"the receipt could not be written: {failure}"))

    async def _make_durable(self, receipts: list[Receipt]) -> str | None:
        """None, or why it failed."""
        attempt = 1
        delays = _BACKOFF.delays()
        give_up = time.monotonic() + _PATIENCE_S
        while self._url is not None and (self._own is None or self._failure is None):
            if self._stopping and self._failure is not None:
                return self._failure  # the batches that wait do not each wait for a logger that is gone
            if await self._send(ReceiptBatch(self._instance, attempt, self._report(), receipts)):
                return None
            if self._own is None:
                if time.monotonic() > give_up:
                    return self._failure
                await asyncio.sleep(next(delays))
            attempt += 1
        assert self._own is not None, "neither logger nor spool"
        try:
            async with self._lock:
                batch = encode_batch(ReceiptBatch(self._instance, attempt, None, receipts))
                await asyncio.to_thread(self._own.append, batch)
        except OSError as error:
            return error.strerror or str(error)
        self.counters.add("spooled", len(receipts))
        return None

    async def _send(self, batch: ReceiptBatch) -> bool:
        """Send a batch of this instance. Whether it is written."""
        began_ns = time.time_ns()
        answer = await self._post(encode_batch(batch), len(batch.receipts))
        self.counters.add("batches" if answer else "failed_batches")
        if answer is None:
            return False
        self._clock.add(began_ns, answer["received_ns"], answer["sent_ns"], time.time_ns())
        return True

    def _report(self) -> InstanceReport:
        return InstanceReport(*_counts(self.counters), *self._clock.offset(time.time_ns()))

    async def _send_report(self, *, always: bool = False) -> None:
        """Report the counters, if they have changed since the last report."""
        report = self._report()
        if self._url is not None and (always or report[:3] != self._reported):
            if await self._send(ReceiptBatch(self._instance, 1, report, [])):
                self._reported = report[:3]

    async def _drain(self) -> None:
        """Send spooled batches, and the counters of killed instances, once the logger is reachable again."""
        while True:
            await asyncio.sleep(_DRAIN_INTERVAL_S)
            if self._url is None:
                continue
            for spool in list(self._spools):
                await self._drain_one(spool)
                if spool is not self._own and spool.is_empty and self._failure is None:
                    report = InstanceReport(*_counts(spool.counters))
                    if await self._post(encode_batch(ReceiptBatch(spool.instance, 1, report, [])), 0) is not None:
                        spool.close(reported=True)
                        self._spools.remove(spool)
            if self._failure is not None and all(spool.is_empty for spool in self._spools):
                await self._send_report(always=True)  # to learn whether it is reachable

    async def _drain_one(self, spool: Spool) -> None:
        while (batch := spool.first()) is not None:
            try:
                receipts = len(decode_batch(batch).receipts)
            except ValueError as error:  # left in place, for a person to inspect
                self._fail(f"{spool.path} holds a line that is not a batch of receipts: {error}")
                return
            if await self._post(batch, receipts) is None:
                return
            async with self._lock:
                spool.drop_first()

    async def _post(self, batch: bytes, receipts: int) -> dict[str, int] | None:
        """Have the logger write an encoded batch of that many receipts. None when it fails; `_failure` is why."""
        assert self._url is not None
        try:
            async with self._session.post(self._url, data=batch) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._fail(f"the event logger at {self._url} does not respond: {error or type(error).__name__}")
            return None
        shown = text[:200].decode("utf-8", "replace")
        if response.status != 200:
            self._fail(f"the event logger at {self._url} responded {response.status}: {shown}")
            return None
        answer = _confirmation(text, receipts)
        if answer is None:
            self._fail(f"{self._url} is not an event logger, or did not write all receipts; it responded {shown}")
        else:
            self._failure = None
        return answer

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            sys.stderr.write(f"{self._instance}: {reason}\n")
        self._failure = reason


def _counts(counters: Counters) -> tuple[int, int, int]:
    return counters["received"], counters["refused"], counters["acknowledged"]


def _confirmation(text: bytes, receipts: int) -> dict[str, int] | None:
    """The logger's answer, if it confirms that it wrote every receipt."""
    try:
        answer = orjson.loads(text)
        numbers = [answer[name] for name in ("written", "received_ns", "sent_ns")]
    except (ValueError, TypeError, KeyError):
        return None
    return answer if numbers[0] == receipts and all(type(number) is int for number in numbers) else None
