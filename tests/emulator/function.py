"""A function for tests. The path of a request, or the environment, makes it misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time

INSTANCE = os.environ["HOSTNAME"]
DELAY_S = int(os.environ.get("DELAY_MS", "0")) / 1000
HANG = os.environ.get("HANG")  # while this file exists, every fourth request waits
first, most, now, sent, asked = True, 0, 0, 0, 0
server: asyncio.Server


def response(body: bytes, extra: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nx-instance: %s\r\n" % (status, len(body), INSTANCE.encode())
    return head + extra + b"\r\n" + body


def hanging() -> bool:
    return HANG is not None and os.path.exists(HANG)


async def body_of(headers: dict[str, str], reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            yield await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    left = int(headers.get("content-length", "0"))
    while left:
        data = await reader.read(min(left, 65536))
        if not data:
            return
        left -= len(data)
        yield data


async def answer(path: str, method: str, headers: dict[str, str], reader, writer) -> bool:  # type: ignore[no-untyped-def]
    """Respond. Whether the connection stays open."""
    global first, sent, asked
    match path.partition("?")[0]:
        case "/headers":
            writer.write(
                response(json.dumps(headers).encode(), b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: yes\r\n")
            )
        case "/echo":  # piece by piece, before the request is complete
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            async for data in body_of(headers, reader):
                writer.write(b"%x\r\n%s\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\nX-Trailer: end\r\n\r\n")
        case "/close":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            return False
        case "/length-then-cut":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            return False
        case "/chunks-then-cut":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            return False
        case "/silent-cut":
            return False
        case "/garbage":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        case "/stale":  # says nothing, and closes after the answer
            writer.write(response(b"false"))
            return False
        case "/empty":
            writer.write(b"HTTP/1.1 204 No Content\r\nx-instance: %s\r\n\r\n" % INSTANCE.encode())
        case "/not-modified":
            writer.write(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
        case "/continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            size = sum([len(data) async for data in body_of(headers, reader)])
            writer.write(response(b"%d" % size))
        case "/early":  # answers without a look at the body
            writer.write(response(b"no, thanks", status=b"413 Too Large"))
            await writer.drain()
            await asyncio.sleep(0.3)
            return False
        case "/flood":  # 64 MiB, and how much of it could be sent
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            for _ in range(1024):
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        case "/sent":
            writer.write(response(b"%d" % sent))
        case "/deaf":  # does not read the body
            await asyncio.sleep(3600)
        case "/crash":
            sys.stderr.write("the end of the function\n")
            os._exit(7)
        case "/deaf-from-now-on":  # the process stays, its port does not
            server.close()
            writer.write(response(b"bye", b"Connection: close\r\n"))
            return False
        case "/two":
            writer.write(response(b"one") + response(b"two"))
        case "/slow":
            await asyncio.sleep(float(path.partition("?")[2]))
            writer.write(response(b"slow"))
        case "/most":
            writer.write(response(b"%d" % most))
        case _:
            is_first, first = first, False
            asked += 1
            while asked % 4 == 3 and hanging():
                await asyncio.sleep(0.02)
            if DELAY_S:
                await asyncio.sleep(DELAY_S)
            async for _ in body_of(headers, reader):
                pass
            body = b"true" if is_first else b"false"
            head = response(body)
            writer.write(head[: -len(body)] if method == "HEAD" else head)
    return True


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global now, most
    try:
        while True:
            start, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            method, path, _ = start.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if path.startswith("/health"):
                ready = time.monotonic() > READY
                writer.write(response(b"ok") if ready else response(b"", status=b"503 Not Yet"))
                continue
            now += 1
            most = max(most, now)
            try:
                keep = await answer(path, method, headers, reader, writer)
            finally:
                now -= 1
            await writer.drain()
            if not keep:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    writer.close()


async def main() -> None:
    global server
    if os.environ.get("CRASH"):
        sys.exit("this function cannot start")
    if os.environ.get("STUBBORN"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = await asyncio.start_server(serve, os.environ["BIND"], int(os.environ["PORT"]), limit=1 << 16, backlog=2048)
    async with server:
        await server.serve_forever()


if (mark := os.environ.get("CRASH_ONCE")) and not os.path.exists(mark):
    open(mark, "w").close()
    sys.exit("this function cannot start yet")
time.sleep(float(os.environ.get("SLEEP_BEFORE_S", "0")))
READY = time.monotonic() + float(os.environ.get("READY_AFTER_S", "0"))
asyncio.run(main())
