"""The fast parser against the full one: wherever it answers, they agree."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workload_generator.engine.http1 import BodyError, ProtocolError, ResponseReader
from workload_generator.engine.response_cache import ResponseCache, response_of
from workload_generator.log.records import Response

HEADS = (
    b"Content-Length: %d\r\n", b"content-length:%d\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n", b"X-Instance: pod-1\r\n", b"x-instance: \xff\r\n", b"Date: now\r\n", b" folded\r\n",
    b"Content-Length: 3\r\n", b"broken\r\n",
)  # fmt: skip
STARTS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 503 Busy\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
    b"HTTP/2 200\r\n", b"RTSP/1.0 200 OK\r\n", b"\r\nHTTP/1.1 200 OK\r\n",
)  # fmt: skip
BODIES = (b"", b"true", b"false", b"5\r\nfalse\r\n0\r\n\r\n", b"false\r\n", b"x" * 5000, b"tr\x00e")


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    body = draw(st.sampled_from(BODIES))
    lines = draw(st.lists(st.sampled_from(HEADS), max_size=5))
    head = b"".join(line % len(body) if b"%d" in line else line for line in lines)
    whole = draw(st.sampled_from(STARTS)) + head + b"\r\n" + body
    if draw(st.booleans()):
        at = draw(st.integers(0, len(whole)))
        whole = whole[:at] + draw(st.binary(max_size=3)) + whole[at + draw(st.integers(0, 2)) :]
    return whole


def read_whole(reader: ResponseReader, data: bytes) -> Response | None:
    """What the full reader, at its start, makes of `data` in one piece."""
    reader.start("GET")
    try:
        return response_of(reader) if reader.feed(data) else None
    except (ProtocolError, BodyError):
        return None


@given(st.lists(responses() | st.binary(max_size=60), min_size=1, max_size=12))
def test_fast_and_full_agree_wherever_the_fast_one_answers(stream: list[bytes]) -> None:
    """One cache serves many connections; what it says of some bytes is what a fresh full reader says of them."""
    cache, kept = ResponseCache(), ResponseReader()
    for data in stream * 2:
        fast = cache.get(data)
        fresh = ResponseReader()
        full = read_whole(fresh, data)
        fresh.close()
        if fast is not None:
            assert fast == full
            assert fast.keep_alive and 200 <= fast.status <= 999
        of_kept = read_whole(kept, data)
        assert of_kept == full, "a reader that is used again says the same as a fresh one"
        if of_kept is not None:
            cache.learn(data, of_kept)
    kept.close()


def test_a_repeated_response_is_cached() -> None:
    cache, reader = ResponseCache(), ResponseReader()
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Instance: pod-1\r\n\r\ntrue"
    response = read_whole(reader, data)
    assert response == Response(200, 4, True, "pod-1", True)
    cache.learn(data, response)
    assert cache.get(data) == response
    reader.close()


def test_long_responses_and_those_that_end_their_connection_are_not_cached_and_the_cache_stays_small() -> None:
    cache = ResponseCache()
    cache.learn(b"a", Response(200, 0, None, None, False))
    cache.learn(b"b" * 5000, Response(200, 0, None, None, True))
    assert not cache
    for number in range(5000):
        cache.learn(b"%d" % number, Response(200, 0, None, None, True))
        assert len(cache) <= 1024
    assert cache.get(b"4999") is not None
