"""Answers `true` to an instance's first request and `false` to every later one."""

from __future__ import annotations

from server import Message, Receive, Send, instance_name, read_to_the_end, respond, serve

_HEALTH = ("/health/liveness", "/health/readiness")


class Function:
    """One instance, as an ASGI application; health checks never count as its first request."""

    def __init__(self, instance: str) -> None:
        self._instance = (b"x-instance", instance.encode())
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
            await respond(send, 200, "true" if first else "false", self._instance)


if __name__ == "__main__":
    serve(Function(instance_name()))
