"""The embedded platform: services by host name, brokers by path, and its own pages under `/_platform`.

It is an emulator in one process. A request's `Host` names the service
(`empty-python-http-0.functions.svc.cluster.local`), which is made by its first request. Paths below `/_platform` and
`/broker` are the platform's own, for any host.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import random
import re
import resource
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from workload_generator import __version__
from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import ExperimentError, RequestRefused, UsageError
from workload_generator.emulator.broker import EmulatedBroker
from workload_generator.emulator.client_connection import ClientConnection
from workload_generator.emulator.instance import SharedResources
from workload_generator.emulator.periodic_timer import call_every
from workload_generator.emulator.platform_events import PlatformEvent, PlatformEvents
from workload_generator.emulator.proxied_request import ProxiedRequest
from workload_generator.emulator.service import EmulatedService
from workload_generator.emulator.settings import Faults, PlatformConfig, function_of, read_fault_request
from workload_generator.functions.catalog import Function

STATE_PATH = "/_platform"
BROKER_PATH = "/broker/"

_MOST_SERVICES = 1000
_CHECK_S = 0.01
_HOST = re.compile(r"([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(\.[a-z0-9.-]*)?")
_MOST_NAME = 63  # of a DNS label, as in Kubernetes
_MOST_FAULTS_BYTES, _MOST_FAULTS_DEPTH = 8192, 50
_OTHER_DESCRIPTORS = 256
_LOOPBACK = re.compile(rb"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)
_EVENT_ID = re.compile(r"[0-9]{1,18}")
_DOMAINS = ("", ".functions", ".functions.svc", ".functions.svc.cluster.local")
_STATE_TARGET = re.compile(rb"/_platform(?:[/?].*)?", re.DOTALL)


class EmbeddedPlatform:
    """State of one platform. To be made in the event loop."""

    def __init__(
        self,
        config: PlatformConfig,
        functions: Mapping[str, Function],
        seed: int,
        max_instances: int,
        listener: Callable[[PlatformEvent], None],
        token: str,
    ) -> None:
        """`token` is that of the control interface. Raises UsageError when a service with `min-scale` cannot start."""
        self._events = PlatformEvents(listener)
        self._config = config
        self._functions = functions
        first = [name for name, settings in config.services.items() if settings.min_scale]
        try:
            for name in first:
                self._function(name)
        except RequestRefused as refused:
            raise UsageError(f"services.{name}.min-scale: {refused}") from None
        self._seed = seed
        self._max_instances = max_instances
        spawner, draw = ThreadPoolExecutor(1, "spawner"), random.Random(seed)
        self._resources = SharedResources(self._events, spawner, draw, lambda: max_instances - self._instances)
        self._services: dict[str, EmulatedService] = {}
        self._deleted: list[EmulatedService] = []
        self._clients: dict[ClientConnection, None] = {}
        self._most_clients = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 - _OTHER_DESCRIPTORS
        self._authorization = f"Bearer {token}".encode()
        self._started_ns = monotonic_ns()
        self._brokers = {name: EmulatedBroker(name, each, seed, self._events) for name, each in config.brokers.items()}
        self._checking = call_every(NS_PER_S, self._check_clients)
        for name in first:
            self._find(name)

    # Requests

    def connection(self) -> ClientConnection:
        """The server's side of a new connection."""
        return ClientConnection(self._route, self._clients, self._most_clients)

    def _check_clients(self) -> None:
        for client in list(self._clients):
            client.check()

    async def _route(self, request: ProxiedRequest) -> None:
        """Have the request answered by its service or broker, or respond to it."""
        try:
            if request.target.startswith(BROKER_PATH.encode()):
                path = request.target.decode("latin-1").partition("?")[0]
                await self._broker(path.removeprefix(BROKER_PATH).rstrip("/")).take(request)
            elif _STATE_TARGET.fullmatch(request.target):
                await self._respond(request)
            else:
                await self._service_of(request.host).serve(request)
        except RequestRefused as refused:
            request.refuse(refused.status, str(refused))

    def _broker(self, name: str) -> EmulatedBroker:
        """The broker. Raises RequestRefused."""
        if name not in self._brokers:
            known = ", ".join(self._brokers) or "none; define brokers in the file of --config (docs/local.md)"
            raise RequestRefused(404, f"no broker {name[:200]}; known brokers: {known}")
        return self._brokers[name]

    def _service_of(self, host: bytes) -> EmulatedService:
        name = host.decode("latin-1").lower()
        match = _HOST.fullmatch(re.sub(r":[0-9]*$", "", name).removesuffix("."))
        if match is None or (match[2] or "") not in _DOMAINS:
            example = f"{next(iter(self._functions))}-0"
            raise RequestRefused(404, f"no service has the host {name[:200]!r}; a host is <service>{_DOMAINS[-1]}, "
                                  f"and a service is a function and a number, such as {example}")  # fmt: skip
        return self._find(match[1])

    def _find(self, name: str) -> EmulatedService:
        """The service, made if it does not exist. Raises RequestRefused."""
        if name not in self._services:
            function, settings = self._function(name), self._config.settings_of(name)
            if len(self._services) >= _MOST_SERVICES:
                raise RequestRefused(404, f"the platform has {_MOST_SERVICES:,} services already, which is its limit")
            self._services[name] = EmulatedService(name, function, settings, self._resources)
        return self._services[name]

    def _function(self, service: str) -> Function:
        """The function of a service. Raises RequestRefused."""
        name = self._config.settings_of(service).function or function_of(service, self._functions)
        if name is None:
            known = ", ".join(self._functions)
            raise RequestRefused(404, f"no function for the service {service[:200]}; a service is "
                                  f"<function>-<number>, and the functions are {known}")  # fmt: skip
        if len(service) > _MOST_NAME:
            raise RequestRefused(404, f"{service[:200]} has more than {_MOST_NAME} characters, the limit of a name")
        function = self._functions[name]
        if not function.built:
            raise RequestRefused(404, f"the function {name} is not built: run `kn-bench functions build`")
        return function

    # The control interface

    def _check_access(self, request: ProxiedRequest) -> None:
        """Refuse what a web page could send: it has no token, and its host may be any name of this machine's."""
        if request.method == b"HEAD" and request.target == STATE_PATH.encode():
            return  # asked by every run, to know what it measures
        if _LOOPBACK.fullmatch(request.host) is None:
            raise RequestRefused(403, f"{STATE_PATH} needs a loopback host, such as localhost")
        if not hmac.compare_digest(request.authorization, self._authorization):
            raise RequestRefused(401, f"{STATE_PATH} needs the token in the file that the platform named at its start "
                                      "(docs/local.md)")  # fmt: skip

    async def _respond(self, request: ProxiedRequest) -> None:
        self._check_access(request)
        path, _, query = request.target.decode("latin-1").partition("?")
        path = path.removeprefix(STATE_PATH).rstrip("/")
        method = request.method.decode()
        parameters = {name: values[0] for name, values in parse_qs(query).items()}
        match path.split("/"), method:
            case [""], "GET" | "HEAD":
                page: Any = self.to_json()
            case ["", "brokers"], "GET" | "HEAD":
                page = {name: broker.to_json() for name, broker in self._brokers.items()}
            case ["", "brokers", namespace, name], "GET" | "HEAD":
                page = self._broker(f"{unquote(namespace)}/{unquote(name)}").to_json(ids=True)
            case ["", "faults"], "GET" | "HEAD":
                page = self._faults()
            case ["", "faults"], "POST":
                page = await self._set_faults(await request.body(_MOST_FAULTS_BYTES))
            case ["", "faults"], "DELETE":
                page = self._clear_faults(parameters.get("service"))
            case ["", "events"], "GET" | "HEAD":
                after = parameters.get("after", "0")
                if _EVENT_ID.fullmatch(after) is None:
                    raise RequestRefused(400, f"after={after}: expected the id of an event")
                page = self._events.to_json(int(after))
            case ["", "services", name], "DELETE":
                page = self._delete(unquote(name))
            case [""] | ["", "faults" | "events" | "brokers"] | ["", "services", _], _:
                raise RequestRefused(405, f"{STATE_PATH}{path} does not support {method}")
            case _:
                raise RequestRefused(404, f"no page {STATE_PATH}{path}: see docs/local.md")
        body = orjson.dumps(page, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        request.respond(200, body, b"application/json")

    def _known(self, name: str) -> EmulatedService:
        """The service. Raises RequestRefused when it does not exist."""
        if name not in self._services:
            raise RequestRefused(404, f"no service {name}")
        return self._services[name]

    def _faults(self) -> dict[str, Any]:
        return {name: service.faults.to_json() for name, service in self._services.items()}

    async def _set_faults(self, body: bytes) -> dict[str, Any]:
        if body.count(b"[") + body.count(b"{") > _MOST_FAULTS_DEPTH:  # the parser's time grows with its square
            raise RequestRefused(400, "the request is nested too deeply")
        try:
            request = await asyncio.to_thread(read_fault_request, body.decode("utf-8", "replace"))
        except ExperimentError as error:
            raise RequestRefused(400, str(error)) from None
        service = self._find(request.service)
        if request.sets_faults or not request.kill:
            service.set_faults(request.faults)
        killed = sum(service.kill_one() for _ in range(min(request.kill, self._max_instances)))
        return {"service": service.name, "faults": service.faults.to_json(), "killed": killed}

    def _clear_faults(self, name: str | None) -> dict[str, Any]:
        for service in list(self._services.values()) if name is None else [self._known(name)]:
            service.set_faults(Faults())
        return self._faults()

    def _delete(self, name: str) -> dict[str, Any]:
        service = self._known(name)
        del self._services[name]
        self._deleted = [other for other in self._deleted if other.instances] + [service]
        service.close(f"the service {name} was deleted")
        service.drain()
        self._events.add("deleted", name)
        return {"deleted": name}

    def to_json(self) -> dict[str, Any]:
        """The state, as `/_platform` shows it."""
        return {
            "platform": "local",
            "version": __version__,
            "pid": os.getpid(),
            "seed": self._seed,
            "started": self._events.wall(self._started_ns),
            "now": self._events.wall(monotonic_ns()),
            "max_instances": self._max_instances,
            "instances": self._instances,
            "clients": len(self._clients),
            "in_flight": sum(service.in_flight for service in self._all),
            "functions": {name: {"built": function.built} for name, function in self._functions.items()},
            "services": {name: service.to_json() for name, service in self._services.items()},
            "events": self._events.to_json(),
        }

    # The end

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Complete the requests in flight within `grace_s` or until `hurry` is set; then end every instance."""
        self._checking.cancel()
        for service in self._all:
            service.close("the platform is stopping")
        for client in list(self._clients):
            client.close_when_idle()
        await _until(lambda: not any(service.in_flight for service in self._all), grace_s, hurry)
        for service in self._all:
            service.drain()
        await _until(lambda: not self._instances, grace_s, hurry)
        instances = [instance for service in self._all for instance in service.instances]
        for instance in instances:
            instance.end()
        for instance in instances:
            await instance.running
        for broker in self._brokers.values():
            await broker.close()
        self._resources.spawner.shutdown()

    @property
    def _all(self) -> list[EmulatedService]:
        return [*self._services.values(), *self._deleted]

    @property
    def _instances(self) -> int:
        return sum(len(service.instances) for service in self._all)


async def _until(condition: Callable[[], bool], within_s: float, hurry: asyncio.Event) -> None:
    """Wait for the condition, at most `within_s` and not after `hurry` is set."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    hurried = loop.create_task(hurry.wait())
    while not condition() and not hurried.done() and loop.time() < deadline:
        await asyncio.wait([hurried], timeout=_CHECK_S)
    hurried.cancel()
