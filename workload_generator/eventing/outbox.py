"""A receiver's receipts on their way to safety: to the logger in batches, else into the spool.

Rules:
- one batch is on its way at a time; what comes meanwhile is the next one
- a receipt is safe when the logger has answered 200 for it, or when it is synced in the spool; only then is its event
  acknowledged. Where it is not, its event is refused
- the buffer is bounded; what does not fit is refused at once
- whoever answers 200 but does not say that all of them were written is no event logger, and takes nothing from us
- the logger learns what each instance counted: from itself, or, when it was killed, from the next one on its disk
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, TypeGuard

import aiohttp

from workload_generator.base.backoff import Backoff
from workload_generator.eventing.counters import Column, LeftBehind, counters_path, left_behind
from workload_generator.eventing.http_service import Refused
from workload_generator.eventing.receipts import Batch, Receipt, Report, decode_batch, encode_batch
from workload_generator.eventing.spool import Spool, open_spool, orphans

_MOST_IN_BATCH = 2000
_MOST_WAITING = 20_000
_REQUEST_S = 5.0
_PATIENCE_S = 3.0  # how long a batch is tried again while there is no spool
_BACKOFF = Backoff(0.1, 0.5, jitter=0.5)
_PAUSE_S = 0.2
_REPORT_S = 1.0

_Entry = tuple[list[Receipt], "asyncio.Future[None]"]


class _Unreachable(Exception):
    """The logger did not take it."""


def _end_when_broken(task: asyncio.Task[None]) -> None:
    """Without its outbox a receiver answers nobody, and without its drainer the spool stays as it is: better that
    whoever started it starts it anew."""
    if not task.cancelled() and task.exception() is not None:
        os.kill(os.getpid(), signal.SIGTERM)


class Outbox:
    """One worker's. Without `logger` everything goes into the spool, without `spool` nothing does."""

    def __init__(self, instance: str, logger: str | None, spool: Path | None, counters: Column) -> None:
        self.instance = instance
        self._url = f"{logger.rstrip('/')}/receipts" if logger else None
        self._folder = spool
        self._counters = counters
        self._entries: deque[_Entry] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._down = False
        self._best: tuple[int, int] | None = None  # half the shortest round trip to the logger, and the offset
        self._reported: tuple[int, ...] = (0, 0, 0)
        self._spools: list[Spool] = []
        self._own: Spool | None = None
        self._dead: list[LeftBehind] = []
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Begin. Raises UsageError when the spool cannot be used."""
        if self._folder is not None:
            self._own = open_spool(self._folder, self.instance)
            self._spools = [*orphans(self._folder), self._own]
            self._dead = list(left_behind(self._folder))
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_S))
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_end_when_broken)
        self._drainer = asyncio.create_task(self._drain())
        self._drainer.add_done_callback(_end_when_broken)

    @property
    def is_ready(self) -> bool:
        """Whether receipts can be made safe."""
        return self._own is not None or not self._down

    def put(self, receipts: list[Receipt]) -> asyncio.Future[None]:
        """Have receipts made safe: the future ends when they are. Raises Refused when there is no room."""
        if self._waiting + len(receipts) > _MOST_WAITING:
            raise Refused(429, f"{self._waiting:,} receipts wait for the logger")
        future = asyncio.get_running_loop().create_future()
        self._entries.append((receipts, future))
        self._waiting += len(receipts)
        self._wake.set()
        return future

    async def stop(self) -> None:
        """Everything put is answered: tell the logger the last counts, and end."""
        self._stopping = True
        self._wake.set()
        await self._task
        self._drainer.cancel()
        (ended,) = await asyncio.gather(self._drainer, return_exceptions=True)
        await self._session.close()
        for spool in self._spools:
            spool.close()
        for dead in self._dead:
            dead.close(told=False)
        if self._folder is not None and self._reported == tuple(self._counts()[:3]):
            counters_path(self._folder, self.instance).unlink(missing_ok=True)
        if isinstance(ended, Exception):
            raise ended  # why we end: see _end_when_broken

    async def _run(self) -> None:
        while True:
            if not self._entries:
                self._wake.clear()
                if self._stopping:
                    await self._report()
                    return
                try:
                    async with asyncio.timeout(_REPORT_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._report()
                continue
            await self._pass_on(self._take())

    def _take(self) -> list[_Entry]:
        entries: list[_Entry] = []
        size = 0
        while self._entries and size < _MOST_IN_BATCH:
            entries.append(self._entries.popleft())
            size += len(entries[-1][0])
        self._waiting -= size
        return entries

    async def _pass_on(self, entries: list[_Entry]) -> None:
        receipts = [receipt for each, _ in entries for receipt in each]
        reason = await self._make_safe(receipts)
        for _, future in entries:
            if future.done():  # its sender has gone
                continue
            if reason is None:
                future.set_result(None)
            else:
                future.set_exception(Refused(503, reason))

    async def _make_safe(self, receipts: list[Receipt]) -> str | None:
        """Why it could not be done; None when it was."""
        attempt = 1
        delays = _BACKOFF.delays()
        give_up = time.monotonic() + _PATIENCE_S
        while self._url is not None and not (self._down and self._own is not None):
            try:
                await self._post(Batch(self.instance, attempt, self._counts(), receipts))
                return None
            except _Unreachable as error:
                self._set_down(str(error))
                if self._own is None and (time.monotonic() > give_up or self._stopping):
                    return f"the receipt could not be written: {error}"
                if self._own is None:
                    await asyncio.sleep(next(delays))
            attempt += 1
        assert self._own is not None, "neither logger nor spool"
        try:
            async with self._lock:
                batch = encode_batch(Batch(self.instance, attempt, None, receipts))
                await asyncio.to_thread(self._own.append, batch)
        except OSError as error:
            return f"the receipt could not be written: {error.strerror}"
        self._counters.add("spooled", len(receipts))
        return None

    async def _post(self, batch: Batch) -> None:
        began_ns = time.time_ns()
        try:
            answer = await self._exchange(encode_batch(batch), len(batch.receipts))
        except _Unreachable:
            self._counters.add("failed_batches")
            raise
        self._counters.add("batches")
        self._note_clock(began_ns, time.time_ns(), answer)

    def _note_clock(self, began_ns: int, ended_ns: int, answer: dict[str, int]) -> None:
        """Keep the offset of the exchange with the shortest round trip (RFC 5905, section 8)."""
        inside_ns = answer["sent_ns"] - answer["received_ns"]
        half_rtt_ns = max(0, ended_ns - began_ns - inside_ns) // 2
        if self._best is None or half_rtt_ns < self._best[0]:
            middle_ns = (answer["received_ns"] + answer["sent_ns"]) // 2
            self._best = half_rtt_ns, (began_ns + ended_ns) // 2 - middle_ns

    def _counts(self) -> Report:
        counters = self._counters
        half_rtt_ns, offset_ns = self._best or (None, None)
        return Report(counters["received"], counters["refused"], counters["acknowledged"], offset_ns, half_rtt_ns)

    async def _report(self) -> None:
        """Tell the logger what has changed since it was told."""
        counts = tuple(self._counts()[:3])
        if self._url is None or counts == self._reported:
            return
        try:
            await self._post(Batch(self.instance, 1, self._counts(), []))
            self._reported = counts
        except _Unreachable as error:
            self._set_down(str(error))

    def _set_down(self, reason: str) -> None:
        if not self._down:
            sys.stderr.write(f"{self.instance}: {reason}\n")
        self._down = True

    async def _drain(self) -> None:
        """Bring spooled batches to the logger, when it is there again."""
        while True:
            await asyncio.sleep(_PAUSE_S)
            if self._url is None:
                continue
            for spool in list(self._spools):
                await self._drain_one(spool)
                if spool.is_empty and spool is not self._own:
                    spool.close()
                    self._spools.remove(spool)
            await self._tell_of_the_dead()
            if self._down and all(spool.is_empty for spool in self._spools):
                await self._probe()

    async def _drain_one(self, spool: Spool) -> None:
        while (batch := spool.first()) is not None:
            try:
                await self._exchange(batch, len(_spooled(batch).receipts))
            except _Unreachable as error:
                self._set_down(str(error))
                return
            async with self._lock:
                spool.drop_first()

    async def _tell_of_the_dead(self) -> None:
        while self._dead and not self._down:
            dead = self._dead[0]
            report = Report(*(dead.counts.get(name, 0) for name in ("received", "refused", "acknowledged")))
            try:
                await self._exchange(encode_batch(Batch(dead.instance, 1, report, [])), 0)
            except _Unreachable as error:
                self._set_down(str(error))
                return
            self._dead.pop(0).close(told=True)

    async def _probe(self) -> None:
        with contextlib.suppress(_Unreachable):  # it is down still: that was said, and is counted
            await self._post(Batch(self.instance, 1, self._counts(), []))

    async def _exchange(self, batch: bytes, receipts: int) -> dict[str, int]:
        """Have the logger write an encoded batch of so many receipts; what it answered. Raises _Unreachable."""
        assert self._url is not None
        try:
            async with self._session.post(self._url, data=batch) as response:
                text = await response.read()
                if response.status != 200:
                    raise _Unreachable(f"the logger answered {response.status}: {_shown(text)}")
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _Unreachable(f"the logger does not answer: {error or type(error).__name__}") from None
        if not _says_written(answer, receipts):
            raise _Unreachable(f"{self._url} is no event logger, or has not written all: it answered {_shown(text)}")
        self._down = False
        return answer


def _says_written(answer: Any, receipts: int) -> TypeGuard[dict[str, int]]:
    names = ("written", "received_ns", "sent_ns")
    whole = isinstance(answer, dict) and all(type(answer.get(name)) is int for name in names)
    return whole and answer["written"] == receipts


def _spooled(line: bytes) -> Batch:
    """What a spool holds. Raises _Unreachable for what is none: it stays where it is, for a person to look at."""
    try:
        return decode_batch(line)
    except ValueError as error:
        raise _Unreachable(f"the spool holds what is no batch: {error}") from None


def _shown(text: bytes) -> str:
    return text[:200].decode("utf-8", "replace")
