"""How the generator and its recorder talk over their socket pair: frames of a kind, a length and a payload."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import orjson

START = ord("S")  # JSON: what the recorder has to know before the first result
RESULTS = ord("R")  # a block of results (blocks.py)
HEARTBEAT = ord("H")  # JSON: counts once a second
DRAIN = ord("D")  # empty: answer with the totals
LINE = ord("L")  # JSON: `event` and `fields` of a line that is written as it is
FINISH = ord("F")  # JSON: the trailer's fields; the recorder writes it and ends
TOTALS = ord("T")  # back, JSON: counts and histograms
DONE = ord("E")  # back, JSON: the log is complete
FAILED = ord("X")  # back, JSON: the log could not be written on

_HEAD = struct.Struct("<BI")


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame as it goes over the socket."""
    return _HEAD.pack(kind, len(payload)) + payload


def json_frame(kind: int, value: object) -> bytes:
    """A frame whose payload is JSON."""
    return frame(kind, orjson.dumps(value))


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that `data` completes, as (kind, payload)."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer, at)
            if len(self._buffer) - at - _HEAD.size < length:
                break
            at += _HEAD.size + length
            yield kind, bytes(self._buffer[at - length : at])
        del self._buffer[:at]
