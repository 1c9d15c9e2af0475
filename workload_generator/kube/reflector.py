"""A live copy of one kind of objects: a list, then watches that continue from it, through all failures.

Rules:
- `objects` is always a state that the server had, or a later one; nothing is lost between list and watch.
- After the end or failure of a watch, a new one continues from the last resourceVersion, bookmarks included; 410 means
  list again.
- A new list is compared with `objects`. Differences are changes with `listed` set: their time of arrival is not the
  time at which they happened.
- Errors that a retry cannot fix (forbidden, an absent API) end it; all others are retried with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from workload_generator.base.backoff import Backoff
from workload_generator.kube.client import Kube
from workload_generator.kube.errors import ApiAbsent, ApiError, Expired, Forbidden, Invalid, Unauthorized, WaitTimeout
from workload_generator.kube.resources import Key, Object, Resource, key_of

_BACKOFF = Backoff(0.1, 10.0, jitter=0.5)  # many clients may have lost the same server
_PERMANENT = (Forbidden, ApiAbsent, Invalid, Unauthorized)


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One change; `before` is the previous copy. `mono_ns` is the time of arrival (`time.monotonic_ns()`)."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Object
    before: Object | None
    mono_ns: int
    listed: bool


class Reflector:
    """An asynchronous context; entering it lists the objects, which may raise ApiError.

    To save memory, `shrink` may return a part of an object; it has to keep name, namespace and resourceVersion.
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
    ) -> None:
        self._resource = resource
        self._pages = partial(kube.pages, resource, namespace, labels=labels, fields=fields)
        self._events = partial(kube.watch, resource, namespace, labels=labels, fields=fields)
        self._shrink = shrink or (lambda obj: obj)
        self._version = ""
        self._changed = asyncio.Condition()
        self._readers: list[asyncio.Queue[ObjectChange | None]] = []
        self._task: asyncio.Task[None] | None = None
        self._failure: ApiError | None = None
        self.objects: dict[Key, Object] = {}
        """The last known objects, by namespace and name; read-only."""
        self.lists = 0
        """How often all objects were listed; after each one but the first, changes in between may be missing."""
        self.breaks = 0
        """How often a watch failed."""

    async def __aenter__(self) -> Reflector:
        await self._list()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def changes(self) -> AsyncIterator[ObjectChange]:
        """The changes after this iterator's first step; they are queued in memory. Raises ApiError."""
        queue: asyncio.Queue[ObjectChange | None] = asyncio.Queue()
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
        """Return as soon as `holds(objects)` is true, which is tested now and after each change. Raises ApiError."""
        async with self._changed:
            while not holds(self.objects):
                if self._failure is not None:
                    raise self._failure
                await self._changed.wait()

    async def _follow(self) -> None:
        delays = _BACKOFF.delays()
        is_listed = True
        while True:
            least_s = 0.0
            try:
                if not is_listed:
                    await self._list()
                    is_listed = True
                began = time.monotonic()
                await self._watch()
                if time.monotonic() - began > 1:  # else the server ends watches at once: no tight loop
                    delays = _BACKOFF.delays()
                    continue
            except Expired:
                is_listed = False
            except _PERMANENT as error:
                await self._fail(error)
                return
            except ApiError as error:
                self.breaks += 1
                least_s = min(error.retry_after_s or 0, _BACKOFF.cap_s)
            except Exception as error:  # a bug: without this, readers would wait forever
                await self._fail(ApiError(f"watching {self._resource}: {type(error).__name__}: {error}"))
                raise
            await asyncio.sleep(max(next(delays), least_s))

    async def _list(self) -> None:
        fresh: dict[Key, Object] = {}
        version = ""
        async for page in self._pages():
            fresh.update((key_of(obj), self._shrink(obj)) for obj in page.items)  # one full page at a time
            version = page.resource_version
        mono_ns = time.monotonic_ns()
        self.lists += 1
        for key in self.objects.keys() - fresh.keys():
            before = self.objects.pop(key)
            self._publish(ObjectChange("DELETED", before, before, mono_ns, listed=True))
        for key, obj in fresh.items():
            self._put(key, obj, mono_ns, listed=True)
        self._version = version
        await self._notify()

    async def _watch(self) -> None:
        async with contextlib.aclosing(self._events(resource_version=self._version)) as events:
            async for event in events:
                self._version = event.object["metadata"]["resourceVersion"]
                if event.type == "BOOKMARK":
                    continue
                key, obj = key_of(event.object), self._shrink(event.object)
                if event.type == "DELETED":
                    self._publish(
                        ObjectChange("DELETED", obj, self.objects.pop(key, None), event.mono_ns, listed=False)
                    )
                else:
                    self._put(key, obj, event.mono_ns, listed=False)
                await self._notify()

    def _put(self, key: Key, obj: Object, mono_ns: int, *, listed: bool) -> None:
        before = self.objects.get(key)
        self.objects[key] = obj
        if before is None:
            self._publish(ObjectChange("ADDED", obj, None, mono_ns, listed))
        elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            self._publish(ObjectChange("MODIFIED", obj, before, mono_ns, listed))

    def _publish(self, change: ObjectChange) -> None:
        for queue in self._readers:
            queue.put_nowait(change)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _fail(self, error: ApiError) -> None:
        self._failure = error
        for queue in self._readers:
            queue.put_nowait(None)
        await self._notify()


async def wait_until(
    reflector: Reflector, why: Callable[[dict[Key, Object]], str], timeout_s: float, failure: str
) -> dict[Key, Object]:
    """Run the reflector until `why` says nothing of its objects. Returns the objects.

    Raises WaitTimeout with `failure` and what `why` said last, ApiError.
    """
    said = ["the API server has not answered"]

    def holds(objects: dict[Key, Object]) -> bool:
        said[0] = why(objects)
        return not said[0]

    try:
        async with asyncio.timeout(timeout_s), reflector:
            await reflector.until(holds)
            return dict(reflector.objects)
    except TimeoutError:
        raise WaitTimeout(f"{failure} after {timeout_s:g} s: {said[0]}") from None


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

    def why(objects: dict[Key, Object]) -> str:
        return "it still exists" if any(obj["metadata"]["uid"] == uid for obj in objects.values()) else ""

    failure = f"{resource} {'/'.join(filter(None, (namespace, name)))} is not gone"
    reflector = Reflector(kube, resource, namespace, fields=f"metadata.name={name}")
    await wait_until(reflector, why, timeout_s, failure)
    return True
