"""The function without its server: requests as ASGI has them."""

from __future__ import annotations

import asyncio
import unittest
from collections import Counter
from typing import Any

from main import Function


async def ask(function: Function, path: str = "/", method: str = "GET", size: int = 0) -> tuple[int, str, str | None]:
    """Status, text and instance of the answer to one request, whose body comes in two parts."""
    incoming = [
        {"type": "http.request", "body": b"x" * size, "more_body": True},
        {"type": "http.request", "body": b"", "more_body": False},
    ]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return incoming.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await function({"type": "http", "path": path, "method": method}, receive, send)
    head, body = sent
    headers = dict(head["headers"])
    assert int(headers[b"content-length"]) == len(body["body"])
    assert headers[b"content-type"].startswith(b"text/plain")
    instance = headers.get(b"x-instance")
    return head["status"], body["body"].decode(), instance and instance.decode()


class FunctionTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.function = Function("pod-1")

    async def test_what_counts_as_a_request(self) -> None:
        for path, method, size, expected in [
            ("/health/liveness", "GET", 0, (200, "ok", None)),
            ("/health/readiness", "GET", 0, (200, "ok", None)),
            ("/nothing", "GET", 0, (404, "not found\n", None)),
            ("/", "PUT", 0, (405, "method not allowed\n", None)),
            ("/", "POST", 1 << 20, (200, "true", "pod-1")),
            ("/", "GET", 0, (200, "false", "pod-1")),
            ("/", "HEAD", 0, (200, "false", "pod-1")),  # the server leaves out a HEAD's body
        ]:
            self.assertEqual(await ask(self.function, path, method, size), expected, (method, path))

    async def test_one_of_fifty_concurrent_requests_is_the_first(self) -> None:
        answers = await asyncio.gather(*(ask(self.function) for _ in range(50)))
        self.assertEqual(Counter(text for _, text, _ in answers), {"true": 1, "false": 49})

    async def test_nobody_is_answered_who_went_away(self) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            self.fail(f"sent {message}")

        await self.function({"type": "http", "path": "/", "method": "POST"}, receive, send)
        self.assertEqual((await ask(self.function))[1], "true")


if __name__ == "__main__":
    unittest.main()
