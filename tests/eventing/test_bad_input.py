"""An invalid event gets a 4xx with a reason, is not written, and does not end the receiver."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.eventing.services import Services, headers
from workload_generator.base.errors import RequestRefused
from workload_generator.cloudevents.decode import BATCH_TYPE, STRUCTURED_TYPE, read_events

GOOD: dict[str, Any] = {"specversion": "1.0", "id": "e-1", "type": "t", "source": "/s"}


def structured(**changes: Any) -> bytes:
    return orjson.dumps({key: value for key, value in {**GOOD, **changes}.items() if value is not ...})


def binary(**changes: Any) -> list[tuple[str, str]]:
    return [(f"ce-{key}", value) for key, value in {**GOOD, **changes}.items() if value is not ...]


STRUCTURED = [("Content-Type", f"{STRUCTURED_TYPE}; charset=utf-8")]
BATCH = [("content-type", BATCH_TYPE)]

BAD = {
    "nothing": ([], b"", 415, "neither ce-"),
    "wrong content type": ([("Content-Type", "text/plain")], b"hello", 415, "neither ce-"),
    "unknown format": ([("Content-Type", "application/cloudevents+avro")], b"", 415, "expected JSON"),
    "no id": (binary(id=...), b"", 400, "no id"),
    "no type": (binary(type=...), b"", 400, "no type"),
    "no source": (binary(source=...), b"", 400, "no source"),
    "no specversion": (binary(specversion=...), b"", 400, "no specversion"),
    "several missing": ([("ce-id", "1")], b"", 400, "no specversion, no source, no type"),
    "empty id": (binary(id=""), b"", 400, "no id"),
    "old version": (binary(specversion="0.3"), b"", 400, "only 1.0"),
    "bad time": (binary(time="yesterday"), b"", 400, "not RFC 3339"),
    "bad name": (binary(my_ext="1"), b"", 400, "not an attribute name"),
    "twice": ([*binary(), ("CE-ID", "e-2")], b"", 400, "twice"),
    "not UTF-8": (binary(id="%ff"), b"", 400, "not UTF-8"),
    "raw bytes": (binary(id="\udcff"), b"", 400, "not UTF-8"),
    "control": (binary(id="a%0ab"), b"", 400, "control character"),
    "structured: not JSON": (STRUCTURED, b"{", 400, "not JSON"),
    "structured: empty": (STRUCTURED, b"", 400, "not JSON"),
    "structured: invalid UTF-8": (STRUCTURED, structured().replace(b"e-1", b"\xff"), 400, "not JSON in UTF-8"),
    "structured: a list": (STRUCTURED, b"[]", 400, "a JSON object"),
    "structured: missing": (STRUCTURED, structured(id=...), 400, "no id"),
    "structured: null": (STRUCTURED, structured(id=None), 400, "no id"),
    "structured: a number as id": (STRUCTURED, structured(id=1), 400, "not text"),
    "structured: an object": (STRUCTURED, structured(ext={}), 400, "not text, a number"),
    "structured: both data": (STRUCTURED, structured(data=1, data_base64="MQ=="), 400, "not both"),
    "structured: upper case": (STRUCTURED, structured(Ext="1"), 400, "not an attribute name"),
    "batch: an object": (BATCH, structured(), 400, "a JSON array"),
    "batch: one is bad": (BATCH, b"[" + structured() + b"," + structured(id="") + b"]", 400, "no id"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_invalid_events_are_refused(name: str) -> None:
    given_headers, body, status, reason = BAD[name]
    with pytest.raises(RequestRefused, match=reason) as refused:
        read_events(given_headers, body)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("given_headers", "body", "ids"),
    [
        (binary(), b"\xff\x00", ["e-1"]),
        ([*binary(id="%C3%BC%20x"), ("Content-Type", "application/json")], b"{", ["ü x"]),
        (binary(id="ü".encode().decode("utf-8", "surrogateescape")), b"", ["ü"]),
        (binary(id='"quoted"'), b"", ["quoted"]),
        (binary(id='"q%20p"'), b"", ["q p"]),
        (binary(id='"q\\"e\\\\"'), b"", ['q"e\\']),
        (binary(id='"%C3%BC \\\\"'), b"", ["ü \\"]),
        (binary(id='"'), b"", ['"']),
        (binary(id='a"b"'), b"", ['a"b"']),
        (binary(id='"a"b"'), b"", ['"a"b"']),
        (binary(id="100%"), b"", ["100%"]),
        (binary(id="%2225%25%22"), b"", ['"25%"']),
        (binary(id=" \ta\u00a0 "), b"", ["a\u00a0"]),
        (STRUCTURED, structured(data={"a": [1]}, ext=True, number=7, nothing=None), ["e-1"]),
        ([*STRUCTURED, ("ce-id", "other")], structured(data_base64="AA=="), ["e-1"]),
        (BATCH, b"[]", []),
        (BATCH, b"[" + structured() + b"," + structured(id="e-2") + b"]", ["e-1", "e-2"]),
    ],
)
def test_valid_events_are_read(given_headers: list[tuple[str, str]], body: bytes, ids: list[str]) -> None:
    assert [event.id for event in read_events(given_headers, body)] == ids


@given(st.sampled_from([STRUCTURED, BATCH, binary()]), st.binary(max_size=200))
def test_any_body_is_read_or_refused(given_headers: list[tuple[str, str]], body: bytes) -> None:
    try:
        read_events(given_headers, body)
    except RequestRefused as refused:
        assert refused.status in (400, 415) and str(refused)


WRONG = [("GET", "/", 405), ("PUT", "/t/a", 405), ("POST", "/other", 404), ("POST", "/t/", 404)]


async def raw(port: int, *pieces: bytes) -> bytes:
    """The first bytes of the response to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
    try:
        async with asyncio.timeout(20):
            return await reader.read(4096)
    finally:
        writer.close()


async def test_the_receiver_refuses_invalid_requests_with_a_reason(services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url)
    impatient = await services.receiver(logger.url, "--body-timeout=0.3")
    host = b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(f"{k}: {v}\r\n".encode() for k, v in binary())
    async with aiohttp.ClientSession() as session:
        for name, (given_headers, body, status, reason) in BAD.items():
            if name in ("raw bytes", "twice"):
                continue  # this client cannot send them: below
            async with session.post(receiver.url, headers=given_headers, data=body) as response:  # type: ignore[arg-type]
                text = await response.text()
                if "Content-Type" not in dict(given_headers) and body:
                    assert 400 <= response.status < 500
                else:
                    assert (response.status, reason in text) == (status, True), (name, text)
        for method, path, status in WRONG:
            async with session.request(method, receiver.url + path, headers=headers("e-1")) as response:
                assert response.status == status and await response.text()
        async with session.post(receiver.url, headers=headers("e-1"), data=io.BytesIO(b"x" * (10 << 20))) as response:
            assert response.status == 413 and "more than" in await response.text()

        async def endless() -> Any:
            for _ in range(11):
                yield b"x" * (1 << 20)

        try:
            async with session.post(receiver.url, headers=headers("e-1"), data=endless()) as response:
                assert response.status == 413
        except aiohttp.ClientError:
            pass  # it was refused while we were still sending
        assert b" 408 " in await raw(impatient.port, host + b"Content-Length: 10\r\n\r\n12345")
        assert b" 400 " in await raw(receiver.port, b"POST / HTTP/1.1\r\nce-id: \xff\xfe\r\n" + host[17:] + b"\r\n")
        assert b" 400 " in await raw(receiver.port, host + b"CE-id: e-2\r\n\r\n")
        assert b" 400 " in await raw(receiver.port, b"rubbish\r\n\r\n")
        await raw_and_gone(receiver.port, host + b"Content-Length: 10\r\n\r\n123")
        async with session.post(receiver.url, headers=headers("good")) as response:
            assert response.status == 202
    assert services.ids() == {"good"}


async def raw_and_gone(port: int, data: bytes) -> None:
    """Send bytes, and reset the connection."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    writer.transport.abort()
