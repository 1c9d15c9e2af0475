"""The part that every Python function here has: the same file in each folder, since each is an image of its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_HEALTH = ("/health/liveness", "/health/readiness")
_METHODS = ("GET", "HEAD", "POST")
_GRACE_S = 10  # what requests in flight at SIGTERM get
_KEEP_ALIVE_S = 120  # longer than callers keep idle connections: it is they who close them


def serve(app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
    """Serve `$BIND` (every interface) and `$PORT` (8080) until SIGTERM; requests in flight are answered first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises the signal again when it has shut down
    uvicorn.run(
        app,
        host=os.environ.get("BIND") or "0.0.0.0",
        port=int(os.environ.get("PORT") or "8080"),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


def instance_name() -> str:
    """The pod's name in a cluster, and the host's elsewhere."""
    return os.environ.get("HOSTNAME") or socket.gethostname()


async def is_for_function(scope: Message, receive: Receive, send: Send) -> bool:
    """Read the request to its end; whether the function is to answer it. Health checks and errors are answered here."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        if not message.get("more_body"):
            break
    if scope["path"] in _HEALTH:
        await respond(send, 200, "ok")
    elif scope["path"] != "/":
        await respond(send, 404, "not found\n")
    elif scope["method"] not in _METHODS:
        await respond(send, 405, "method not allowed\n", (b"allow", ", ".join(_METHODS).encode()))
    else:
        return True
    return False


async def respond(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with plain text."""
    body = text.encode()
    head = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
