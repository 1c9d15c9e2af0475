"""Asking the API server, and changing what it has."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import aiohttp
import orjson

from workload_generator.kube.connection import Connection
from workload_generator.kube.credentials import Access, Credentials, find_credentials
from workload_generator.kube.errors import ApiAbsent, ApiError, NotFound, Unreachable, error_of_status
from workload_generator.kube.resources import Object, Resource, name_of, namespace_of

FIELD_MANAGER = "kn-bench"
PAGE = 500
_TURN_S = 300  # the API server ends a watch after this; it is then taken up again
_SILENCE_S = 90.0  # bookmarks come about once a minute

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects as they were at `resource_version`, from which a watch goes on. `more` leads to the next page."""

    items: list[Object]
    resource_version: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class Glance:
    """A page of objects as they were at some moment between `sent_ns` and `received_ns` (`time.monotonic_ns()`).

    `date_ns` is the second (since the epoch, in ns) of the server's clock in between; None when it does not say.
    """

    listing: Listing
    date_ns: int | None
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """What a watch said, and when its last byte was read (`mono_ns`, `time.monotonic_ns()`)."""

    type: EventType
    object: Object
    mono_ns: int


class Kube:
    """A cluster. `async with await Kube.connect() as kube:` closes it at the end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kinds: dict[tuple[str, str], Resource] = {}

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        *,
        credentials: Credentials | None = None,
        patience_s: float = 15.0,
        timeout_s: float = 60.0,
    ) -> Kube:
        """Find credentials (as kubectl does, or in a pod its service account); nothing is asked of the server yet.

        A request may take `timeout_s`; what may be retried is, for `patience_s`. Raises UsageError.
        """
        found = credentials or find_credentials(kubeconfig, context)
        return cls(Connection(found, await found.load(), patience_s, timeout_s))

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    @property
    def access(self) -> Access:
        """Server, context and its default namespace."""
        return self._connection.access

    async def version(self) -> Object:
        """The server's `/version`: `major`, `minor`, `gitVersion`, …"""
        return _decoded(await self._connection.request("GET", "/version"))

    async def raw(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes:
        """The body that a GET of any path gives: what a proxy leads to, for instance. Raises ApiError."""
        return await self._connection.request("GET", path, params=params)

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """One object. Raises NotFound, ApiAbsent or another ApiError."""
        return _decoded(await self._connection.request("GET", resource.path(name, namespace)))

    async def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """One object, or None when there is none. Raises ApiAbsent when the cluster does not know its kind."""
        try:
            return await self.get(resource, name, namespace)
        except ApiAbsent:
            raise
        except NotFound:
            return None

    async def pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "", page: int = PAGE
    ) -> AsyncIterator[Listing]:
        """All objects (of all namespaces without one), `page` at a time, all as of one moment. Raises ApiError.

        Expired means that the pages were read too slowly; begin again. `labels` and `fields` are selectors.
        """
        params: dict[str, str | int] = {"limit": page}
        if labels:
            params["labelSelector"] = labels
        if fields:
            params["fieldSelector"] = fields
        while True:
            answer = _decoded(await self._connection.request("GET", resource.path(namespace=namespace), params=params))
            about = answer["metadata"]
            listing = Listing(answer.get("items") or [], about.get("resourceVersion", ""), about.get("continue") or "")
            for item in listing.items:  # lists leave these out
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield listing
            if not listing.more:
                return
            params["continue"] = listing.more

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """All pages in one. Raises ApiError."""
        items: list[Object] = []
        version = ""
        async for listing in self.pages(resource, namespace, labels=labels, fields=fields):
            items += listing.items
            version = listing.resource_version
        return Listing(items, version)

    async def glance(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "", limit: int = PAGE
    ) -> Glance:
        """One page, as of now and not from a cache that lags, with the server's time. Not retried. Raises ApiError."""
        params: dict[str, str | int] = {"limit": limit}
        if labels:
            params["labelSelector"] = labels
        if fields:
            params["fieldSelector"] = fields
        dated = await self._connection.dated(resource.path(namespace=namespace), params)
        answer = _decoded(dated.body)
        about = answer["metadata"]
        listing = Listing(answer.get("items") or [], about.get("resourceVersion", ""), about.get("continue") or "")
        return Glance(listing, _date_ns(dated.date), dated.sent_ns, dated.received_ns)

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str,
        labels: str = "",
        fields: str = "",
        turn_s: int = _TURN_S,
        silence_s: float = _SILENCE_S,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, bookmarks among them, until the server ends it after `turn_s`.

        Raises Expired when that version is too old, Unreachable when the connection breaks or is silent for
        `silence_s`, or another ApiError. Close the iterator (`contextlib.aclosing`) when leaving it early.
        """
        path = resource.path(namespace=namespace)
        params: dict[str, str | int] = {
            "watch": 1,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": turn_s,
            "resourceVersion": resource_version,
        }
        if labels:
            params["labelSelector"] = labels
        if fields:
            params["fieldSelector"] = fields
        async with self._connection.stream(path, params, silence_s) as content:
            rest = b""
            while chunk := await _read(content, path):
                mono_ns = time.monotonic_ns()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _decoded(line)
                    if event["type"] == "ERROR":
                        raise error_of_status(path, event["object"])
                    yield WatchEvent(event["type"], event["object"], mono_ns)

    async def create(self, obj: Object, *, dry_run: bool = False, namespace: str = "") -> Object:
        """A new object, with all that admission makes of it. With `dry_run` nothing is stored. Raises ApiError."""
        resource = await self.resource_of(obj)
        path = resource.path(namespace=namespace_of(obj) or namespace)
        return _decoded(await self._connection.request("POST", path, params=_writing(dry_run), body=orjson.dumps(obj)))

    async def apply(self, obj: Object, *, force: bool = True, dry_run: bool = False, namespace: str = "") -> Object:
        """Server-side apply under our field manager: what stands in `obj` becomes so, what others own stays.

        With `force` our fields win; without it a field that another manager set differently raises Conflict.
        """
        resource = await self.resource_of(obj)
        params = {**_writing(dry_run), "force": "true" if force else "false"}
        path = resource.path(name_of(obj), namespace_of(obj) or namespace)
        kind = "application/apply-patch+yaml"  # JSON is YAML
        return _decoded(
            await self._connection.request("PATCH", path, params=params, body=orjson.dumps(obj), content_type=kind)
        )

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Object,
        namespace: str = "",
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Merge patch (RFC 7386: null removes). A `metadata.resourceVersion` in it makes others' changes a Conflict."""
        return _decoded(
            await self._connection.request(
                "PATCH",
                resource.path(name, namespace, subresource),
                params=_writing(dry_run),
                body=orjson.dumps(patch),
                content_type="application/merge-patch+json",
            )
        )

    async def delete(self, resource: Resource, name: str, namespace: str = "", *, uid: str = "") -> bool:
        """Ask for an object's end, its dependents' before it; whether there was one. With `uid`, only that one."""
        options: Object = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._connection.request("DELETE", resource.path(name, namespace), body=orjson.dumps(options))
        except ApiAbsent:
            raise
        except NotFound:
            return False
        return True

    async def resource_of(self, obj: Object) -> Resource:
        """The resource of a manifest, by its apiVersion and kind. Raises ApiAbsent when the cluster has none."""
        version, kind = str(obj["apiVersion"]), str(obj["kind"])
        if (version, kind) not in self._kinds:
            path = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for found in _decoded(await self._connection.request("GET", path))["resources"]:
                if "/" not in found["name"]:
                    resource = Resource(version, found["name"], found["kind"], found["namespaced"])
                    self._kinds[version, resource.kind] = resource
        if (version, kind) not in self._kinds:
            raise ApiAbsent(f"{version} has no kind {kind} in this cluster", status=404, reason="ApiAbsent")
        return self._kinds[version, kind]


async def _read(content: aiohttp.StreamReader, path: str) -> bytes:
    try:
        return await content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unreachable(f"WATCH {path}: {error or 'silent for too long'}") from None


def _date_ns(text: str | None) -> int | None:
    try:
        return None if text is None else int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except ValueError:  # not what HTTP asks for: the server does not say
        return None


def _writing(dry_run: bool = False) -> dict[str, str]:
    params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**params, "dryRun": "All"} if dry_run else params


def _decoded(body: bytes) -> Object:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the server sent what is no JSON: {error}") from None
    if not isinstance(answer, dict):
        raise ApiError("the server sent JSON that is no object")
    return answer
