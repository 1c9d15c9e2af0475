"""Results on their way from the event loop to the recorder: packed into preallocated blocks, handed over as bytes.

Packing costs half a microsecond and creates nothing that lasts. A row holds what differs from one result to the next,
its number and its times; what they have in common, a `Shape`, is written once for a block, and is mostly the same for
all of its rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import orjson

from workload_generator.log.format import clean
from workload_generator.log.records import (
    Block,
    ErrorKind,
    Phase,
    Response,
    Result,
    Served,
    Shape,
    Stamp,
    shape_of,
)

_ROW = struct.Struct("<qqqqqH")  # seq, due, start, ttfb, total, shape
_COUNT = struct.Struct("<I")
_NONE = -1
_LONGEST_TEXT = 4096

_pack_row = _ROW.pack_into
_ROW_BYTES = _ROW.size


class BlockWriter:
    """Collects results until `take` hands them over; calls `on_full`, which has to take, when that cannot wait.

    `rows` is at most 65,000. A few hundred stay in the cache of whoever formats them.
    """

    def __init__(self, on_full: Callable[[], None], rows: int = 512) -> None:
        self._on_full = on_full
        self._size = rows * _ROW_BYTES
        self._table = bytearray(self._size)
        self._at = 0
        self._shapes: list[Shape] = []
        self._known: dict[Any, int] = {}  # indexes of shapes, by what is cheap to look up
        self._last: Any = None  # the key that was looked up last: mostly it comes again,
        self._last_shape = 0  # and comparing is cheaper than hashing

    @property
    def count(self) -> int:
        """Rows since the last `take`."""
        return self._at // _ROW_BYTES

    def served(self, exchange: Served, origin_ns: int) -> None:
        """Pack the result of a request that got its whole response; the run began at `origin_ns`, monotonic."""
        at = self._at
        if at == self._size:
            self._on_full()
            at = 0
        seq, phase, target, due_ns = exchange.arrival
        start_ns, opening, response = exchange.start_ns, exchange.opening, exchange.response
        if opening is None:
            key = (phase, target, response, exchange.kernel, exchange.segments)
            shape = self._last_shape if key == self._last else self._reused(key)
        else:
            paid = (opening.dns_ns, opening.connect_ns, opening.tls_ns)
            kernel, segments = exchange.kernel, exchange.segments
            shape = self._add(_shape(phase, target, response, kernel, segments, paid, False, opening.retries))
        ttfb_ns, total_ns = exchange.first_ns - start_ns, exchange.last_ns - start_ns
        _pack_row(self._table, at, seq, due_ns, start_ns - origin_ns, ttfb_ns, total_ns, shape)
        self._at = at + _ROW_BYTES

    def add(self, r: Result) -> None:
        """Pack any result. Texts are cut to 4096 bytes."""
        if self._at == self._size:
            self._on_full()
        shape = shape_of(r)
        index = self._known.get(shape)
        if index is None:
            cut = shape._replace(instance=_cut(r.instance), event_id=_cut(r.event_id), message=_cut(r.message))
            index = self._known[shape] = self._add(cut)
        ttfb_ns, total_ns = (_NONE if ns is None else ns for ns in (r.ttfb_ns, r.total_ns))
        _pack_row(self._table, self._at, r.seq, r.due_ns, r.start_ns, ttfb_ns, total_ns, index)
        self._at += _ROW_BYTES

    def take(self) -> bytes:
        """The block so far, as bytes that `read_block` reads; the writer starts anew."""
        shapes = orjson.dumps([tuple(shape) for shape in self._shapes])
        block = b"".join((_COUNT.pack(self.count), memoryview(self._table)[: self._at], shapes))
        self._at = 0
        self._shapes = []
        self._known = {}
        self._last = None
        return block

    def _reused(self, key: tuple[Phase, int, Response, bool, int]) -> int:
        index = self._known.get(key)
        if index is None:
            index = self._known[key] = self._add(_shape(*key, (0, 0, 0), True, 0))
        self._last, self._last_shape = key, index
        return index

    def _add(self, shape: Shape) -> int:
        self._shapes.append(shape)
        return len(self._shapes) - 1


def read_block(block: bytes) -> Block | None:
    """What `BlockWriter.take` made; None when it has no rows."""
    (count,) = _COUNT.unpack_from(block)
    if not count:
        return None
    end = _COUNT.size + count * _ROW_BYTES
    columns = zip(*_ROW.iter_unpack(memoryview(block)[_COUNT.size : end]), strict=True)
    return Block([_read_shape(doc) for doc in orjson.loads(memoryview(block)[end:])], *columns)


def _read_shape(doc: list[Any]) -> Shape:
    shape = Shape(*doc)
    return shape._replace(
        phase=Phase(shape.phase),
        stamp=None if shape.stamp is None else Stamp(shape.stamp),
        error=None if shape.error is None else ErrorKind(shape.error),
    )


def _shape(
    phase: Phase, target: int, response: Response, kernel: bool, segments: int, paid: tuple[int | None, ...],
    reused: bool, retries: int,
) -> Shape:  # fmt: skip
    status, bytes_read, cold, instance, _ = response
    stamp = Stamp.KERNEL if kernel else Stamp.USER
    dns_ns, connect_ns, tls_ns = paid
    return Shape(
        phase, target, status, dns_ns, connect_ns, tls_ns, bytes_read, cold, reused, retries, stamp, segments,
        _cut(instance), None, None, None,
    )  # fmt: skip


def _cut(text: str | None) -> str | None:
    if text is None:
        return None
    return clean(text[:_LONGEST_TEXT]).encode()[:_LONGEST_TEXT].decode("utf-8", "ignore")
