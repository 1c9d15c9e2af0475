"""Requests with faults of any kind: each gets a response that says what is wrong; none is a fault of the service."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import random
import re
from typing import Any

import pytest

from tests.mutations import mutated
from workload_generator.base.errors import RequestRefused
from workload_generator.eventing import http_workers
from workload_generator.eventing.counters import Counters
from workload_generator.eventing.logger import EventLogger
from workload_generator.eventing.receipts import Receipt, ReceiptBatch, csv_lines, decode_batch, encode_batch
from workload_generator.eventing.receiver import Receiver

COUNT = int(os.environ.get("MUTATIONS", "5000"))
"""Of each test."""
ANSWERS = {"100", "200", "202", "400", "404", "405", "413", "415", "503"}
EVENT = {"specversion": "1.0", "id": "e-1", "type": "t", "source": "/s", "ext": None, "flag": True, "n": 5, "data": [1]}
BINARY = {
    "ce-specversion": "1.0", "ce-id": "e%201", "ce-source": "/s", "ce-type": '"t\\"t"', "ce-sequence": "01",
    "ce-time": "2026-11-25T08:00:00+01:00", "Content-Type": "application/json",
}  # fmt: skip


def request(headers: dict[str, str], body: bytes, path: str = "/t/a", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


ONE, SEVERAL = json.dumps(EVENT).encode(), json.dumps([EVENT, {**EVENT, "id": "e-2"}]).encode()
REQUESTS = [
    request(BINARY, b'{"a": 1}'),
    request(BINARY, b"{}", path="/"),
    request({"content-type": "application/cloudevents+json; charset=utf-8"}, ONE),
    request({"content-type": "application/cloudevents-batch+json"}, SEVERAL, path="/t/b%20c"),
    request({"content-type": "application/cloudevents+json", "content-encoding": "gzip"}, gzip.compress(ONE, mtime=0)),
    request({**BINARY, "Expect": "100-continue"}, b"{}"),
    request({}, b"", path="/metrics", method="GET"),
    request(BINARY, b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
]
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"%", b"%ff", b"%00", b'"', b"\\", b"\xff", b"\xc3\xa4", b",", b"[", b"]",
    b"{", b"}", b"null", b"1e999", b"9" * 40, b"-", b"[" * 1200, b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b"?a",
    b"data_base64", b"ce-id: x\r\n", b"CE-ID: \r\n", b"ce-: x\r\n", b"Content-Length: 5\r\n", b"#", b";", b"\t",
    b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: x\r\nConnection: Upgrade\r\n", b"x" * 9000,
    b"HTTP/1.0", b"HTTP/2.0", b"PUT ", b"//", b"http://h/", b"%2f",
]  # fmt: skip
BATCHES = [
    encode_batch(
        ReceiptBatch("i-0", 1, None, [Receipt("e-1", 1_739_182_272_123_456_789, "t", "9"), Receipt("e", 1, "", "")])
    ),
    b'["i-0",2,[3,0,3,-7,8],[]]',
    b'{"event_id": "x,1", "timestamp": "2025-02-09T10:11:12.123456789Z"}',
]
FOUND = [
    b"POST / HTTP/1.1\r\nHost: x\r\ncontent-type: application/cloudevents\xf2\r\nContent-Length: 0\r\n\r\n",
    request({"content-type": "application/cloudevents+json", "content-encoding": "gzip"}, b"no gzip"),
]
"""What an earlier version answered with 500, or reported as its own fault."""


class Wire(asyncio.Transport):
    """What a connection writes."""

    written = b""
    closing = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def writelines(self, pieces: Any) -> None:
        self.written += b"".join(map(bytes, pieces))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


class Kept:
    """An outbox that only checks that the receipts can be sent and written."""

    def __init__(self) -> None:
        self.counters = Counters(["received", "acknowledged", "refused", "rejected", "dropped_connections"])

    async def put(self, receipts: list[Receipt]) -> None:
        again = decode_batch(encode_batch(ReceiptBatch("i", 1, None, receipts)))
        assert again.receipts == receipts and csv_lines(again).count(b"\n") == len(receipts)


async def check(server: http_workers._Server, data: bytes, draw: random.Random) -> None:
    """Send the bytes in pieces, and look at the responses."""
    connection, wire = server(), Wire()
    connection.connection_made(wire)
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 1, 3))))
    await asyncio.sleep(0)
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if begin < end and not wire.closing:
            connection.data_received(data[begin:end])
        await asyncio.sleep(0)
    for _ in range(12):
        await asyncio.sleep(0)
    statuses = set(re.findall(r"HTTP/1\.[01] ([0-9]{3}) [A-Z]", wire.written.decode("latin-1")))
    connection.connection_lost(None)
    await asyncio.sleep(0)
    assert statuses <= ANSWERS, data


async def check_all(requests: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, fault: faults.append(repr(fault)))
    noting = logging.Handler()
    noting.emit = lambda record: faults.append(repr(record.exc_info))  # type: ignore[method-assign]
    monkeypatch.setattr(http_workers._log, "handlers", [noting])
    monkeypatch.setattr(http_workers._log, "propagate", False)
    monkeypatch.setattr("workload_generator.eventing.receiver.Outbox", lambda *_: Kept())
    server = http_workers._Server(http_workers._Handler(Receiver("i", None, None), lambda: "", 5))
    draw = random.Random(0)
    for data in requests:
        await check(server, data, draw)
        assert not faults, data


@pytest.mark.parametrize("seed", range(2))
async def test_a_mutated_request_gets_a_response(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await check_all(mutated(REQUESTS, PIECES, COUNT, seed), monkeypatch)


@pytest.mark.parametrize("data", FOUND)
async def test_what_made_it_fail_once_gets_a_response(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    await check_all([data], monkeypatch)


async def test_a_mutated_batch_is_written_or_refused(tmp_path: Any) -> None:
    logger = EventLogger(tmp_path, 60)
    lines = 1
    for data in mutated(BATCHES, PIECES, COUNT, 0):
        try:
            response = await logger.answer("/receipts", [], data, 1)
        except RequestRefused as refused:
            assert refused.status == 400, data
        else:
            assert isinstance(response.body, bytes)
            lines += json.loads(response.body)["written"]
    await logger.stop()
    text = (tmp_path / "events.csv").read_bytes()
    assert text.endswith(b"\n") and text.count(b"\n") == lines > 1
