"""Name resolution off the event loop, remembered for a stated time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from workload_generator.base.clock import NS_PER_S, monotonic_ns

CACHE_NS = 30 * NS_PER_S
"""How long an answer is used: the time that cluster DNS gives its records by default."""


class Address(NamedTuple):
    """Where to connect to: an address family and what `socket.connect` takes."""

    family: int
    sockaddr: tuple[str | int | bytes, ...]


Answer = list[Address] | OSError
Callback = Callable[[Answer], None]


class Resolver:
    """Looks names up in threads; simultaneous questions for one name are one question.

    The threads are daemons, one for each name that is being asked for: a name server that does not answer holds up
    neither other names nor the end of the process. Failures are not remembered: the next arrival asks again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[str, int], tuple[int, list[Address]]] = {}
        self._waiting: dict[tuple[str, int], list[Callback]] = {}

    def cached(self, host: str, port: int) -> list[Address] | None:
        """The addresses that are known now, or None; an IP literal is always known."""
        key = (host, port)
        known = self._known.get(key)
        if known is not None and monotonic_ns() < known[0]:
            return known[1]
        literal = _literal(host, port)
        if literal is not None:
            self._known[key] = (2**63 - 1, [literal])
            return [literal]
        return None

    def resolve(self, host: str, port: int, callback: Callback) -> None:
        """Ask, and call back later with addresses (at least one) or the error."""
        key = (host, port)
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(callback)
            return
        self._waiting[key] = [callback]
        threading.Thread(target=self._ask, args=(host, port), name=f"resolve {host}", daemon=True).start()

    def _ask(self, host: str, port: int) -> None:
        answer: Future[Answer] = Future()
        try:
            answer.set_result(_look_up(host, port))
        except Exception as error:  # a fault of ours is raised in the loop, where the run learns of it
            answer.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the run is over
            self._loop.call_soon_threadsafe(self._on_answer, host, port, answer)

    def _on_answer(self, host: str, port: int, found: Future[Answer]) -> None:
        answer = found.result()
        if not isinstance(answer, OSError):
            self._known[host, port] = (monotonic_ns() + CACHE_NS, answer)
        for callback in self._waiting.pop((host, port)):
            callback(answer)


def _look_up(host: str, port: int) -> Answer:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except OSError as error:
        return error
    except UnicodeError as error:  # a host name that IDNA refuses
        return socket.gaierror(socket.EAI_NONAME, str(error))
    return [Address(family, tuple(sockaddr)) for family, _, _, _, sockaddr in found] or socket.gaierror(
        socket.EAI_NONAME, "no address for this name"
    )


def _literal(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return Address(socket.AF_INET, (host, port))
    try:
        scope = socket.if_nametoindex(address.scope_id) if address.scope_id else 0
    except OSError:
        return None  # no such zone: the look-up will say so
    return Address(socket.AF_INET6, (str(address).partition("%")[0], port, 0, scope))
