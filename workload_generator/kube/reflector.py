"""A live copy of one kind of objects: a list, then a watch that goes on from it, through whatever breaks in between.

Rules:
- `objects` is always a state that the server had, or later; nothing is lost between list and watch.
- A watch that ends or breaks goes on from the last resourceVersion seen, bookmarks included; 410 means list again.
- A list that follows a gap is compared with what was known: what differs is given as a change with `listed` set, since
  the moment at which it arrived is not the moment at which it happened.
- What waiting cannot mend (forbidden, an API that is absent) ends it; all else is tried again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from workload_generator.base.backoff import Backoff
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, Expired, Forbidden, Invalid, Unauthorized, WaitTimeout
from workload_generator.kube.resources import Object, Resource, name_of, namespace_of

Key = tuple[str, str]  # namespace ("" when there is none) and name
_BACKOFF = Backoff(0.1, 10.0, jitter=0.5)  # many clients may have lost the same server
_HOPELESS = (Forbidden, ApiAbsent, Invalid, Unauthorized)


@dataclass(frozen=True, slots=True)
class Change:
    """One change; `before` is the object as it was known. `mono_ns` is its arrival here (`time.monotonic_ns()`)."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object
    before: Object | None
    mono_ns: int
    listed: bool


class Reflector:
    """Use as an asynchronous context: when it is entered, the first list is there. Raises ApiError on entering.

    `shrink` may return less of an object than came, to save memory; it has to keep name, namespace and resourceVersion.
    """

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        shrink: Callable[[Object], Object] | None = None,
        turn_s: int = 300,
        silence_s: float = 90.0,
    ) -> None:
        self._kube = kube
        self._resource = resource
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._shrink = shrink or _whole
        self._turn_s = turn_s
        self._silence_s = silence_s
        self._version = ""
        self._moved = asyncio.Condition()
        self._readers: list[asyncio.Queue[Change | None]] = []
        self._task: asyncio.Task[None] | None = None
        self._failure: ApiError | None = None
        self.objects: dict[Key, Object] = {}
        """The objects as last heard of, by namespace and name. Not to be changed."""
        self.lists = 0
        """How often everything had to be listed; more than 1 means that changes may have been missed in between."""
        self.breaks = 0
        """How often a watch broke, rather than ended."""

    async def __aenter__(self) -> Reflector:
        await self._list()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def changes(self) -> AsyncIterator[Change]:
        """Changes from this iterator's first step on; what it has not taken waits in memory. Raises ApiError."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        self._readers.append(queue)
        try:
            while self._failure is None or not queue.empty():
                change = await queue.get()
                if change is not None:
                    yield change
            raise self._failure
        finally:
            self._readers.remove(queue)

    async def until(self, holds: Callable[[dict[Key, Object]], bool]) -> None:
        """Return as soon as `holds` is true of `objects`, asked now and after each change. Raises ApiError."""
        async with self._moved:
            while not holds(self.objects):
                if self._failure is not None:
                    raise self._failure
                await self._moved.wait()

    async def _follow(self) -> None:
        delays = _BACKOFF.delays()
        listed = True
        while True:
            least_s = 0.0
            try:
                if not listed:
                    await self._list()
                    listed = True
                began = time.monotonic()
                await self._watch()
                if time.monotonic() - began > 1:  # a server that ends watches at once is not asked in a tight loop
                    delays = _BACKOFF.delays()
                    continue
            except Expired:
                listed = False
            except _HOPELESS as error:
                await self._fail(error)
                return
            except ApiError as error:
                self.breaks += 1
                least_s = min(error.retry_after_s or 0, _BACKOFF.cap_s)
            except Exception as error:  # our own fault: whoever waits has to learn of it, not to wait for ever
                await self._fail(ApiError(f"following {self._resource}: {type(error).__name__}: {error}"))
                raise
            await asyncio.sleep(max(next(delays), least_s))

    async def _list(self) -> None:
        fresh: dict[Key, Object] = {}
        version = ""
        async for page in self._kube.pages(self._resource, self._namespace, labels=self._labels, fields=self._fields):
            fresh.update((_key(obj), self._shrink(obj)) for obj in page.items)  # never all of them in full
            version = page.resource_version
        mono_ns = time.monotonic_ns()
        self.lists += 1
        for key in self.objects.keys() - fresh.keys():
            before = self.objects.pop(key)
            self._tell(Change("DELETED", before, before, mono_ns, listed=True))
        for key, obj in fresh.items():
            self._put(key, obj, mono_ns, listed=True)
        self._version = version
        await self._wake()

    async def _watch(self) -> None:
        events = self._kube.watch(
            self._resource,
            self._namespace,
            resource_version=self._version,
            labels=self._labels,
            fields=self._fields,
            turn_s=self._turn_s,
            silence_s=self._silence_s,
        )
        async with contextlib.aclosing(events):
            async for event in events:
                self._version = event.object["metadata"]["resourceVersion"]
                if event.type == "BOOKMARK":
                    continue
                key, obj = _key(event.object), self._shrink(event.object)
                if event.type == "DELETED":
                    self._tell(Change("DELETED", obj, self.objects.pop(key, None), event.mono_ns, listed=False))
                else:
                    self._put(key, obj, event.mono_ns, listed=False)
                await self._wake()

    def _put(self, key: Key, obj: Object, mono_ns: int, *, listed: bool) -> None:
        before = self.objects.get(key)
        self.objects[key] = obj
        if before is None:
            self._tell(Change("ADDED", obj, None, mono_ns, listed))
        elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            self._tell(Change("MODIFIED", obj, before, mono_ns, listed))

    def _tell(self, change: Change) -> None:
        for queue in self._readers:
            queue.put_nowait(change)

    async def _wake(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _fail(self, error: ApiError) -> None:
        self._failure = error
        for queue in self._readers:
            queue.put_nowait(None)
        await self._wake()


async def delete_and_wait(
    kube: Kube, resource: Resource, name: str, namespace: str = "", *, timeout_s: float = 120.0
) -> bool:
    """Delete an object and wait until it is gone or replaced by another of its name; False if there was none.

    Raises WaitTimeout, ApiError.
    """
    existing = await kube.find(resource, name, namespace)
    if existing is None:
        return False
    uid = existing["metadata"]["uid"]
    await kube.delete(resource, name, namespace, uid=uid)
    try:
        async with (
            asyncio.timeout(timeout_s),
            Reflector(kube, resource, namespace, fields=f"metadata.name={name}") as reflector,
        ):
            await reflector.until(lambda objects: all(obj["metadata"]["uid"] != uid for obj in objects.values()))
    except TimeoutError:
        where = f"{namespace}/{name}" if namespace else name
        raise WaitTimeout(f"{resource} {where} is not gone after {timeout_s:g} s") from None
    return True


def _key(obj: Object) -> Key:
    return namespace_of(obj), name_of(obj)


def _whole(obj: Object) -> Object:
    return obj
