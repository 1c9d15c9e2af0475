"""The protocol between the generator and its recorder: frames with a kind, a length and a payload, over a socket pair.

Results travel in blocks. A row holds the number and the times of a result. The rest, its shape, is written once for a
block and is mostly the same for all rows. Packing a result takes a quarter of a microsecond and allocates nothing that
lasts.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from workload_generator.log.format import clean
from workload_generator.log.records import REUSED, Block, ErrorKind, Phase, Response, Result, Served, Stamp

START = ord("S")  # JSON: the settings of the recorder; comes before the first result
RESULTS = ord("R")  # a block of results, see `BlockWriter`
HEARTBEAT = ord("H")  # JSON: the counts of the last second
DRAIN = ord("D")  # empty: a request for the totals
LINE = ord("L")  # JSON: `event` and `fields` of a line
FINISH = ord("F")  # JSON: the fields of the trailer, after which the recorder ends
TOTALS = ord("T")  # reply, JSON: counts and histograms
BEAT = ord("B")  # reply to a heartbeat, JSON: `beat` and the `recent` results, for a view that is elsewhere
DONE = ord("E")  # reply, JSON: the log is complete
STUCK = ord("W")  # JSON, the reason: the log cannot be written now; it is tried again
SPOILT = ord("M")  # JSON, the reason: somebody moved or cut the log
FAILED = ord("X")  # JSON, the reason: the log cannot be written any more

RELAY = "relay"
"""The mode of the progress of a shard: it is in the replies to heartbeats, and another process shows it."""

_HEAD = struct.Struct("<BI")
_ROW = struct.Struct("<qqqqqH")  # seq, due, start, ttfb, total, shape
_COUNT = struct.Struct("<I")
_NONE = -1
_LONGEST_TEXT = 4096

_pack_row = _ROW.pack_into
_ROW_BYTES = _ROW.size


def shared_counts(fd: int) -> memoryview:
    """Two numbers in memory that generator and recorder share: results that are in the log, and frames handled."""
    os.ftruncate(fd, 16)
    return memoryview(mmap.mmap(fd, 16)).cast("Q")


def frame(kind: int, payload: bytes = b"") -> bytes:
    """One frame as it goes over the socket."""
    return _HEAD.pack(kind, len(payload)) + payload


def json_frame(kind: int, value: object) -> bytes:
    """A frame whose payload is JSON."""
    return frame(kind, orjson.dumps(value))


class FrameReader:
    """Splits a stream of bytes into frames."""

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


class BlockWriter:
    """Collects results for `take`. When it is full it calls `on_full`, which has to call `take`.

    `rows` is at most 65,000. A few hundred fit into the CPU cache of the recorder.
    """

    def __init__(self, on_full: Callable[[], None], rows: int = 512) -> None:
        self._on_full = on_full
        self._size = rows * _ROW_BYTES
        self._table = bytearray(self._size)
        self._at = 0
        self._shapes: list[Result] = []
        self._known: dict[Any, int] = {}  # indexes of shapes, by cheap keys
        self._last: Any = None  # the last key: mostly it is also the next,
        self._last_shape = 0  # and comparing is cheaper than hashing

    @property
    def count(self) -> int:
        """Rows since the last `take`."""
        return self._at // _ROW_BYTES

    def served(self, exchange: Served, origin_ns: int) -> None:
        """Pack a complete response. `origin_ns` is the start of the run on the monotonic clock."""
        at = self._at
        if at == self._size:
            self._on_full()
            at = 0
        seq, phase, target, due_ns = exchange.arrival
        start_ns = exchange.start_ns
        if exchange.opening is None:
            key = (phase, target, exchange.response, exchange.kernel, exchange.segments)
            shape = self._last_shape if key == self._last else self._reused(key, exchange)
        else:
            shape = self._add(_shape(exchange))
        ttfb_ns, total_ns = exchange.first_ns - start_ns, exchange.last_ns - start_ns
        _pack_row(self._table, at, seq, due_ns, start_ns - origin_ns, ttfb_ns, total_ns, shape)
        self._at = at + _ROW_BYTES

    def add(self, r: Result) -> None:
        """Pack any result. Texts are cut at 4096 bytes."""
        if self._at == self._size:
            self._on_full()
        shape = r.shape
        index = self._known.get(shape)
        if index is None:
            cut = shape._replace(instance=_cut(r.instance), event_id=_cut(r.event_id), message=_cut(r.message))
            index = self._known[shape] = self._add(cut)
        ttfb_ns, total_ns = (_NONE if ns is None else ns for ns in (r.ttfb_ns, r.total_ns))
        _pack_row(self._table, self._at, r.seq, r.due_ns, r.start_ns, ttfb_ns, total_ns, index)
        self._at += _ROW_BYTES

    def take(self) -> bytes:
        """The block so far, as bytes for `read_block`; the writer is empty afterwards."""
        shapes = orjson.dumps([tuple(shape) for shape in self._shapes])
        block = b"".join((_COUNT.pack(self.count), memoryview(self._table)[: self._at], shapes))
        self._at = 0
        self._shapes = []
        self._known = {}
        self._last = None
        return block

    def _reused(self, key: tuple[Phase, int, Response, bool, int], exchange: Served) -> int:
        index = self._known.get(key)
        if index is None:
            index = self._known[key] = self._add(_shape(exchange))
        self._last, self._last_shape = key, index
        return index

    def _add(self, shape: Result) -> int:
        self._shapes.append(shape)
        return len(self._shapes) - 1


def read_block(block: bytes) -> Block | None:
    """The block in the bytes of `BlockWriter.take`; None without rows."""
    (count,) = _COUNT.unpack_from(block)
    if not count:
        return None
    end = _COUNT.size + count * _ROW_BYTES
    columns = zip(*_ROW.iter_unpack(memoryview(block)[_COUNT.size : end]), strict=True)
    return Block([_read_shape(doc) for doc in orjson.loads(memoryview(block)[end:])], *columns)


def _read_shape(doc: list[Any]) -> Result:
    shape = Result(*doc)
    return shape._replace(
        phase=Phase(shape.phase),
        stamp=None if shape.stamp is None else Stamp(shape.stamp),
        error=None if shape.error is None else ErrorKind(shape.error),
    )


def _shape(exchange: Served) -> Result:
    _, phase, target, _ = exchange.arrival
    opening, response = exchange.opening or REUSED, exchange.response
    return Result(
        0, phase, target, 0, 0, response.status, opening.dns_ns, opening.connect_ns, opening.tls_ns,
        bytes_read=response.bytes_read, cold=response.cold, reused=exchange.opening is None, retries=opening.retries,
        stamp=Stamp.KERNEL if exchange.kernel else Stamp.USER, segments=exchange.segments,
        instance=_cut(response.instance), address=opening.address,
    )  # fmt: skip


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    return clean(text[:_LONGEST_TEXT]).encode()[:_LONGEST_TEXT].decode("utf-8", "ignore")
