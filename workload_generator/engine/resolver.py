"""Name resolution in threads, with a cache."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from workload_generator.base.clock import NS_PER_S, monotonic_ns

CACHE_NS = 30 * NS_PER_S
"""The lifetime of a cached answer: the default TTL of cluster DNS."""


class Address(NamedTuple):
    """An address family and the argument of `socket.connect`."""

    family: int
    sockaddr: tuple[str | int | bytes, ...]


Answer = list[Address] | OSError
Callback = Callable[[Answer], None]


class Resolver:
    """Resolves names in threads; simultaneous questions for one name share an answer.

    There is a daemon thread for each name in question: a name server that does not respond holds up neither other names
    nor the end of the process. Failures are not cached.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[tuple[str, int], tuple[int, list[Address]]] = {}
        self._waiting: dict[tuple[str, int], list[Callback]] = {}

    def cached(self, host: str, port: int) -> list[Address] | None:
        """The cached addresses, or None; an IP literal is always cached."""
        key = (host, port)
        known = self._known.get(key)
        if known is not None and monotonic_ns() < known[0]:
            return known[1]
        literal = _look_up(host, port, socket.AI_NUMERICHOST)
        if isinstance(literal, OSError):
            return None
        self._known[key] = (2**63 - 1, literal)
        return literal

    def resolve(self, host: str, port: int, callback: Callback) -> None:
        """Resolve, and call back later with addresses (at least one) or the error."""
        waiting = self._waiting.setdefault((host, port), [])
        waiting.append(callback)
        if len(waiting) == 1:
            threading.Thread(target=self._ask, args=(host, port), name=f"resolve {host}", daemon=True).start()

    def _ask(self, host: str, port: int) -> None:
        answer: Future[Answer] = Future()
        try:
            answer.set_result(_look_up(host, port))
        except Exception as error:  # a fault of the generator, which the loop raises
            answer.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_answer, host, port, answer)

    def _on_answer(self, host: str, port: int, future: Future[Answer]) -> None:
        answer = future.result()
        if not isinstance(answer, OSError):
            self._known[host, port] = (monotonic_ns() + CACHE_NS, answer)
        for callback in self._waiting.pop((host, port)):
            self._loop.call_soon(callback, answer)  # each for itself: a fault in one is not the others'


def _look_up(host: str, port: int, flags: int = 0) -> Answer:
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)
    except OSError as error:
        return error
    except UnicodeError as error:  # not a valid IDNA name
        return socket.gaierror(socket.EAI_NONAME, str(error))
    return [Address(family, tuple(sockaddr)) for family, _, _, _, sockaddr in infos] or socket.gaierror(
        socket.EAI_NONAME, "the name has no address"
    )
