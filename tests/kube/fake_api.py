"""A fake API server: tokens, paging, watches with bookmarks, 409, 410, 429, server-side apply, absent APIs, and faults.

State is in memory; tests read and change it (`put`, `remove`, `objects`) while clients are connected, and inject faults
with `fail`. `FakeApi` runs in the test's own loop, `in_thread` serves commands that have a loop of their own. Reads and
changes by tests run in the server's loop: between two requests, never during one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import json
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import yaml
from aiohttp import web

from tests.kube import applying
from tests.listener import Listener
from tests.ports import bound
from workload_generator.kube import resources
from workload_generator.kube.resources import Object, Resource

TOKEN = "a-token"
ALL = tuple(value for value in vars(resources).values() if isinstance(value, Resource))
_PATH = re.compile(r"/(?:api/v1|apis/([^/]+/[^/]+))(?:/namespaces/([^/]+)(?=/))?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?")
P = ParamSpec("P")
T = TypeVar("T")


def in_its_loop(method: Callable[Concatenate[FakeApi, P], T]) -> Callable[Concatenate[FakeApi, P], T]:
    """Called in another thread, the method runs in the server's."""

    @functools.wraps(method)
    def call(self: FakeApi, *args: P.args, **more: P.kwargs) -> T:
        return self.run(lambda: method(self, *args, **more))

    return call


@dataclass
class Fault:
    """A fault of the next `times` requests whose method and path match."""

    match: str  # a regular expression on `METHOD /path`
    status: int = 0  # 0: not refused
    reason: str = ""
    retry_after: int | None = None
    delay_s: float = 0.0
    disconnect: bool = False
    times: int = 1


class FakeApi:
    """The server. It has the APIs in `served`, and refuses the `(verb, plural)` in `forbidden` with 403."""

    def __init__(self, served: Iterable[Resource] = ALL) -> None:
        self.served = {(resource.api_version, resource.plural): resource for resource in served}
        self.tokens = {TOKEN}
        self.forbidden: set[tuple[str, str]] = set()
        self.requests: list[str] = []
        self.headers: list[tuple[str, str]] = []
        """Of the last request."""
        self.faults: list[Fault] = []
        self.admit: Callable[[Object], None] = lambda _obj: None
        """Called with each object before it is stored: changes it, or raises ValueError, which refuses it (403)."""
        self.on_change: Callable[[str, Object], None] = lambda _type, _obj: None
        """Called after each change: plays a controller, by `put` and `remove`."""
        self.git_version = "v1.36.3"
        self.raw: dict[str, Any] = {}
        """Responses (JSON) to GETs of other paths, such as a proxy's."""
        self.skew_s = 0.0
        """How far the server's clock is ahead of this machine's."""
        self.url = ""
        self._version = 100
        self._oldest = 0
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Object]] = {}
        self._owners: dict[str, applying.Applied] = {}  # by uid
        self._history: list[tuple[int, str, Resource, Object]] = []
        self._pages: dict[str, tuple[list[Object], int]] = {}
        self._watchers: list[asyncio.Queue[tuple[str, Resource | None, Object] | None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None
        self._listener: Listener | None = None

    # For tests

    @in_its_loop
    def objects(self, resource: Resource) -> list[Object]:
        """Copies of all objects of a kind."""
        return copy.deepcopy(list(self._of(resource).values()))

    @in_its_loop
    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """A copy of one object."""
        return copy.deepcopy(self._of(resource).get((namespace, name)))

    @in_its_loop
    def put(self, resource: Resource, obj: Object) -> Object:
        """Store an object as a controller would, with its status; its metadata has name and namespace."""
        obj = copy.deepcopy(obj)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        return copy.deepcopy(self._store(resource, obj))

    @in_its_loop
    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object and its dependents at once; dependents with finalizers begin to end."""
        gone = self._of(resource).pop((namespace, name))
        self._changed("DELETED", resource, gone)
        for other in list(self.served.values()):
            for dependent in list(self._of(other).values()):
                owners = dependent["metadata"].get("ownerReferences", ())
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                    about = dependent["metadata"]
                    if about.get("finalizers"):
                        self._store(other, {**dependent, "metadata": {**about, "deletionTimestamp": self.now()}})
                    else:
                        self.remove(other, about["name"], about.get("namespace", ""))

    def fail(self, match: str, **how: Any) -> None:
        """Inject a fault: see Fault."""
        self.faults.append(Fault(match, **how))

    @in_its_loop
    def compact(self) -> None:
        """Drop all history: older versions and pages get 410 from now on, and watches end with it."""
        self._oldest = self._version = self._version + 1
        self._history.clear()
        self._pages.clear()

    @in_its_loop
    def bookmark(self) -> None:
        """Send a bookmark on every watch."""
        self._version += 1
        self._send("BOOKMARK", None, {"metadata": {"resourceVersion": str(self._version)}})

    @in_its_loop
    def end_watches(self, *, expired: bool = False) -> None:
        """End all watches: without an error, or with an ERROR event of 410."""
        if expired:
            self._send("ERROR", None, _status(410, "Expired", "too old resource version"))
        for queue in self._watchers:
            queue.put_nowait(None)

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in the server's loop, if that runs in another thread; returns its result."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is threading.current_thread() or not loop.is_running():
            return function()

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), loop).result(30)

    @property
    def watching(self) -> int:
        """The number of open watches."""
        return len(self._watchers)

    def write_kubeconfig(self, path: Path, token: str = TOKEN) -> Path:
        """A kubeconfig file for this server."""
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
                    "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
                    "users": [{"name": "fake", "user": {"token": token}}],
                }
            )
        )
        return path

    async def start(self) -> None:
        """Listen on loopback."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.current_thread()
        app = web.Application(client_max_size=2**24)
        app.on_response_prepare.append(self._date)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        assert self._runner.server is not None
        self._listener = Listener(bound(), self._runner.server)
        self.url = self._listener.url

    async def stop(self) -> None:
        """Close everything."""
        self.end_watches()
        if self._runner is None or self._listener is None:
            return
        await self._listener.close()
        await self._runner.cleanup()
        await self._listener.abort()

    @in_its_loop
    def replay(self, kind: str, resource: Resource, obj: Object) -> None:
        """Send a change on every watch regardless of the state: a repeated one, or one out of order."""
        self._send(kind, resource, copy.deepcopy(obj))

    @in_its_loop
    def tear_watches(self) -> None:
        """Break the connection of every watch in the middle of an event."""
        self._send("TORN", None, {})

    def now(self) -> str:
        """The server's time in the API's format: whole seconds."""
        return f"{datetime.now(UTC) + timedelta(seconds=self.skew_s):%Y-%m-%dT%H:%M:%SZ}"

    async def _date(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = format_datetime(datetime.now(UTC) + timedelta(seconds=self.skew_s), usegmt=True)

    # Answers

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path}"
        self.requests.append(f"{line}?{request.query_string}" if request.query_string else line)
        self.headers = list(request.headers.items())
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return _refusal(401, "Unauthorized", "Unauthorized")
        for fault in self.faults:
            if fault.times and re.search(fault.match, line):
                fault.times -= 1
                await asyncio.sleep(fault.delay_s)
                if fault.disconnect:
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
                if fault.status:
                    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
                    return _refusal(fault.status, fault.reason, f"fault of {fault.status}", headers)
        if request.path == "/version":
            major, minor = self.git_version.lstrip("v").split(".")[:2]
            return web.json_response({"gitVersion": self.git_version, "major": major, "minor": minor})
        if request.path in self.raw:
            return web.json_response(self.raw[request.path])
        if found := re.fullmatch(r"/(?:api/(v1)|apis/([^/]+/[^/]+))", request.path):
            return self._discovery(found[1] or found[2])
        match = _PATH.fullmatch(request.path)
        resource = self.served.get((match[1] or "v1", match[3])) if match else None
        if match is None or resource is None:
            return web.Response(status=404, text="404 page not found\n")
        return await self._serve(request, resource, match[2] or "", match[4] or "", match[5] or "")

    def _discovery(self, version: str) -> web.Response:
        kinds = [
            {"name": resource.plural, "kind": resource.kind, "namespaced": resource.namespaced}
            for (api_version, _), resource in self.served.items()
            if api_version == version
        ]
        if not kinds:
            return web.Response(status=404, text="404 page not found\n")
        return web.json_response({"kind": "APIResourceList", "groupVersion": version, "resources": kinds})

    async def _serve(
        self, request: web.Request, resource: Resource, namespace: str, name: str, subresource: str
    ) -> web.StreamResponse:
        watching = request.query.get("watch") in ("1", "true")
        verb = "watch" if watching else _VERBS[request.method, bool(name)]
        if (verb, resource.plural) in self.forbidden:
            return _refusal(403, "Forbidden", f"{resource} is forbidden: you cannot {verb} it")
        if watching:
            return await self._watch(request, resource, namespace)
        if verb == "list":
            return self._list(request, resource, namespace)
        if verb == "create":
            return await self._create(request, resource, namespace)
        there = self._of(resource).get((namespace, name))
        body = await request.json() if request.can_read_body else {}
        if verb == "patch" and request.content_type == "application/apply-patch+yaml":
            return self._apply(request, resource, namespace, name, body)
        if there is None:
            return _refusal(404, "NotFound", f'{resource} "{name}" not found')
        if verb == "get":
            return web.json_response(there)
        if verb == "delete":
            return self._delete(resource, namespace, name, there, body)
        wanted = body if verb == "update" else applying.merge(there, body)
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, there["metadata"]["resourceVersion"]):
            return _refusal(409, "Conflict", "the object has been modified; please apply your changes to the latest")
        manager = f"{request.query.get('fieldManager', 'unknown')} by update"  # not the owner by apply
        if subresource == "":
            for path in applying.fields(body):
                self._own(there, manager, path)
        return self._keep(request, resource, wanted)

    def _list(self, request: web.Request, resource: Resource, namespace: str) -> web.Response:
        limit = int(request.query.get("limit", 0))
        token = request.query.get("continue")
        if token:
            start = int(base64.b64decode(token).decode().partition(":")[2])
            if token not in self._pages:
                return _refusal(410, "Expired", "the provided continue parameter is too old")
            items, version = self._pages[token]
        else:
            start, version = 0, self._version
            items = [obj for obj in self._of(resource).values() if _selected(request, obj, namespace)]
        about: dict[str, Any] = {"resourceVersion": str(version)}
        end = start + limit if limit else len(items)
        if end < len(items):
            following = base64.b64encode(f"{version}:{end}".encode()).decode()
            self._pages[following] = (items, version)
            about |= {"continue": following, "remainingItemCount": len(items) - end}
        page = [{key: obj[key] for key in obj if key not in ("apiVersion", "kind")} for obj in items[start:end]]
        return web.json_response({"kind": f"{resource.kind}List", "metadata": about, "items": page})

    async def _watch(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or self._version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        queue: asyncio.Queue[tuple[str, Resource | None, Object] | None] = asyncio.Queue()
        if since < self._oldest:
            queue.put_nowait(("ERROR", None, _status(410, "Expired", f"too old resource version: {since}")))
            queue.put_nowait(None)
        for version, kind, of, obj in self._history:
            if version > since:
                queue.put_nowait((kind, of, obj))
        self._watchers.append(queue)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 1800))):
                await response.prepare(request)
                while (event := await queue.get()) is not None:
                    kind, of, obj = event
                    if kind == "TORN":
                        await response.write(b'{"type":"MODIFIED","object":{"metadata":{"na')
                        assert request.transport is not None
                        request.transport.abort()
                        return response
                    if of is None or (of is resource and _selected(request, obj, namespace)):
                        await response.write(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            return response
        finally:
            self._watchers.remove(queue)
        return response

    async def _create(self, request: web.Request, resource: Resource, namespace: str) -> web.Response:
        obj = await request.json()
        if resource is resources.ACCESS_REVIEWS:
            asked = obj["spec"]["resourceAttributes"]
            named = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            allowed = (asked["verb"], named) not in self.forbidden
            return web.json_response({**obj, "status": {"allowed": allowed}}, status=201)
        about = obj["metadata"]
        if "name" not in about:
            about["name"] = about["generateName"] + uuid.uuid4().hex[:5]
        if resource.namespaced:
            about.setdefault("namespace", namespace)
        if (about.get("namespace", ""), about["name"]) in self._of(resource):
            return _refusal(409, "AlreadyExists", f'{resource} "{about["name"]}" already exists')
        return self._keep(request, resource, obj, status=201)

    def _apply(
        self, request: web.Request, resource: Resource, namespace: str, name: str, manifest: Object
    ) -> web.Response:
        manager = request.query["fieldManager"]
        there = self._of(resource).get((namespace, name))
        wanted = applying.fields({key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")})
        wanted = {path: value for path, value in wanted.items() if path[:2] not in _IDENTITY}
        if there is None:
            obj = copy.deepcopy(manifest)
            if resource.namespaced:
                obj["metadata"]["namespace"] = namespace
            answer = self._keep(request, resource, obj, status=201)
            made = self._of(resource).get((namespace, name))
            if made is not None:
                self._owners[made["metadata"]["uid"]] = {manager: set(wanted)}
            return answer
        owners = self._owners.setdefault(there["metadata"]["uid"], {})
        clashes = applying.conflicts(there, wanted, owners, manager)
        if clashes and request.query.get("force") != "true":
            text = f"Apply failed with {len(clashes)} conflict: conflicts with {', '.join(clashes)}"
            return _refusal(409, "Conflict", text)
        others = set().union(*(owned for other, owned in owners.items() if other != manager))
        gone = owners.get(manager, set()) - set(wanted) - others
        obj = applying.apply(there, manifest, gone)
        answer = self._keep(request, resource, obj)
        if answer.status < 300 and request.query.get("dryRun") != "All":
            for other in owners:
                owners[other] -= {path for path in wanted if f'"{other}": .{".".join(path)}' in clashes}
            owners[manager] = set(wanted)
        return answer

    def _delete(self, resource: Resource, namespace: str, name: str, there: Object, options: Object) -> web.Response:
        uid = (options.get("preconditions") or {}).get("uid")
        if uid not in (None, there["metadata"]["uid"]):
            return _refusal(409, "Conflict", "the UID in the precondition does not match")
        if there["metadata"].get("finalizers"):
            there = copy.deepcopy(there)
            there["metadata"].setdefault("deletionTimestamp", self.now())
            self._store(resource, there)
        else:
            self.remove(resource, name, namespace)
        return web.json_response({"kind": "Status", "status": "Success"})

    def _keep(self, request: web.Request, resource: Resource, obj: Object, status: int = 200) -> web.Response:
        obj = copy.deepcopy(obj)
        try:
            self.admit(obj)
        except ValueError as error:
            return _refusal(403, "Forbidden", str(error))
        if request.query.get("dryRun") == "All":
            return web.json_response(obj, status=status)
        stored = self._store(resource, obj)
        return web.json_response(stored, status=status)

    # The store

    def _of(self, resource: Resource) -> dict[tuple[str, str], Object]:
        return self._objects.setdefault((resource.api_version, resource.plural), {})

    def _store(self, resource: Resource, obj: Object) -> Object:
        about = obj["metadata"]
        key = (about.get("namespace", ""), about["name"])
        before = self._of(resource).get(key)
        if before is None:
            about.setdefault("uid", str(uuid.uuid4()))
            about.setdefault("creationTimestamp", self.now())
            about.setdefault("generation", 1)
        else:
            for name in ("uid", "creationTimestamp"):
                about[name] = before["metadata"][name]
            same = before.get("spec") == obj.get("spec")
            about["generation"] = before["metadata"]["generation"] + (not same)
            if {**before, "metadata": None} == {**obj, "metadata": None} and _bare(before) == _bare(obj):
                return before  # as the real one: what changes nothing is no change
        self._version += 1
        about["resourceVersion"] = str(self._version)
        if about.get("deletionTimestamp") and not about.get("finalizers"):
            self._of(resource)[key] = obj
            self.remove(resource, about["name"], about.get("namespace", ""))
            return obj
        self._of(resource)[key] = obj
        self._changed("ADDED" if before is None else "MODIFIED", resource, obj)
        return obj

    def _changed(self, kind: str, resource: Resource, obj: Object) -> None:
        if kind == "DELETED":
            self._version += 1
            obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        obj = copy.deepcopy(obj)
        self._history.append((self._version, kind, resource, obj))
        self._send(kind, resource, obj)
        self.on_change(kind, copy.deepcopy(obj))

    def _own(self, obj: Object, manager: str, path: applying.Path) -> None:
        owners = self._owners.setdefault(obj["metadata"]["uid"], {})
        for other, owned in owners.items():
            if other != manager:
                owned.discard(path)
        owners.setdefault(manager, set()).add(path)

    def _send(self, kind: str, resource: Resource | None, obj: Object) -> None:
        for queue in self._watchers:
            queue.put_nowait((kind, resource, obj))


_VERBS = {
    ("GET", True): "get",
    ("GET", False): "list",
    ("POST", False): "create",
    ("POST", True): "create",
    ("PUT", True): "update",
    ("PATCH", True): "patch",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}
_IDENTITY = (("metadata", "name"), ("metadata", "namespace"))


@contextlib.asynccontextmanager
async def running(api: FakeApi) -> AsyncIterator[FakeApi]:
    """The server, in this loop."""
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


@contextlib.contextmanager
def in_thread(api: FakeApi) -> Iterator[FakeApi]:
    """The server, in a loop and thread of its own."""
    started: Future[Callable[[], object]] = Future()

    async def serve() -> None:
        end = asyncio.Event()
        try:
            await api.start()
        except BaseException as error:
            started.set_exception(error)
            raise
        loop = asyncio.get_running_loop()
        started.set_result(lambda: loop.call_soon_threadsafe(end.set))
        await end.wait()
        await api.stop()

    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(asyncio.run, serve())
        stop = started.result(10)
        try:
            yield api
        finally:
            stop()
            serving.result(10)


def _selected(request: web.Request, obj: Object, namespace: str) -> bool:
    about = obj["metadata"]
    if namespace and about.get("namespace") != namespace:
        return False
    for term in filter(None, re.split(r",(?![^(]*\))", request.query.get("labelSelector", ""))):
        labels = about.get("labels") or {}
        if found := re.fullmatch(r"(\S+) in \((.*)\)", term):
            if labels.get(found[1]) not in found[2].split(","):
                return False
            continue
        name, equal, value = (term.replace("==", "=").replace("!=", "!").replace("!", "!=")).partition("=")
        if name.endswith("!"):
            fits = labels.get(name[:-1]) != value
        else:
            fits = labels.get(name) == value if equal else name in labels
        if not fits:
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        here: Any = obj
        for word in path.split("."):
            here = (here or {}).get(word)
        if str(here or "") != value:
            return False
    return True


def _bare(obj: Object) -> Object:
    ours = ("resourceVersion", "generation")
    return {key: value for key, value in obj["metadata"].items() if key not in ours}


def _status(code: int, reason: str, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def _refusal(code: int, reason: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(_status(code, reason, message), status=code, headers=headers)
