"""The fake API server leaves no connection behind: another test would fail with its warning."""

from __future__ import annotations

import contextlib
import gc
import socket
import sys
import threading
import warnings
from typing import Any

import pytest

from tests.kube.fake_api import TOKEN, FakeApi, in_thread

WATCH = f"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


@pytest.mark.parametrize("request_line", [b"", WATCH])
def test_it_closes_what_connects_until_its_last_moment(monkeypatch: pytest.MonkeyPatch, request_line: bytes) -> None:
    left: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: left.append(unraisable.exc_value))

    def connect(port: int, end: threading.Event) -> None:
        while not end.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as client:
                client.sendall(request_line)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(4):
            end = threading.Event()
            with in_thread(FakeApi()) as api:
                clients = [
                    threading.Thread(target=connect, args=(int(api.url.rpartition(":")[2]), end)) for _ in range(3)
                ]
                for client in clients:
                    client.start()
            end.set()
            for client in clients:
                client.join()
            del api
            gc.collect()
    assert left == []
