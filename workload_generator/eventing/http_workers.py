"""The HTTP server of receiver and event logger: workers on one port, limits for bodies, health, metrics and shutdown.

Rules:
- the time of arrival is read when the last piece of a request's head has arrived, before anything is parsed
- a head or a body that is too large, too slow or cut off is refused, and takes no more memory than the limit
- at the limit of connections, a new one replaces the one that has waited longest for a request
- after SIGTERM, requests in flight are answered and no connections are accepted; then the worker ends
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

import uvloop
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from workload_generator.base.errors import BenchError, RequestRefused
from workload_generator.base.listening import BACKLOG, listen
from workload_generator.base.standard_streams import printable
from workload_generator.base.subprocesses import die_with_parent, signals_held
from workload_generator.eventing.counters import Counters, prometheus

_MOST_READING_BYTES = 256 * 1024 * 1024  # of all bodies that are being read
_MOST_HEAD_BYTES = 32 * 1024
_HEAD_S = 10.0
_MOST_CONNECTIONS = 8192  # of a worker
_OTHER_FILES = 64  # descriptors that are not connections
_GRACE_S = 10.0
_KEEPALIVE_S = 75.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_log = logging.getLogger(__name__)
_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], web.RequestPayloadError)))


Headers = Iterable[tuple[str, str]]


class WorkerService(Protocol):
    """The service of one worker, made before the workers are forked."""

    counters: Counters
    """Among them `rejected`, requests answered with 4xx but not 429, and `dropped_connections`, closed by a limit."""
    most_body_bytes: int

    async def start(self) -> None:
        """Called once, in the worker, before the first request."""

    async def answer(self, path: str, headers: Headers, body: bytes, arrived_ns: int) -> web.Response:
        """The response to a POST that arrived at this wall-clock time. Raises RequestRefused."""

    def is_ready(self) -> bool:
        """The answer of the readiness probe."""

    async def stop(self) -> None:
        """Called once, after the last response."""


def serve(
    name: str, make: Callable[[str], WorkerService], bind: str, port: int, workers: int, body_timeout_s: float
) -> int:
    """Serve with that many processes until SIGINT or SIGTERM; returns the exit code.

    `make` makes the service of a worker, from the name of its instance. Raises UsageError when it cannot listen.
    """
    listeners = _listen(bind, port, workers)
    run = secrets.token_hex(3)
    host = os.environ.get("HOSTNAME") or socket.gethostname()
    instances = [f"{host}-{run}-{worker}" for worker in range(workers)]
    services = [make(instance) for instance in instances]
    counters = {instance: service.counters for instance, service in zip(instances, services, strict=True)}
    port = listeners[0].getsockname()[1]
    sys.stderr.write(f"{name.replace('_', '-')}: {workers} worker(s) on {bind} port {port}\n")

    def work(worker: int, release_signals: Callable[[], None] = lambda: None) -> int:
        handler = _Handler(services[worker], lambda: prometheus(name, counters), body_timeout_s)
        return uvloop.run(_work(handler, listeners[worker], release_signals))

    return work(0) if workers == 1 else _supervise(listeners, work)


def _listen(bind: str, port: int, workers: int) -> list[socket.socket]:
    shared = workers > 1
    if shared and port:
        listen(bind, port).close()  # with SO_REUSEPORT it would not fail if another server has the port
    listeners = [listen(bind, port, reuse_port=shared)]
    port = listeners[0].getsockname()[1]
    return listeners + [listen(bind, port, reuse_port=True) for _ in range(workers - 1)]


def _text(status: int, reason: str, headers: dict[str, str] | None = None) -> web.Response:
    """A response of one line of text."""
    return web.Response(status=status, text=f"{printable(reason)}\n", headers=headers)


class _Connection(RequestHandler):
    """A connection. It notes the time of its last read before the bytes are parsed, and limits heads."""

    arrived_ns = 0
    _payload: StreamReader = EMPTY_PAYLOAD
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None

    def __init__(self, server: _Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._server = server

    def data_received(self, data: bytes) -> None:
        """Take bytes: requests, or parts of them."""
        self.arrived_ns = time.time_ns()
        in_body = not self._payload.is_eof()
        super().data_received(data)
        if not in_body and not self._messages:
            self._head_bytes += len(data)
            self._watch_head()
            if self._head_bytes > _MOST_HEAD_BYTES:
                self.refuse("431 Request Header Fields Too Large")

    def begin(self, payload: StreamReader) -> None:
        """A head has arrived; `payload` is the body of its request."""
        self._server.waiting.pop(self, None)
        self._payload, self._head_bytes = payload, 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def end(self) -> None:
        """The response to its request is known."""
        self._server.waiting[self] = None
        self._watch_head()

    def refuse(self, status: str) -> None:
        """Close the connection, after a response to the part of a head that has arrived."""
        if self._head_bytes and self.transport is not None:
            self.transport.write(f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        self._server.drop(self)

    def handle_error(
        self, request: Any, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The response to a head that is not HTTP, and to a fault of ours, which is logged."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        self._server.count("rejected")
        response = _text(status, (message or "not HTTP").partition("\n")[0])
        response.force_close()
        return response

    def _watch_head(self) -> None:
        """Limit the time of a head, from its first bytes on, but not while another request is in progress."""
        if self._head_bytes and self._late is None and self in self._server.waiting:
            self._late = self._loop.call_later(_HEAD_S, self.refuse, "408 Request Timeout")


class _Server(web.Server):
    """The connections to one worker. `waiting` are those without a request, the one that waits longest first."""

    def __init__(self, handler: _Handler) -> None:
        super().__init__(handler, request_factory=self._begin)
        self.waiting: dict[_Connection, None] = {}
        self._handler = handler
        self._most = min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES)

    def __call__(self) -> RequestHandler:
        return _Connection(self, keepalive_timeout=_KEEPALIVE_S, access_log=None, logger=_log)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection. If there are too many, the one that has waited longest for a request is closed."""
        super().connection_made(handler, transport)
        self.waiting[cast(_Connection, handler)] = None
        if len(self._connections) > self._most:
            next(iter(self.waiting)).refuse("503 Service Unavailable")

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        super().connection_lost(handler, exc)
        self.waiting.pop(cast(_Connection, handler), None)

    def count(self, name: str) -> None:
        """Add one to a counter."""
        self._handler.service.counters.add(name)

    def drop(self, connection: _Connection) -> None:
        """Close a connection because of a limit."""
        self.waiting.pop(connection, None)
        self.count("dropped_connections")
        connection.force_close()

    def _begin(
        self, message: Any, payload: StreamReader, protocol: RequestHandler, writer: Any, task: Any
    ) -> web.BaseRequest:
        cast(_Connection, protocol).begin(payload)
        return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


class _Handler:
    """Answers the requests to one worker."""

    def __init__(self, service: WorkerService, metrics: Callable[[], str], body_timeout_s: float) -> None:
        self.service = service
        self._metrics = metrics
        self._body_timeout_s = body_timeout_s
        self._reading = 0

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The response to a request."""
        connection, path = cast(_Connection, request.protocol), request.rel_url.raw_path
        arrived_ns = connection.arrived_ns
        try:
            match request.method, path:
                case "POST", _:
                    body = await self._body(request)
                    return await self.service.answer(path, request.headers.items(), body, arrived_ns)
                case "GET" | "HEAD", "/metrics":
                    return web.Response(text=self._metrics())
                case "GET" | "HEAD", "/clock":
                    return web.json_response({"received_ns": arrived_ns, "sent_ns": time.time_ns()})
                case "GET" | "HEAD", "/healthz":
                    return _text(200, "ok")
                case "GET" | "HEAD", "/readyz":
                    return _text(200, "ok") if self.service.is_ready() else _text(503, "not ready")
            raise RequestRefused(405, f"{path} does not support {request.method}: use POST")
        except RequestRefused as refused:
            too_many = refused.status in (429, 503)
            if refused.status < 500 and not too_many:
                self.service.counters.add("rejected")
            return _text(refused.status, str(refused), {"Retry-After": "1"} if too_many else None)
        finally:
            connection.end()

    async def _body(self, request: web.BaseRequest) -> bytes:
        """The whole body. Raises RequestRefused."""
        content, body, most_bytes = request.content, bytearray(), self.service.most_body_bytes
        too_large = (request.content_length or 0) > most_bytes
        try:
            if content.is_eof() and not too_large:  # most bodies arrive with their heads
                return content.read_nowait(-1)
            if not too_large and request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async with asyncio.timeout(self._body_timeout_s):
                while not too_large and (piece := await content.readany()):
                    body += piece
                    self._reading += len(piece)
                    too_large = len(body) > most_bytes
                    if self._reading > _MOST_READING_BYTES:
                        raise RequestRefused(503, "the bodies of other requests take all the memory there is for them")
        except TimeoutError:
            raise RequestRefused(408, f"the body did not arrive within {self._body_timeout_s:g} s") from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise RequestRefused(400, f"the body cannot be read: {error}") from None
        finally:
            self._reading -= len(body)
        if too_large:
            raise RequestRefused(413, f"the body has more than {most_bytes:,} bytes")
        return bytes(body)


async def _work(handler: _Handler, listener: socket.socket, release_signals: Callable[[], None]) -> int:
    """Serve until a signal. `release_signals` is called once there are handlers for the signals that were held."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in _SIGNALS:
        loop.add_signal_handler(number, ended.set)
    release_signals()
    await handler.service.start()
    server = _Server(handler)
    accepting = await loop.create_server(server, sock=listener, backlog=BACKLOG)
    await ended.wait()
    accepting.close()
    server.pre_shutdown()
    await server.shutdown(_GRACE_S)
    await handler.service.stop()
    return 0


def _supervise(listeners: list[socket.socket], work: Callable[[int, Callable[[], None]], int]) -> int:
    """Fork a worker for each listener. Raises BenchError when one ends unasked, after ending the others."""
    pids: dict[int, int] = {}
    asked = False

    def on_signal(number: int, _frame: Any) -> None:
        nonlocal asked
        asked = True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    with signals_held() as release:  # until the handler knows all workers, and each worker has its own handlers
        for worker, listener in enumerate(listeners):
            arrange = die_with_parent()
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    arrange()
                    for other in listeners:
                        if other is not listener:
                            other.close()
                    code = work(worker, release)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            pids[pid] = worker
        for listener in listeners:
            listener.close()
        for number in _SIGNALS:
            signal.signal(number, on_signal)
    failure = ""
    while pids:
        pid, status = os.wait()
        worker = pids.pop(pid)
        if not asked:
            failure = f"worker {worker} ended by itself, with exit code {os.waitstatus_to_exitcode(status)}"
            on_signal(signal.SIGTERM, None)
    if failure:
        raise BenchError(failure)
    return 0
