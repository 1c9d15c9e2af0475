"""Sleeps `$SLEEP_MS` (1000), then answers `true` to an instance's first request and `false` to every later one."""

from __future__ import annotations

import asyncio
import os
import socket

import uvloop
from aiohttp import web

INSTANCE = os.environ.get("HOSTNAME") or socket.gethostname()
SLEEP_S = int(os.environ.get("SLEEP_MS", "1000")) / 1000


class Function:
    """One instance."""

    def __init__(self) -> None:
        self._first = True

    async def answer(self, _request: web.Request) -> web.Response:
        first, self._first = self._first, False
        await asyncio.sleep(SLEEP_S)
        return web.Response(text="true" if first else "false", headers={"x-instance": INSTANCE})

    async def health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")


def make_app() -> web.Application:
    """The routes; the health checks never count as the first request."""
    function = Function()
    app = web.Application()
    app.router.add_get("/", function.answer)  # HEAD included
    app.router.add_post("/", function.answer)
    app.router.add_get("/health/liveness", function.health)
    app.router.add_get("/health/readiness", function.health)
    return app


def main() -> None:
    """Serve until SIGTERM; requests in flight are answered first."""
    port = int(os.environ.get("PORT", "8080"))
    host = os.environ.get("BIND", "0.0.0.0")
    web.run_app(make_app(), host=host, port=port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
