"""The response reader against http.client as oracle, cut in every way, and against what is not HTTP."""

import io
import socket
from collections.abc import Iterable
from http.client import HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import NamedTuple, cast
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workload_generator.base.errors import UsageError
from workload_generator.engine.http1 import (
    HEAD_LIMIT,
    INSTANCE_LIMIT,
    USER_AGENT,
    BodyError,
    ProtocolError,
    ResponseReader,
    Url,
    encode_request,
    split_url,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Outcome(NamedTuple):
    """All that a reader says about one response."""

    error: type[Exception] | None
    complete: bool
    has_data: bool
    started: bool
    head_complete: bool
    status: int
    keep_alive: bool
    bytes_read: int
    body_head: bytes
    instance: bytes | None


def read(reader: ResponseReader, pieces: Iterable[bytes], method: str = "GET", *, eof: bool = False) -> Outcome:
    """Feed all pieces, those after the end too, as a memoryview of a buffer that is overwritten afterwards."""
    reader.start(method)
    error = None
    try:
        for piece in pieces:
            buffer = bytearray(piece)
            assert reader.feed(memoryview(buffer)) == reader.complete
            buffer[:] = bytes(len(buffer))
        if eof:
            reader.at_eof()
    except (ProtocolError, BodyError) as fault:
        error = type(fault)
        assert str(fault)
    r = reader
    assert r.started <= r.has_data
    assert r.head_complete <= r.started
    assert r.complete <= r.head_complete
    keep_alive = error is None and r.complete and r.keep_alive
    state = (r.complete, r.has_data, r.started, r.head_complete, r.status)
    return Outcome(error, *state, keep_alive, r.bytes_read, r.body_head, r.instance if r.head_complete else None)


def read_one(raw: bytes, method: str = "GET", *, eof: bool = False) -> Outcome:
    return read(ResponseReader(), [raw], method, eof=eof)


def bytewise(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def cut(raw: bytes, at: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(raw) + 1) for place in at), len(raw)]
    return [raw[start:end] for start, end in zip(places, places[1:], strict=False)]


# The oracle


class _FakeSocket:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


class Answer(NamedTuple):
    """A generated response: its bytes, the method it answers, whether its end is the connection's."""

    raw: bytes
    method: str
    until_close: bool


def oracle(answer: Answer) -> tuple[int, bytes, bool, str | None]:
    """Status, body, keep-alive and instance as the standard library sees them."""
    response = HTTPResponse(cast(socket.socket, _FakeSocket(answer.raw)), method=answer.method)
    response.begin()
    keep_alive = not response.will_close
    instance = response.getheader("X-Instance")
    return response.status, response.read(), keep_alive, instance


_names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: (
        name.lower()
        not in {"connection", "keep-alive", "proxy-connection", "content-length", "transfer-encoding", "x-instance"}
    )
)
_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30).map(str.strip)
_space = st.sampled_from(["", " ", "\t", "  "])
_bodies = (
    st.sampled_from([b"true", b"false", b"true\n", b" false \r\n", b"", b"\r\n\r\n", OK])
    | st.binary(max_size=40)
    | st.binary(min_size=1, max_size=5).map(lambda part: part * 1000)
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """Valid responses of every framing. Only 100 among the 1xx: http.client does not skip the others."""
    method = draw(st.sampled_from(["GET", "GET", "GET", "POST", "HEAD"]))
    version = draw(st.sampled_from(["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"]))
    status = draw(st.sampled_from([200, 200, 204, 304, 404, 503, 599]) | st.integers(200, 999))
    reason = draw(st.sampled_from([" OK", " ", "", " Not \xe9 at all"]))
    framing = draw(st.sampled_from(["length", "length", "chunked", "close"]))
    body = draw(_bodies)
    headers = draw(st.lists(st.tuples(_names, _values), max_size=4))
    if draw(st.booleans()):
        headers.append(("X-Instance", draw(st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True))))
    spaced = [f"{name}:{draw(_space)}{value}{draw(_space)}" for name, value in headers]
    if (connection := draw(st.sampled_from([None, None, "close", "keep-alive", "Close", "Keep-Alive"]))) is not None:
        spaced.append(f"Connection: {connection}")
    if framing == "chunked" and (version == "HTTP/1.0" or status in (204, 304)):
        framing = "length"  # http.client waits for the chunks of a 304; the tables below have these
    if framing == "length":
        spaced.append(f"Content-Length:{len(body)}{draw(_space)}")
    elif framing == "chunked":  # no space after it: http.client would not know it any more
        spaced.append(draw(st.sampled_from(["Transfer-Encoding: chunked", "transfer-encoding:\tChunked"])))
    lines = draw(st.permutations(spaced))
    head = "\r\n".join([f"{version} {status:03d}{reason}", *lines, "", ""]).encode("latin-1")
    empty = method == "HEAD" or status in (204, 304)
    if empty:
        framed = b""
    elif framing == "chunked":
        framed = _in_chunks(draw, body)
    else:
        framed = body
    interim = b"HTTP/1.1 100 Continue\r\n" + draw(st.sampled_from([b"", b"X-Instance: early\r\n"])) + b"\r\n"
    raw = draw(st.sampled_from([b"", b"", interim, interim * 2])) + head + framed
    return Answer(raw, method, framing == "close" and not empty)


def _in_chunks(draw: st.DrawFn, body: bytes) -> bytes:
    extension = draw(st.sampled_from([b"", b";a=b", b';name="quoted"']))
    parts = [part for part in cut(body, draw(st.lists(st.integers(0, 10**4), max_size=4))) if part]
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    trailers = draw(st.sampled_from([b"", b"X-Instance: late\r\n", b"Connection: close\r\nX-Sum: 1\r\n"]))
    return chunks + b"0\r\n" + trailers + b"\r\n"


cuts = st.lists(st.integers(0, 10**6), max_size=8)


@given(answers(), cuts)
def test_agrees_with_the_standard_library_however_cut(answer: Answer, at: list[int]) -> None:
    status, body, keep_alive, instance = oracle(answer)
    outcome = read_one(answer.raw, answer.method, eof=answer.until_close)
    assert outcome == Outcome(
        error=None,
        complete=True,
        has_data=True,
        started=True,
        head_complete=True,
        status=status,
        keep_alive=keep_alive,
        bytes_read=len(body),
        body_head=body[:16],
        instance=instance.strip().encode() if instance else None,
    )
    for pieces in (cut(answer.raw, at), bytewise(answer.raw)):
        assert read(ResponseReader(), pieces, answer.method, eof=answer.until_close) == outcome


@given(st.lists(answers(), min_size=2, max_size=5), st.data())
def test_a_reader_keeps_nothing_of_earlier_responses(sequence: list[Answer], data: st.DataObject) -> None:
    reader = ResponseReader()
    for answer in sequence:
        if data.draw(st.booleans(), label="abandoned within"):
            end = data.draw(st.integers(0, len(answer.raw)))
            read(reader, [answer.raw[:end]], answer.method)
        pieces = cut(answer.raw, data.draw(cuts))
        assert read(reader, pieces, answer.method, eof=answer.until_close) == read_one(
            answer.raw, answer.method, eof=answer.until_close
        )
        if data.draw(st.booleans(), label="close"):
            reader.close()


@given(answers(), st.binary(min_size=1, max_size=6) | st.sampled_from([b"\r\n", b"\n", b"\r", b"0\r\n\r\n", OK]), cuts)
def test_surplus_ends_the_connection_and_leaves_the_response(answer: Answer, surplus: bytes, at: list[int]) -> None:
    if answer.until_close:
        return  # no byte is surplus
    alone = read_one(answer.raw, answer.method)
    raw = answer.raw + surplus
    for pieces in ([raw], bytewise(raw), [answer.raw, surplus], cut(raw, at)):
        assert read(ResponseReader(), pieces, answer.method) == alone._replace(keep_alive=False)


@pytest.mark.parametrize(
    ("raw", "surplus"),
    [
        (OK, True),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (OK.replace(b"1.1", b"1.0"), False),
        (OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), False),
    ],
)
def test_surplus_counts_on_a_connection_that_would_have_stayed(raw: bytes, surplus: bool) -> None:
    """Behind the last response of a connection it cannot become an answer, and is not always read. Found by `fuzz`."""
    for more in (b"x", OK, b"\r\n"):
        for pieces in ([raw + more], bytewise(raw + more), [raw, more], [raw + more, more]):
            reader = ResponseReader()
            assert not read(reader, pieces).keep_alive and reader.surplus == surplus


@given(answers(), st.integers(0, 10**6), cuts)
def test_a_response_that_was_cut_is_never_complete(answer: Answer, end: int, at: list[int]) -> None:
    raw = answer.raw[: end % len(answer.raw)]
    pieces = cut(raw, at)
    outcome = read(ResponseReader(), pieces, answer.method, eof=True)
    assert outcome.error is None
    assert outcome.complete == (answer.until_close and outcome.head_complete)
    assert not outcome.keep_alive
    assert outcome == read(ResponseReader(), bytewise(raw), answer.method, eof=True)
    assert outcome.has_data == bool(raw)


_fragments = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 204\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n",
        b"HTTP/2.0 200 OK\r\n",
        b"Content-Length: 3\r\n",
        b"content-length:0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"X-Instance: a\r\n",
        b"X-Instance:\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"abc",
        b" ",
        b":",
        b"\0",
    ]
)
_garbage = st.binary(max_size=60) | st.lists(_fragments | st.binary(max_size=4), max_size=12).map(b"".join)


@given(
    _garbage | _garbage.map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest),
    st.sampled_from(["GET", "HEAD", "POST"]),
    cuts,
    st.booleans(),
)
@example(b"HTTP/1.1 100 C\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "HEAD", [24], True)
def test_garbage_raises_only_the_two_errors_however_cut(raw: bytes, method: str, at: list[int], eof: bool) -> None:
    whole = read_one(raw, method, eof=eof)
    for pieces in (bytewise(raw), cut(raw, at)):
        outcome = read(ResponseReader(), pieces, method, eof=eof)
        # How much of a body had been taken when it broke may depend on the cut; whether and how it broke may not.
        assert outcome == whole
    reader = ResponseReader()
    read(reader, [raw], method)
    assert read(reader, [OK]) == read_one(OK)


@given(answers(), st.integers(0, 10**6), st.integers(0, 255), cuts)
def test_one_wrong_byte_is_judged_the_same_however_cut(answer: Answer, place: int, byte: int, at: list[int]) -> None:
    raw = bytearray(answer.raw)
    raw[place % len(raw)] = byte
    whole = read_one(bytes(raw), answer.method, eof=True)
    assert read(ResponseReader(), bytewise(bytes(raw)), answer.method, eof=True) == whole
    assert read(ResponseReader(), cut(bytes(raw), at), answer.method, eof=True) == whole


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x46", id="a TLS alert"),
        pytest.param(b"\r\n" + OK, id="a blank line first"),
        pytest.param(b"<html>", id="no head"),
        pytest.param(b"http/1.1 200 OK\r\n\r\n", id="lower case"),
        pytest.param(b"HTTP 200 OK\r\n\r\n", id="no version"),
        pytest.param(b"ICY 200 OK\r\n\r\n", id="ICY"),
        pytest.param(b"ICE/1.0 200 OK\r\n\r\n", id="ICE"),
        pytest.param(b"RTSP/1.0 200 OK\r\n\r\n", id="RTSP"),
        pytest.param(b"HTTP/2.0 200 OK\r\n\r\n", id="HTTP/2.0"),
        pytest.param(b"HTTP/0.9 200 OK\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"HTTP/1.2 200 OK\r\n\r\n", id="HTTP/1.2"),
        pytest.param(b"HTTP/11 200 OK\r\n\r\n", id="no dot"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="two digits"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="four digits"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", id="not a number"),
        pytest.param(b"HTTP/1.1 -20 OK\r\n\r\n", id="negative"),
        pytest.param(b"HTTP/1.1 099 OK\r\n\r\n", id="below 100"),
        pytest.param(b"HTTP/1.1 000 OK\r\n\r\n", id="zero"),
        pytest.param(b"HTTP/1.1  200 OK\r\n\r\n", id="two spaces"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", id="bare line feeds"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="bare 101"),
        pytest.param(b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + OK, id="100 with a length"),
        pytest.param(b"HTTP/1.0 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + OK, id="103 chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", id="no colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", id="space before the colon"),
        pytest.param(b"HTTP/1.1 200 OK\r\n: b\r\n\r\n", id="no name"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", id="NUL in a value"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\rc: d\r\n\r\n", id="bare CR"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 0x3\r\n\r\n", id="hexadecimal length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", id="empty length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\n", id="two lengths in one"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", id="length overflow"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", id="length, chunked"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", id="chunked, length"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", id="gzip"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", id="gzip, chunked"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", id="chunked, gzip"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n", id="identity"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", id="chunked twice"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\n", id="empty coding"),
    ],
)
def test_a_head_that_is_not_http(raw: bytes) -> None:
    for pieces in ([raw], bytewise(raw)):
        outcome = read(ResponseReader(), pieces)
        assert outcome.error is ProtocolError
        assert not outcome.head_complete


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"x\r\n", id="no number"),
        pytest.param(b"\r\n", id="empty size"),
        pytest.param(b"-1\r\n", id="negative"),
        pytest.param(b"3 \r\nabc\r\n", id="space after the size"),
        pytest.param(b"3\nabc\n", id="bare line feeds"),
        pytest.param(b"F" * 17 + b"\r\n", id="overflow"),
        pytest.param(b"3\r\nabcd\r\n", id="longer than it says"),
        pytest.param(b"3\r\nab\r\n0\r\n\r\n", id="shorter than it says"),
        pytest.param(b"0\r\nno colon\r\n\r\n", id="malformed trailer"),
        pytest.param(b"0\r\nContent-Length: 3\r\n\r\n", id="a length in the trailer"),
    ],
)
def test_a_body_that_breaks(body: bytes) -> None:
    for pieces in ([CHUNKED + body], bytewise(CHUNKED + body), [CHUNKED, body]):
        outcome = read(ResponseReader(), pieces)
        assert outcome.error is BodyError
        assert outcome.status == 200


def test_messages_name_what_came_instead() -> None:
    with pytest.raises(ProtocolError, match="begins with b'SSH-2.0-OpenSSH"):
        ResponseReader().feed(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")
    with pytest.raises(ProtocolError, match="status 101"):
        ResponseReader().feed(b"HTTP/1.1 101 Switching\r\n\r\n")
    with pytest.raises(ProtocolError, match=r"HTTP/2\.0"):
        ResponseReader().feed(b"HTTP/2.0 200 OK\r\n\r\n")


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("extra", [b"", b"Connection: close\r\n", b"X-Instance: not me\r\n"])
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_interim_responses_are_skipped(status: int, extra: bytes, version: bytes) -> None:
    interim = b"%s %d Wait\r\n%s\r\n" % (version, status, extra)
    for pieces in ([interim + OK], bytewise(interim * 3 + OK), [interim, OK]):
        assert read(ResponseReader(), pieces) == read_one(OK)
    only = read_one(interim, eof=True)
    assert (only.has_data, only.started, only.head_complete, only.status) == (True, False, False, 0)


def test_a_first_byte_counts_once_it_is_the_final_heads() -> None:
    reader = ResponseReader()
    reader.start("GET")
    assert not reader.has_data
    reader.feed(b"HTTP/1.1 10")
    assert reader.has_data
    assert reader.started  # as far as anyone can tell
    reader.feed(b"0 Continue\r\n\r\n")
    assert not reader.started
    reader.feed(b"H")
    assert reader.started
    assert reader.feed(OK[1:])


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nconnection: upgrade , CLOSE\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: closed\r\n", True),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\n", False),
    ],
)
def test_connections_that_stay(head: bytes, keep_alive: bool) -> None:
    for method in ("GET", "HEAD"):
        body = b"" if method == "HEAD" else b"hi"
        outcome = read_one(head + b"Content-Length: 2\r\n\r\n" + body, method)
        assert outcome.complete
        assert outcome.keep_alive == keep_alive
    assert not read_one(head + b"\r\nhi", eof=True).keep_alive
    chunked = read_one(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert chunked.complete
    assert chunked.keep_alive == (keep_alive and head.startswith(b"HTTP/1.1"))


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("HEAD", 404), ("HEAD", 204), ("GET", 204), ("GET", 304), ("POST", 304)]
)
@pytest.mark.parametrize("framing", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_responses_without_a_body_end_with_their_head(method: str, status: int, framing: bytes) -> None:
    raw = b"HTTP/1.1 %d Some\r\n%s\r\n" % (status, framing)
    reader = ResponseReader()
    for _ in range(3):
        for pieces in ([raw], bytewise(raw)):
            outcome = read(reader, pieces, method)
            assert outcome.complete
            assert outcome.keep_alive
            assert outcome.bytes_read == 0
    for surplus in (b"5\r\n", b"5", b"false", b"\r\n", b"\n"):
        assert not read(reader, [raw + surplus], method).keep_alive
        assert read(reader, [raw], method).keep_alive


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    reader.start("GET")
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    assert not reader.feed(b"tr")
    assert not reader.feed(b"ue")
    assert reader.at_eof()
    assert (reader.complete, reader.keep_alive, reader.bytes_read, reader.body_head) == (True, False, 4, b"true")


@pytest.mark.parametrize(
    ("raw", "has_data", "head_complete"),
    [
        (b"", False, False),
        (b"H", True, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", True, False),
        (OK[:-2], True, True),
        (OK[:-1], True, True),
        (CHUNKED, True, True),
        (CHUNKED + b"0\r\n", True, True),
    ],
)
def test_at_eof_the_state_says_how_far_it_came(raw: bytes, has_data: bool, head_complete: bool) -> None:
    outcome = read_one(raw, eof=True)
    assert (outcome.error, outcome.complete) == (None, False)
    assert (outcome.has_data, outcome.head_complete) == (has_data, head_complete)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tail", [b"", b"hi", b"hi and more"])
def test_the_heads_limit_is_exact(method: str, tail: bytes) -> None:
    def head(size: int) -> bytes:
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Fill: "
        return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"

    fits, exceeds = head(HEAD_LIMIT) + tail, head(HEAD_LIMIT + 1) + tail
    assert len(head(HEAD_LIMIT)) == HEAD_LIMIT
    for pieces in ([fits], cut(fits, range(0, len(fits), 1000)), cut(fits, [HEAD_LIMIT - 1])):
        outcome = read(ResponseReader(), pieces, method)
        assert outcome.head_complete
        assert outcome.complete == (method == "HEAD" or tail != b"")
        assert outcome.keep_alive == (tail == (b"hi" if method == "GET" else b""))
    for pieces in ([exceeds], cut(exceeds, range(0, len(exceeds), 1000)), cut(exceeds, [HEAD_LIMIT])):
        outcome = read(ResponseReader(), pieces, method)
        assert outcome.error is ProtocolError
        assert not outcome.head_complete


def test_endless_interim_responses_and_trailers_are_refused() -> None:
    def endless(start: bytes, more: bytes) -> Iterable[bytes]:
        yield start
        for _ in range(10 * HEAD_LIMIT // len(more)):
            yield more

    assert read(ResponseReader(), endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n")).error is ProtocolError
    assert read(ResponseReader(), endless(CHUNKED + b"0\r\n", b"X-Trailer: yes\r\n" * 60)).error is BodyError
    assert read(ResponseReader(), endless(CHUNKED + b"0\r\nX: ", b"x" * 1000)).error is BodyError
    assert read(ResponseReader(), endless(CHUNKED + b"1;", b"x" * 1000)).error is BodyError
    many = read(ResponseReader(), endless(CHUNKED, b"1\r\nx\r\n" * 100))
    assert many.error is None
    assert many.bytes_read > HEAD_LIMIT


@pytest.mark.parametrize(
    ("body", "cold"),
    [
        (b"true", True),
        (b"false", False),
        (b" true\r\n", True),
        (b"\tfalse\n", False),
        (b"", None),
        (b"True", None),
        (b"truefalse", None),
        (b"true" + b" " * 12, True),
        (b"true" + b" " * 13, None),
        (b'{"cold": true}', None),
    ],
)
def test_what_the_function_says(body: bytes, cold: bool | None) -> None:
    reader = ResponseReader()
    for framed in (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body),
        CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n",
    ):
        reader.start("GET")
        assert reader.feed(framed)
        assert reader.cold is cold


@pytest.mark.parametrize(
    ("headers", "instance"),
    [
        (b"X-Instance: pod-7\r\n", b"pod-7"),
        (b"x-instance:pod-7 \t\r\n", b"pod-7"),
        (b"X-Instance: \r\n", None),
        (b"X-Instance:\r\nServer: x\r\n", None),
        (b"X-Instance: one\r\nX-INSTANCE: two\r\n", b"one"),
        (b"X-Instance: " + b"n" * 300 + b"\r\n", b"n" * INSTANCE_LIMIT),
        (b"X-Instance: \xff\xe9\r\n", b"\xff\xe9"),
        (b"X-Instances: x\r\nY-Instance: y\r\n", None),
    ],
)
def test_the_instance_names_itself(headers: bytes, instance: bytes | None) -> None:
    assert read_one(b"HTTP/1.1 200 OK\r\n" + headers + b"Content-Length: 0\r\n\r\n").instance == instance


@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        (b"X-A: b\r\n  c\r\nContent-Length: 2\r\n", (True, None)),
        (b"X-A: b\r\n\tc\r\n d\r\nContent-Length:\r\n 2\r\n", (True, None)),
        (b"Connection: keep-alive,\r\n close\r\nContent-Length: 2\r\n", (False, None)),
        (b"X-Instance:\r\n pod-1\r\nContent-Length: 2\r\n", (True, b"pod-1")),
        (b"Content-Length: 2\r\nX-A: b\r\n \r\n", (True, None)),
    ],
)
def test_folded_headers_are_read(head: bytes, outcome: tuple[bool, bytes | None]) -> None:
    """Old servers and proxies send them (RFC 9112, 5.2)."""
    raw = b"HTTP/1.1 200 OK\r\n" + head + b"\r\nhi"
    for pieces in ([raw], bytewise(raw)):
        read_ = read(ResponseReader(), pieces)
        assert (read_.error, read_.complete, read_.keep_alive, read_.instance) == (None, True, *outcome)


@pytest.mark.parametrize("control", [b"\0", b"\x01", b"\x7f"])
def test_control_characters_in_headers_and_trailers_are_refused(control: bytes) -> None:
    for folded in (b"", b"\r\n "):
        raw = b"HTTP/1.1 200 OK\r\nA: b" + folded + control + b"\r\n\r\n"
        assert read_one(raw).error is ProtocolError
        assert read_one(CHUNKED + b"0\r\nA: b" + folded + control + b"\r\n\r\n").error is BodyError


def test_feeding_nothing_changes_nothing() -> None:
    reader = ResponseReader()
    assert reader.feed(b"") is False
    assert not reader.has_data
    reader.feed(OK)
    assert reader.feed(memoryview(b"")) is True
    assert reader.keep_alive


# Requests


class _Request(BaseHTTPRequestHandler):
    """The standard library's reading of a request."""

    def __init__(self, raw: bytes) -> None:
        self.rfile = io.BytesIO(raw)
        self.raw_requestline = self.rfile.readline()
        self.error: object = None
        self.headers = HTTPMessage()
        self.parsed = self.parse_request()
        self.rest = self.rfile.read()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.error = (code, message, explain)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://a.example", Url("http", "a.example", 80, "a.example", "/")),
        ("http://a.example:80/x", Url("http", "a.example", 80, "a.example", "/x")),
        ("https://a.example:443", Url("https", "a.example", 443, "a.example", "/")),
        ("http://a.example:443", Url("http", "a.example", 443, "a.example:443", "/")),
        ("HTTP://A.Example:8080/X?Y=Z", Url("http", "a.example", 8080, "a.example:8080", "/X?Y=Z")),
        ("http://a.example?x=1", Url("http", "a.example", 80, "a.example", "/?x=1")),
        ("http://a.example/p?", Url("http", "a.example", 80, "a.example", "/p?")),
        ("http://a.example?#x?", Url("http", "a.example", 80, "a.example", "/?")),
        ("http://a.example/p#x?y", Url("http", "a.example", 80, "a.example", "/p")),
        ("http://a.example/p??", Url("http", "a.example", 80, "a.example", "/p??")),
        ("http://a.example/#part", Url("http", "a.example", 80, "a.example", "/")),
        ("http://a.example:/", Url("http", "a.example", 80, "a.example", "/")),
        (" http://a.example/ \n", Url("http", "a.example", 80, "a.example", "/")),
        ("http://a.b.svc.cluster.local./", Url("http", "a.b.svc.cluster.local.", 80, "a.b.svc.cluster.local.", "/")),
        ("http://[::1]:8080/", Url("http", "::1", 8080, "[::1]:8080", "/")),
        ("https://[2001:db8::1]/", Url("https", "2001:db8::1", 443, "[2001:db8::1]", "/")),
        ("http://[fe80::1%25eth0]/", Url("http", "fe80::1%eth0", 80, "[fe80::1]", "/")),
        ("http://[fe80::1%eth0]:81/", Url("http", "fe80::1%eth0", 81, "[fe80::1]:81", "/")),
        ("http://127.0.0.1:8080/", Url("http", "127.0.0.1", 8080, "127.0.0.1:8080", "/")),
        ("http://b\xfccher.example/", Url("http", "xn--bcher-kva.example", 80, "xn--bcher-kva.example", "/")),
        ("http://a/b c?d e", Url("http", "a", 80, "a", "/b%20c?d%20e")),
        ("http://a/\xe9?\u20ac", Url("http", "a", 80, "a", "/%C3%A9?%E2%82%AC")),
        ("http://a/%41%zz%", Url("http", "a", 80, "a", "/%41%25zz%25")),
        ('http://a/"<>^`{|}?"<>^`{|}', Url("http", "a", 80, "a", "/%22%3C%3E%5E%60%7B%7C%7D?%22%3C%3E%5E%60%7B%7C%7D")),
        ("http://a/b;c=1,2@:!$&'()*+/~?d=/?:@", Url("http", "a", 80, "a", "/b;c=1,2@:!$&'()*+/~?d=/?:@")),
    ],
)
def test_urls_come_apart(url: str, parts: Url) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "/path",
        "ftp://a.example/",
        "http:///path",
        "http://:80/",
        "http://user@a.example/",
        "http://user:word@a.example/",
        "http://a.example:0/",
        "http://a.example:65536/",
        "http://a.example:http/",
        "http://a.example\n.evil/",
        "http://a/b\r\nX: y",
        "http://a/\x7f",
        "http://[::1/",
        "http://[::g]/",
        "http://[1.2.3.4]/",
        "http://a b/",
        "http://a..b/",
        "http://a\\b/",
        "http://-a/",
        "http://%41/",
        "http://\xad/",
    ],
)
def test_urls_that_cannot_be_asked(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        split_url(url)


def test_a_plain_get() -> None:
    assert encode_request("GET", "http://hello.default:8080/x?y=1", {}) == (
        b"GET /x?y=1 HTTP/1.1\r\nHost: hello.default:8080\r\nUser-Agent: %s\r\n\r\n" % USER_AGENT.encode()
    )


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, None),
        ("HEAD", None, None),
        ("DELETE", None, None),
        ("POST", None, "0"),
        ("PUT", None, "0"),
        ("PATCH", None, "0"),
        ("GET", b"", "0"),
        ("GET", b"abc", "3"),
        ("POST", b"\0\r\n\r\n\xff", "6"),
    ],
)
def test_a_body_has_its_length(method: str, body: bytes | None, length: str | None) -> None:
    request = _Request(encode_request(method, "http://a/", {}, body))
    assert request.parsed, request.error
    assert request.headers["Content-Length"] == length
    assert request.rest == (body or b"")


def test_given_headers_replace_ours() -> None:
    raw = encode_request(
        "POST",
        "http://a/",
        {"HOST": "hello.default.example", "user-agent": "mine", "content-length": "2", "Connection": "close"},
        b"hi",
    )
    assert raw == (
        b"POST / HTTP/1.1\r\nHOST: hello.default.example\r\nuser-agent: mine\r\ncontent-length: 2\r\n"
        b"Connection: close\r\n\r\nhi"
    )


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"A b": "c"}, "not a valid header name"),
        ({"": "c"}, "not a valid header name"),
        ({"A:": "c"}, "not a valid header name"),
        ({"\xe9": "c"}, "not a valid header name"),
        ({"A": "b\r\nC: d"}, "control characters"),
        ({"A": "b\0"}, "control characters"),
        ({"A": "b", "a": "c"}, "given twice"),
        ({"Transfer-Encoding": "chunked"}, "sent with a Content-Length"),
        ({"Content-Length": "7"}, "the body has 2 bytes"),
        ({"A": "\ud800"}, "UTF-8"),
    ],
)
def test_headers_that_would_not_arrive(headers: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encode_request("POST", "http://a/", headers, b"hi")


@pytest.mark.parametrize("method", ["", "GE T", "GET\r\n", "CONNECT", "G\xc9T"])
def test_methods_that_cannot_be_sent(method: str) -> None:
    with pytest.raises(UsageError, match="method"):
        encode_request(method, "http://a/", {})


def test_values_are_utf_8_and_raw_bytes_pass() -> None:
    raw = encode_request("GET", "http://a/", {"A": "\u20ac\xe9", "B": b"\xe9".decode("utf-8", "surrogateescape")})
    assert b"\r\nA: \xe2\x82\xac\xc3\xa9\r\nB: \xe9\r\n" in raw


_header_names = st.from_regex(r"X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,10}", fullmatch=True)
_header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.just("\t"), max_size=30)


@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="?#"), max_size=20),
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="#"), max_size=20),
    st.dictionaries(_header_names, _header_values, max_size=5).filter(
        lambda headers: len({name.lower() for name in headers}) == len(headers)
    ),
    st.none() | st.binary(max_size=30),
)
def test_requests_arrive_as_they_were_meant(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes | None
) -> None:
    raw = encode_request(method, f"http://a.example:81/p{path}?q{query}", headers, body)
    request = _Request(raw)
    assert request.parsed, request.error
    assert request.command == method
    assert request.path.isascii()
    assert _unquoted(request.path) == _unquoted(f"/p{path}?q{query}".rstrip())
    assert request.headers["Host"] == "a.example:81"
    assert {name: request.headers[name] for name in headers} == {k: v.strip(" \t") for k, v in headers.items()}
    assert request.rest == (body or b"")


def _unquoted(text: str) -> bytes:
    return unquote_to_bytes(text.encode())
