"""The embedded platform: services by host name, and its own pages under `/_platform`.

An emulator in one process. A request's `Host` names the service (`empty-python-http-0.functions.svc.cluster.local`),
which is made when it is first asked for; a path that begins with `/_platform` is the platform's own, whatever the host.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, unquote

import orjson

from workload_generator import __version__
from workload_generator.base.clock import NS_PER_S, monotonic_ns
from workload_generator.base.errors import ExperimentError
from workload_generator.emulator.broker import INGRESS, Brokers
from workload_generator.emulator.downstream import Client
from workload_generator.emulator.exchange import Exchange
from workload_generator.emulator.fleet import House
from workload_generator.emulator.journal import Event, Journal
from workload_generator.emulator.repeat import Repeat
from workload_generator.emulator.service import Service, faults_json
from workload_generator.emulator.settings import Faults, PlatformConfig, function_of, read_fault_request
from workload_generator.functions.catalog import Function
from workload_generator.kube.names import FUNCTIONS

OWN = b"/_platform"

_MOST_SERVICES = 1000
_MOST_HOSTS = 10_000
_CHECK_S = 0.01
_HOST = re.compile(r"([a-z0-9](?:[a-z0-9-]*[a-z0-9])?)(\.[a-z0-9.-]*)?")
_DOMAINS = ("", f".{FUNCTIONS}", f".{FUNCTIONS}.svc", f".{FUNCTIONS}.svc.cluster.local")
_JSON = b"application/json"


class _Unknown(Exception):
    """A host that no service has; `str()` says why."""


class Platform:
    """State of one platform."""

    def __init__(
        self,
        config: PlatformConfig,
        functions: Mapping[str, Function],
        seed: int,
        max_instances: int,
        listener: Callable[[Event], None],
    ) -> None:
        self.journal = Journal(listener)
        self._config = config
        self._functions = functions
        self._seed = seed
        self._max_instances = max_instances
        self._spawner = ThreadPoolExecutor(1, "spawner")  # one thread, which ends with the platform and not before
        self._house = House(self.journal, self._spawner, random.Random(seed), self._room)
        self._services: dict[str, Service] = {}
        self._leaving: list[Service] = []
        self._by_host: dict[bytes, Service] = {}
        self._clients: set[Client] = set()
        self._started_ns = monotonic_ns()
        self._brokers = Brokers(config.brokers, seed, self.journal)
        self._checking = Repeat(asyncio.get_running_loop(), NS_PER_S, self._check)

    def begin(self) -> None:
        """Make the services that are kept warm, and the brokers."""
        self._brokers.begin()
        for name, settings in self._config.services.items():
            if settings.min_scale:
                self._find(name)

    # Requests

    def connected(self, client: Client) -> None:
        """A client is there."""
        self._clients.add(client)

    def disconnected(self, client: Client) -> None:
        """A client is gone."""
        self._clients.discard(client)

    def _check(self) -> None:
        for client in list(self._clients):
            client.check()

    def wants_body(self, target: bytes) -> bool:
        """The platform's own pages and brokers take theirs whole."""
        return _is_own(target) or target.startswith(INGRESS)

    def route(self, exchange: Exchange, host: bytes, target: bytes) -> None:
        """Take a request."""
        if _is_own(target):
            self._answer(exchange, target)
            return
        if target.startswith(INGRESS):
            self._brokers.take(exchange, target)
            return
        service = self._by_host.get(host)
        if service is None:
            try:
                service = self._service(host)
            except _Unknown as unknown:
                exchange.sink.respond(exchange, 404, str(unknown))
                return
        service.admit(exchange)

    def _service(self, host: bytes) -> Service:
        name = host.decode("latin-1").lower()
        match = _HOST.fullmatch(re.sub(r":[0-9]*$", "", name).removesuffix("."))
        if match is None or (match[2] or "") not in _DOMAINS:
            raise _Unknown(f"no service has the host {name[:200]!r}: <service>{_DOMAINS[-1]}, where <service> is a "
                           f"function and a number, such as {next(iter(self._functions))}-0")  # fmt: skip
        service = self._find(match[1])
        if len(self._by_host) < _MOST_HOSTS:
            self._by_host[host] = service
        return service

    def _find(self, name: str) -> Service:
        service = self._services.get(name)
        if service is not None:
            return service
        settings = self._config.settings_of(name)
        function_name = settings.function or function_of(name, self._functions)
        if function_name is None:
            known = ", ".join(self._functions)
            raise _Unknown(
                f"no function for the service {name}: a service is <function>-<number>, and there are {known}"
            )
        function = self._functions[function_name]
        if not function.built:
            raise _Unknown(
                f"the function {function_name} is not built: build it first (functions/catalog.yaml says how)"
            )
        if len(self._services) >= _MOST_SERVICES:
            raise _Unknown(f"there are {_MOST_SERVICES:,} services already")
        service = self._services[name] = Service(name, function, settings, self._house)
        return service

    # Its own pages

    def _answer(self, exchange: Exchange, target: bytes) -> None:
        path, _, query = target.decode("latin-1").partition("?")
        path = path.removeprefix(OWN.decode()).rstrip("/")
        method = exchange.method.decode()
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        match path.split("/"), method:
            case [""], "GET" | "HEAD":
                self._json(exchange, self.to_json())
            case ["", "brokers"], "GET" | "HEAD":
                self._json(exchange, self._brokers.to_json())
            case ["", "brokers", namespace, name], "GET" | "HEAD":
                self._show_broker(exchange, f"{unquote(namespace)}/{unquote(name)}")
            case ["", "faults"], "GET" | "HEAD":
                self._json(exchange, self._faults())
            case ["", "faults"], "POST":
                self._set_faults(exchange)
            case ["", "faults"], "DELETE":
                self._clear_faults(exchange, asked.get("service"))
            case ["", "events"], "GET" | "HEAD":
                self._events(exchange, asked.get("after", "0"))
            case ["", "services", name], "DELETE":
                self._forget(exchange, unquote(name))
            case [""] | ["", "faults" | "events" | "brokers"] | ["", "services", _], _:
                exchange.sink.respond(exchange, 405, f"{method} is not for {OWN.decode()}{path}")
            case _:
                exchange.sink.respond(exchange, 404, f"there is no {OWN.decode()}{path}: see docs/local.md")

    def _json(self, exchange: Exchange, value: Any) -> None:
        body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        exchange.sink.answer(exchange, 200, body, _JSON)

    def _faults(self) -> dict[str, Any]:
        return {name: faults_json(service.faults) for name, service in self._services.items()}

    def _events(self, exchange: Exchange, after: str) -> None:
        if after.isdecimal():
            self._json(exchange, self.journal.to_json(int(after)))
        else:
            exchange.sink.respond(exchange, 400, f"after={after}: not the id of an event")

    def _show_broker(self, exchange: Exchange, name: str) -> None:
        state = self._brokers.to_json(name)
        if state is None:
            exchange.sink.respond(exchange, 404, f"there is no broker {name}")
        else:
            self._json(exchange, state)

    def _set_faults(self, exchange: Exchange) -> None:
        try:
            request = read_fault_request(exchange.take_body().decode("utf-8", "replace"))
            service = self._find(request.service)
        except ExperimentError as error:
            exchange.sink.respond(exchange, 400, str(error))
            return
        except _Unknown as unknown:
            exchange.sink.respond(exchange, 404, str(unknown))
            return
        if request.sets_faults or not request.kill:
            service.set_faults(request.faults)
        killed = sum(service.fleet.kill_one() for _ in range(min(request.kill, self._max_instances)))
        self._json(exchange, {"service": service.name, "faults": faults_json(service.faults), "killed": killed})

    def _clear_faults(self, exchange: Exchange, name: str | None) -> None:
        if name is not None and name not in self._services:
            exchange.sink.respond(exchange, 404, f"there is no service {name}")
            return
        for service in self._services.values() if name is None else [self._services[name]]:
            service.set_faults(Faults())
        self._json(exchange, self._faults())

    def _forget(self, exchange: Exchange, name: str) -> None:
        service = self._services.pop(name, None)
        if service is None:
            exchange.sink.respond(exchange, 404, f"there is no service {name}")
            return
        self._by_host = {host: other for host, other in self._by_host.items() if other is not service}
        self._leaving = [other for other in self._leaving if other.fleet.instances] + [service]
        service.close(f"the service {name} was deleted")
        service.drain()
        self.journal.add("deleted", name)
        self._json(exchange, {"deleted": name})

    def to_json(self) -> dict[str, Any]:
        """The state: what `/_platform` shows."""
        return {
            "platform": "local",
            "version": __version__,
            "pid": os.getpid(),
            "seed": self._seed,
            "started": self.journal.wall(self._started_ns),
            "now": self.journal.wall(monotonic_ns()),
            "max_instances": self._max_instances,
            "instances": self._running,
            "clients": len(self._clients),
            "in_flight": sum(service.in_flight for service in self._all),
            "functions": {name: {"built": function.built} for name, function in self._functions.items()},
            "services": {name: service.to_json() for name, service in self._services.items()},
            "events": self.journal.to_json(),
        }

    # The end

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """Answer what is in flight within `grace_s`, or until `hurry`; then end every instance."""
        self._checking.stop()
        for service in self._all:
            service.close("the platform is stopping")
        for client in list(self._clients):
            client.close_when_idle()
        await _until(lambda: not any(service.in_flight for service in self._all), grace_s, hurry)
        for service in self._all:
            service.drain()
        await _until(lambda: not self._running, grace_s, hurry)
        for service in self._all:
            service.end()
        for instance in [instance for service in self._all for instance in service.fleet.instances]:
            await instance.gone()
        await self._brokers.close()
        self._spawner.shutdown()

    @property
    def _all(self) -> list[Service]:
        return [*self._services.values(), *self._leaving]

    @property
    def _running(self) -> int:
        return sum(len(service.fleet.instances) for service in self._all)

    def _room(self) -> int:
        return self._max_instances - self._running


def _is_own(target: bytes) -> bool:
    return target.startswith(OWN) and target[len(OWN) : len(OWN) + 1] in (b"", b"/", b"?")


async def _until(condition: Callable[[], bool], within_s: float, hurry: asyncio.Event) -> None:
    """Wait for the condition, but not longer than `within_s`, and not when there is a hurry."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    hurried = loop.create_task(hurry.wait())
    while not condition() and not hurried.done() and loop.time() < deadline:
        await asyncio.wait([hurried], timeout=_CHECK_S)
    hurried.cancel()
