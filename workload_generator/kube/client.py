"""Requests to the API server: read, list, watch, create, apply, patch and delete objects."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp
import orjson

from workload_generator.kube.credentials import Access, Credentials, find_credentials
from workload_generator.kube.errors import ApiAbsent, ApiError, NotFound, Unreachable, error_of_status
from workload_generator.kube.resources import Object, Resource, name_of, namespace_of
from workload_generator.kube.transport import ApiTransport

FIELD_MANAGER = "kn-bench"
PAGE = 500
TURN_S = 300
"""When the API server ends a watch; a new one then continues it."""
SILENCE_S = 90.0
"""When a watch without events counts as broken: bookmarks come about once a minute."""

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects at `resource_version`, from which a watch continues. `more` is the token of the next page, or empty."""

    items: list[Object]
    resource_version: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class TimedListing:
    """A page as of a moment between `sent_ns` and `received_ns` (`time.monotonic_ns()`).

    `date_ns` is the server's time in between, in whole seconds (ns since the epoch); None when it sent none.
    """

    listing: Listing
    date_ns: int | None
    sent_ns: int
    received_ns: int


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event of a watch; `mono_ns` is when its last byte was read (`time.monotonic_ns()`)."""

    type: EventType
    object: Object
    mono_ns: int


class Kube:
    """A cluster. `async with await Kube.connect() as kube:` closes it at the end."""

    def __init__(self, transport: ApiTransport) -> None:
        self._transport = transport
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
        """Load `credentials`, by default as `find_credentials` finds them. No request is sent yet.

        A request may take `timeout_s`; retries end after `patience_s`. Raises UsageError.
        """
        credentials = credentials or find_credentials(kubeconfig, context)
        return cls(ApiTransport(credentials, await credentials.load(), patience_s, timeout_s))

    async def __aenter__(self) -> Kube:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    @property
    def access(self) -> Access:
        """Server, context and its default namespace."""
        return self._transport.access

    async def version(self) -> Object:
        """The server's `/version`: `major`, `minor`, `gitVersion`, …"""
        return _decoded(await self.raw("/version"))

    async def raw(self, path: str, params: Mapping[str, str | int] | None = None) -> bytes:
        """The body of the response to a GET of any path, such as a node's proxy. Raises ApiError."""
        return await self._transport.request("GET", path, params=params)

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """One object. Raises NotFound, ApiAbsent or another ApiError."""
        return _decoded(await self.raw(resource.path(name, namespace)))

    async def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """One object, or None if it does not exist. Raises ApiAbsent if the cluster does not have its kind."""
        try:
            return await self.get(resource, name, namespace)
        except ApiAbsent:
            raise
        except NotFound:
            return None

    async def pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "", page: int = PAGE
    ) -> AsyncIterator[Listing]:
        """All objects (without `namespace`, of all namespaces), `page` at a time, as of one moment. Raises ApiError.

        Expired means that the pages were read too slowly: start again. `labels` and `fields` are selectors.
        """
        params = _selecting(labels, fields, limit=page)
        while True:
            listing = _listing(resource, await self.raw(resource.path(namespace=namespace), params))
            yield listing
            if not listing.more:
                return
            params["continue"] = listing.more

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listing:
        """All pages in one. Raises ApiError."""
        pages = [page async for page in self.pages(resource, namespace, labels=labels, fields=fields)]
        return Listing([item for page in pages for item in page.items], pages[-1].resource_version)

    async def timed_list(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "", limit: int = PAGE
    ) -> TimedListing:
        """One page as of now, not from the server's watch cache. Not retried. Raises ApiError."""
        path, params = resource.path(namespace=namespace), _selecting(labels, fields, limit=limit)
        sent_ns = time.monotonic_ns()
        async with self._transport.open("GET", path, params) as response:
            received_ns = time.monotonic_ns()
            listing = _listing(resource, await response.read())
        return TimedListing(listing, _date_ns(response.headers.get("Date")), sent_ns, received_ns)

    async def watch(
        self, resource: Resource, namespace: str = "", *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, bookmarks included, until the server ends the watch after TURN_S.

        Raises Expired when that version is too old, Unreachable when the connection breaks or is silent for SILENCE_S,
        or another ApiError. Close the iterator (`contextlib.aclosing`) when leaving it early.
        """
        path = resource.path(namespace=namespace)
        params = _selecting(
            labels, fields, watch=1, allowWatchBookmarks="true", timeoutSeconds=TURN_S, resourceVersion=resource_version
        )
        async with self._transport.open("GET", path, params, silence_s=SILENCE_S) as response:
            rest = b""
            while chunk := await _read(response.content, path):
                mono_ns = time.monotonic_ns()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _decoded(line)
                    if event["type"] == "ERROR":
                        raise error_of_status(path, event["object"])
                    yield WatchEvent(event["type"], event["object"], mono_ns)

    async def create(self, obj: Object, *, dry_run: bool = False, namespace: str = "") -> Object:
        """Create an object; returns it as admitted. With `dry_run` nothing is stored. Raises ApiError."""
        path = (await self.resource_of(obj)).path(namespace=namespace_of(obj) or namespace)
        return await self._write("POST", path, obj, "application/json", dry_run)

    async def apply(self, obj: Object, *, force: bool = True, dry_run: bool = False) -> Object:
        """Server-side apply as FIELD_MANAGER: sets the fields of `obj`, and leaves those of other managers.

        With `force` it takes over fields of `obj` that another manager set differently; without it, ApiConflict.
        """
        path = (await self.resource_of(obj)).path(name_of(obj), namespace_of(obj))
        kind = "application/apply-patch+yaml"  # JSON is YAML
        return await self._write("PATCH", path, obj, kind, dry_run, force="true" if force else "false")

    async def patch(
        self, resource: Resource, name: str, patch: Object, namespace: str = "", *, dry_run: bool = False
    ) -> Object:
        """Merge patch (RFC 7386: null removes). With a `metadata.resourceVersion` that is outdated, ApiConflict."""
        return await self._write(
            "PATCH", resource.path(name, namespace), patch, "application/merge-patch+json", dry_run
        )

    async def delete(self, resource: Resource, name: str, namespace: str = "", *, uid: str = "") -> None:
        """Start the deletion of an object after its dependents, if it exists. `uid`: only that one. Raises ApiError."""
        options: Object = {"propagationPolicy": "Foreground"}
        if uid:
            options["preconditions"] = {"uid": uid}
        with contextlib.suppress(NotFound):
            await self._transport.request("DELETE", resource.path(name, namespace), body=orjson.dumps(options))

    async def _write(
        self, method: str, path: str, body: Object, content_type: str, dry_run: bool, **params: str
    ) -> Object:
        params |= {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            params["dryRun"] = "All"
        return _decoded(
            await self._transport.request(
                method, path, params=params, body=orjson.dumps(body), content_type=content_type
            )
        )

    async def resource_of(self, obj: Object) -> Resource:
        """The resource of a manifest, by its apiVersion and kind. Raises ApiAbsent if the cluster does not have it."""
        version, kind = str(obj["apiVersion"]), str(obj["kind"])
        if (version, kind) not in self._kinds:
            for each in _decoded(await self.raw(f"/{'apis' if '/' in version else 'api'}/{version}"))["resources"]:
                if "/" not in each["name"]:
                    resource = Resource(version, each["name"], each["kind"], each["namespaced"])
                    self._kinds[version, resource.kind] = resource
        if (version, kind) not in self._kinds:
            raise ApiAbsent(f"the cluster has no kind {kind} in {version}", status=404, reason="ApiAbsent")
        return self._kinds[version, kind]


async def _read(content: aiohttp.StreamReader, path: str) -> bytes:
    try:
        return await content.readany()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise Unreachable(f"WATCH {path}: {error or f'no event for {SILENCE_S:g} s'}") from None


def _selecting(labels: str, fields: str, **params: str | int) -> dict[str, str | int]:
    selectors = {"labelSelector": labels, "fieldSelector": fields}
    return {**params, **{name: text for name, text in selectors.items() if text}}


def _listing(resource: Resource, body: bytes) -> Listing:
    answer = _decoded(body)
    items, about = answer.get("items") or [], answer["metadata"]
    for item in items:  # a list has these once, its items have not
        item.setdefault("apiVersion", resource.api_version)
        item.setdefault("kind", resource.kind)
    return Listing(items, about.get("resourceVersion", ""), about.get("continue") or "")


def _date_ns(text: str | None) -> int | None:
    try:
        return None if text is None else int(parsedate_to_datetime(text).timestamp()) * 1_000_000_000
    except ValueError:  # not an HTTP date
        return None


def _decoded(body: bytes) -> Object:
    try:
        answer: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the API server sent invalid JSON: {error}") from None
    if not isinstance(answer, dict):
        raise ApiError("the API server sent JSON that is not an object")
    return answer
