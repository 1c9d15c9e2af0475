"""Sleeps `$SLEEP_MS` (1000), then answers `true` to an instance's first request and `false` to every later one."""

from __future__ import annotations

import asyncio
import os
import sys

from server import Message, Receive, Send, instance_name, read_to_the_end, respond, serve

_HEALTH = ("/health/liveness", "/health/readiness")
_DEFAULT_MS = 1000


class Function:
    """One instance, as an ASGI application; health checks never count as its first request."""

    def __init__(self, instance: str, sleep_s: float) -> None:
        self._instance = (b"x-instance", instance.encode())
        self._sleep_s = sleep_s
        self._first = True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if not await read_to_the_end(receive):
            return
        if scope["path"] in _HEALTH:
            await respond(send, 200, "ok")
        elif scope["path"] != "/":
            await respond(send, 404, "not found\n")
        elif scope["method"] not in ("GET", "HEAD", "POST"):
            await respond(send, 405, "method not allowed\n", (b"allow", b"GET, HEAD, POST"))
        else:
            first, self._first = self._first, False
            await asyncio.sleep(self._sleep_s)
            await respond(send, 200, "true" if first else "false", self._instance)


def read_sleep_s(text: str) -> float:
    """The seconds that text in milliseconds means; none is a second. Raises ValueError."""
    if not text:
        return _DEFAULT_MS / 1000
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"SLEEP_MS={text}: not a whole number of milliseconds")
    return int(text) / 1000


if __name__ == "__main__":
    try:
        sleep_s = read_sleep_s(os.environ.get("SLEEP_MS", ""))
    except ValueError as error:
        sys.exit(str(error))
    serve(Function(instance_name(), sleep_s))
