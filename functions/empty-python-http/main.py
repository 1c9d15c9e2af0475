"""Answers `true` to an instance's first request and `false` to every later one."""

from __future__ import annotations

from server import Message, Receive, Send, instance_name, is_for_function, respond, serve


class Function:
    """One instance, as an ASGI application; health checks never count as its first request."""

    def __init__(self, instance: str) -> None:
        self._instance = (b"x-instance", instance.encode())
        self._first = True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if await is_for_function(scope, receive, send):
            first, self._first = self._first, False
            await respond(send, 200, "true" if first else "false", self._instance)


if __name__ == "__main__":
    serve(Function(instance_name()))
