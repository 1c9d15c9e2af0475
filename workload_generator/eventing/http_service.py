"""What receiver and event logger share: workers on one port, requests read with limits, health, metrics, a clean end.

Rules:
- the time of arrival is taken when the last piece of a request's head is read, before anything is parsed
- a body that is too large, too slow or cut off is refused, and costs no more memory than the limit
- SIGTERM: no new connections, what is in hand is answered, then the worker ends
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import uvloop
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.base.subprocesses import die_with_parent, signals_held
from workload_generator.eventing.counters import Column, Counters

MOST_BODY_BYTES = 4 * 1024 * 1024

_BACKLOG = 4096
_GRACE_S = 10.0
_KEEPALIVE_S = 75.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Refused(Exception):
    """A request that is not served: a status, and a reason for whoever sent it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a service listens, with how many processes, and how patient it is with bodies."""

    bind: str
    port: int
    workers: int
    body_timeout_s: float


class Service(Protocol):
    """What one worker does."""

    async def start(self) -> None:
        """Begin."""

    async def answer(self, request: web.BaseRequest, arrived_ns: int) -> web.StreamResponse:
        """Serve one request that came at this wall-clock time. Raises Refused."""

    def is_ready(self) -> bool:
        """Whether requests can be served now."""

    async def stop(self) -> None:
        """Every request is answered: finish."""


Make = Callable[[str, Column], Service]
"""A worker's service, from the name of its instance and its counters."""


def serve(
    name: str, listening: Listening, counted: tuple[str, ...], make: Make, counters_in: Path | None = None
) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. With a folder, what workers count outlives them.

    Raises UsageError when the port cannot be had, or the folder not be used.
    """
    listeners = _listen(listening)
    run = secrets.token_hex(3)
    host = os.environ.get("HOSTNAME") or socket.gethostname()
    instances = [f"{host}-{run}-{worker}" for worker in range(listening.workers)]
    counters = Counters(name, counted, instances, counters_in)
    port = listeners[0].getsockname()[1]
    sys.stderr.write(f"{name.replace('_', '-')}: {listening.workers} worker(s) on {listening.bind} port {port}\n")
    if listening.workers == 1:
        return _work(listeners[0], listening, counters, 0, make)
    return _supervise(listeners, listening, counters, make)


async def read_body(request: web.BaseRequest, timeout_s: float, most_bytes: int = MOST_BODY_BYTES) -> bytes:
    """The whole body. Raises Refused."""
    length = request.content_length
    if length is not None and length > most_bytes:
        raise Refused(413, f"{length:,} bytes are more than {most_bytes:,}")
    content = request.content
    if content.is_eof():  # most bodies came with their heads
        body = content.read_nowait(-1)
        if len(body) > most_bytes:
            raise Refused(413, f"more than {most_bytes:,} bytes")
        return body
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await content.readany():
                size += len(piece)
                if size > most_bytes:
                    raise Refused(413, f"more than {most_bytes:,} bytes")
                pieces.append(piece)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {timeout_s:g} s") from None
    except web.RequestPayloadError as error:
        raise Refused(400, f"the body cannot be read: {error}") from None
    return b"".join(pieces)


def text(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """An answer for people."""
    return web.Response(status=status, text=f"{reason}\n", headers=headers)


class _Stamping(RequestHandler):
    """Notes when it was last read, before what was read is parsed."""

    arrived_ns = 0

    def data_received(self, data: bytes) -> None:
        self.arrived_ns = time.time_ns()
        super().data_received(data)


class _Server(web.Server):
    """aiohttp's, with connections that stamp."""

    def __call__(self) -> RequestHandler:
        options: dict[str, Any] = {"keepalive_timeout": _KEEPALIVE_S, "access_log": None}
        return _Stamping(self, loop=asyncio.get_running_loop(), **options)


def _work(
    sock: socket.socket,
    listening: Listening,
    counters: Counters,
    worker: int,
    make: Make,
    let_go: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal; `let_go` lets those through that were held until there are handlers for them."""
    service = make(counters.instances[worker], counters.of(worker))

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        protocol = request.protocol
        arrived_ns = protocol.arrived_ns if isinstance(protocol, _Stamping) else time.time_ns()
        path = request.rel_url.path
        if request.method in ("GET", "HEAD") and path in ("/healthz", "/readyz", "/metrics", "/clock"):
            if path == "/metrics":
                return web.Response(text=counters.prometheus())
            if path == "/clock":
                return web.json_response({"received_ns": arrived_ns, "sent_ns": time.time_ns()})
            fine = path == "/healthz" or service.is_ready()
            return text(200 if fine else 503, "ok" if fine else "not ready")
        try:
            return await service.answer(request, arrived_ns)
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status in (429, 503) else None
            return text(refused.status, str(refused), headers)

    async def run() -> int:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for number in _SIGNALS:
            loop.add_signal_handler(number, ended.set)
        let_go()
        await service.start()
        server = _Server(handle)
        listening_server = await loop.create_server(server, sock=sock, backlog=_BACKLOG)
        await ended.wait()
        listening_server.close()
        server.pre_shutdown()
        await server.shutdown(_GRACE_S)
        await service.stop()
        return 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def _supervise(listeners: list[socket.socket], listening: Listening, counters: Counters, make: Make) -> int:
    """Fork a worker for each listener. When one ends without being asked to, all do: whoever started us starts anew."""
    pids: dict[int, int] = {}
    asked = False

    def on_signal(number: int, _frame: Any) -> None:
        nonlocal asked
        asked = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    with signals_held() as let_go:  # until all workers are known to the handler, and each has its own
        for worker, sock in enumerate(listeners):
            arrange = die_with_parent()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    arrange()
                    for other in listeners:
                        if other is not sock:
                            other.close()
                    code = _work(sock, listening, counters, worker, make, let_go)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids[pid] = worker
        for sock in listeners:
            sock.close()
        for number in _SIGNALS:
            signal.signal(number, on_signal)
    failed = False
    while pids:
        pid, status = os.wait()
        worker = pids.pop(pid)
        if not asked:
            sys.stderr.write(f"worker {worker} ended by itself ({os.waitstatus_to_exitcode(status)})\n")
            failed = True
            on_signal(signal.SIGTERM, None)
    if failed:
        raise BenchError("a worker ended by itself")
    return 0


def _listen(listening: Listening) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in listening.bind else socket.AF_INET
    shared = listening.workers > 1
    listeners: list[socket.socket] = []
    port = listening.port
    try:
        if shared and port:
            with socket.socket(family, socket.SOCK_STREAM) as probe:  # SO_REUSEPORT would hide that the port is taken
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((listening.bind, port))
        for _ in range(listening.workers):
            sock = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((listening.bind, port))
            sock.setblocking(False)
            port = sock.getsockname()[1]
    except OSError as error:
        for sock in listeners:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {listening.bind} is in use; choose another with --port") from None
        raise UsageError(f"cannot listen on {listening.bind} port {port}: {error.strerror or error}") from None
    return listeners
