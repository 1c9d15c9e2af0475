"""Sleeps `$SLEEP_MS` (1000), then answers `true` to an instance's first request and `false` to every later one."""

from __future__ import annotations

import asyncio
import os
import sys

from server import Message, Receive, Send, instance_name, is_for_function, respond, serve

_DEFAULT_MS = 1000


class Function:
    """One instance, as an ASGI application; health checks never count as its first request."""

    def __init__(self, instance: str, sleep_s: float) -> None:
        self._instance = (b"x-instance", instance.encode())
        self._sleep_s = sleep_s
        self._first = True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if await is_for_function(scope, receive, send):
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
