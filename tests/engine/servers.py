"""Servers on loopback for tests of HTTP clients: they behave, or misbehave, in one known way.

`serve(behaviour)` starts one and records what it got; the functions that follow are the behaviours, each called once
for a connection. Seconds are floats; stamps are `time.monotonic_ns`, the clock of the generator on the same machine.

    async with serve(answers(b"true", delay=0.05)) as server:
        ...  # send to server.url
    assert [request.path for request in server.requests] == ["/"]
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic_ns

import trustme


@dataclass
class Request:
    """One request as it came: `raw` is every byte of it, `nth` its place on its connection, both counted from 0."""

    raw: bytes
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    nth: int
    came_ns: int
    answered_ns: int | None = None
    """Just before the first byte of anything was sent to answer it."""


class Peer:
    """One client's connection, as a behaviour sees it."""

    def __init__(self, server: Server, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._number = number
        self._reader = reader
        self._writer = writer
        self._count = 0
        self._last: Request | None = None

    async def request(self) -> Request | None:
        """The next request, whole; None when the client has gone."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            came_ns = monotonic_ns()
            start, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return None
        method, path, _version = start.split(" ")
        request = Request(head + body, method, path, headers, body, self._number, self._count, came_ns)
        self._count += 1
        self._last = request
        self._server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        """Send `data`, which goes out before anything that follows. It is not an error when the client has gone."""
        if self._last is not None and self._last.answered_ns is None:
            self._last.answered_ns = monotonic_ns()
        if self._writer.is_closing():
            return
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self._writer.write(data)
            await self._writer.drain()

    def send_now(self, data: bytes, *, last: bool = False) -> None:
        """Send `data` without the event loop: the client has it when this returns, and has not read it yet. If it is
        the last, the end comes in the same segment."""
        descriptor = os.dup(self._writer.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as sock:
            if last:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            sock.sendall(data)
            if last:
                sock.shutdown(socket.SHUT_WR)

    async def gone(self) -> None:
        """Wait for the client to go; what it says until then is lost."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while await self._reader.read(65536):
                pass

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def end(self, end: End) -> None:
        """Close or reset the connection, or leave it open."""
        if end is End.CLOSE:
            self._writer.close()
        elif end is End.RESET:
            self.reset()


class End(Enum):
    """The state of a connection after a response."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"


Behaviour = Callable[[Peer], Awaitable[None]]


@dataclass
class Server:
    """A running server and what it got so far. Under TLS a connection counts when its handshake is done."""

    host: str
    port: int
    scheme: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open_now: int = 0
    peers: list[Peer] = field(default_factory=list)
    most_open: int = 0

    @property
    def authority(self) -> str:
        """Host and port as they stand in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The root, by the scheme that the server speaks."""
        return f"{self.scheme}://{self.authority}/"

    @property
    def other_url(self) -> str:
        """The root by the scheme that it does not speak: https to a port of plain text, http to a port of TLS."""
        return f"{'http' if self.scheme == 'https' else 'https'}://{self.authority}/"


@contextlib.asynccontextmanager
async def serve(
    behaviour: Behaviour, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve on a port of `host`, a free one by default; at the end every connection that is left is cut off."""
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def run(peer: Peer, writer: asyncio.StreamWriter) -> None:
        try:
            await behaviour(peer)
        finally:
            server.open_now -= 1
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(server, server.connections, reader, writer)
        server.connections += 1
        server.peers.append(peer)
        server.open_now += 1
        server.most_open = max(server.most_open, server.open_now)
        tasks[asyncio.get_running_loop().create_task(run(peer, writer))] = writer

    listener = await asyncio.start_server(connected, host, port, backlog=4096, ssl=tls)
    server = Server(host, listener.sockets[0].getsockname()[1], "http" if tls is None else "https")
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for writer in tasks.values():
            writer.transport.abort()
        with contextlib.suppress(TimeoutError):  # a client in the middle of a handshake
            await asyncio.wait_for(listener.wait_closed(), 0.5)
        await asyncio.sleep(0)
        faults = [each for each in outcomes if isinstance(each, Exception)]
        if faults:  # a behaviour that breaks must not look like one that misbehaves
            raise faults[0]


async def pause_for(seconds: float) -> None:
    """Sleep at least so long: uvloop's timers stand on a grid of a millisecond and may fire early by one."""
    end_ns = monotonic_ns() + round(seconds * 1e9)
    while (left_ns := end_ns - monotonic_ns()) > 0:
        await asyncio.sleep(left_ns / 1e9)


@contextlib.asynccontextmanager
async def refusing(host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A port that refuses connections, and that no other process gets meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((host, 0))
        yield Server(host, sock.getsockname()[1], "http")


# Behaviours that are HTTP


def response(
    body: bytes = b"false", *, status: int = 200, headers: bytes = b"", method: str = "GET"
) -> tuple[bytes, bytes]:
    """Head and body of a response with a length; `headers` are complete lines. To a HEAD the body is empty."""
    head = b"HTTP/1.1 %d Some\r\nContent-Length: %d\r\n%s\r\n" % (status, len(body), headers)
    return head, b"" if method == "HEAD" else body


def answers(
    body: bytes = b"false", *, status: int = 200, headers: bytes = b"", delay: float = 0.0, gap: float = 0.0
) -> Behaviour:
    """Answer every request, over and over on one connection: the first byte after `delay`, the body after a further
    `gap`. A request that says `Connection: close` gets that."""

    async def behave(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            closing = request.headers.get("connection", "").lower() == "close"
            extra = b"Connection: close\r\n" if closing else b""
            head, rest = response(body, status=status, headers=headers + extra, method=request.method)
            await pause_for(delay)
            if gap:
                await peer.send(head)
                await pause_for(gap)
                await peer.send(rest)
            else:
                await peer.send(head + rest)
            if closing:
                return

    return behave


def functions(instances: int = 1, delay: float = 0.0) -> Behaviour:
    """Functions that say `true` to their first request and `false` after; connections take turns among them."""
    served: set[int] = set()
    count = 0

    async def behave(peer: Peer) -> None:
        nonlocal count
        instance = count % instances
        count += 1
        while (request := await peer.request()) is not None:
            await pause_for(delay)
            body = b"false" if instance in served else b"true"
            served.add(instance)
            named = b"x-instance: pod-%d\r\n" % instance
            await peer.send(b"".join(response(body, headers=named, method=request.method)))

    return behave


def sends(*pieces: bytes, pause: float = 0.0, end: End = End.KEEP) -> Behaviour:
    """Answer every request with exactly these bytes, a pause before each piece but the first, then `end`."""

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            for number, piece in enumerate(pieces):
                await pause_for(pause if number else 0)
                await peer.send(piece)
            if end is not End.KEEP:
                await pause_for(pause)
                peer.end(end)
                return

    return behave


def chunks(*parts: bytes, trailers: bytes = b"", pause: float = 0.0) -> Behaviour:
    """Answer with a chunked body, a segment for each chunk when there is a pause."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    framed = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    pieces = [head, *framed, b"0\r\n" + trailers + b"\r\n"]
    return sends(*pieces, pause=pause) if pause else sends(b"".join(pieces))


def until_close(body: bytes = b"false", pause: float = 0.0) -> Behaviour:
    """Answer without a length: the body ends with the connection."""
    return sends(b"HTTP/1.1 200 OK\r\n\r\n", body, pause=pause, end=End.CLOSE)


def continues(times: int = 1, pause: float = 0.0, body: bytes = b"false") -> Behaviour:
    """Say `100 Continue` some times, then, after a pause, answer."""
    return sends(b"HTTP/1.1 100 Continue\r\n\r\n" * times, b"".join(response(body)), pause=pause)


def says_close(body: bytes = b"false") -> Behaviour:
    """Answer with `Connection: close` and close."""
    return sends(b"".join(response(body, headers=b"Connection: close\r\n")), end=End.CLOSE)


# Behaviours that are not


def silent() -> Behaviour:
    """Take requests and never answer."""

    async def behave(peer: Peer) -> None:
        while await peer.request() is not None:
            pass

    return behave


def garbage(data: bytes = b"SSH-2.0-OpenSSH_9.2\r\n", end: End = End.KEEP) -> Behaviour:
    """Answer with something else than HTTP."""
    return sends(data, end=end)


def half_head(end: End = End.CLOSE) -> Behaviour:
    """Answer with a part of a head, then end."""
    return sends(b"HTTP/1.1 200 OK\r\nContent-Le", pause=0.02, end=end)


def half_body(end: End = End.CLOSE) -> Behaviour:
    """Answer with a head and a part of the body that it announces, then end."""
    return sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfa", pause=0.02, end=end)


def half_chunk(end: End = End.CLOSE) -> Behaviour:
    """Answer with a part of a chunked body, then end."""
    return sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfa", pause=0.02, end=end)


def hangs_up(end: End = End.CLOSE) -> Behaviour:
    """Take a request and end the connection without a byte."""
    return sends(end=end)


def hangs_up_at_once(end: End = End.RESET) -> Behaviour:
    """End every connection as soon as it is there."""

    async def behave(peer: Peer) -> None:
        peer.end(end)

    return behave


def closes_after_each(body: bytes = b"false", end: End = End.CLOSE) -> Behaviour:
    """Answer as if the connection stayed, then end it: an idle connection that turns out to be gone."""
    return sends(b"".join(response(body)), end=end)


def stale(body: bytes = b"false", *, end: End = End.CLOSE, good: int = 1) -> Behaviour:
    """Answer the first `good` requests of a connection; end it when the next one comes, without a byte.

    What a reused connection meets when its server closes it just then, made certain.
    """

    async def behave(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            if request.nth == good:
                peer.end(end)
                return
            await peer.send(b"".join(response(body, method=request.method)))

    return behave


def closes_idle(after: float, body: bytes = b"false") -> Behaviour:
    """Answer, and close a connection that has been idle for `after` seconds."""

    async def behave(peer: Peer) -> None:
        with contextlib.suppress(TimeoutError):
            while (request := await asyncio.wait_for(peer.request(), after)) is not None:
                await peer.send(b"".join(response(body, method=request.method)))

    return behave


# Behaviours that send what no request asked for


def sends_at_once(data: bytes, then: Behaviour | None = None) -> Behaviour:
    """Send `data` as soon as a connection is there, then behave like `then`, which answers by default."""

    async def behave(peer: Peer) -> None:
        await peer.send(data)
        await (then or answers())(peer)

    return behave


def sends_more(data: bytes, after: float = 0.0, times: int = 1, body: bytes = b"false") -> Behaviour:
    """Answer every request, and send `data` behind each answer: with it, or some seconds after it."""

    async def behave(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            answer = b"".join(response(body, method=request.method))
            await peer.send(answer if after else answer + data * times)
            for _ in range(times if after else 0):
                await pause_for(after)
                await peer.send(data)

    return behave


# TLS


class Certificates:
    """An authority of our own. `pem` is what a client has to trust."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def server(self, *names: str) -> ssl.SSLContext:
        """For a server with a certificate for `names`; loopback's by default."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("127.0.0.1", "::1", "localhost"))).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """For a client that trusts this authority alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context
