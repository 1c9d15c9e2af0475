"""Results on their way from the event loop to the recorder: packed into preallocated blocks, handed over as bytes.

Packing costs about a microsecond and creates no objects that the garbage collector would have to visit. A block is a
table of fixed-width rows, the names of the instances that its rows refer to, and the rows' other texts, one after the
other. Whoever reads it takes whole columns, so that most work on results is done by loops that run in C.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from workload_generator.codec import clean
from workload_generator.records import NO_TEXT, NONE, Arrival, Block, ErrorKind, Result, Stamp

# seq, due, start, dns, connect, tls, ttfb, total, bytes, target, status, segments, instance, phase, cold, reused,
# retries, stamp, error, then the lengths of event_id and message
_ROW = struct.Struct("<qqqqqqqqqIHHHBbBBbbHH")
_HEAD = struct.Struct("<IH")
_LENGTH = struct.Struct("<H")
_LONGEST_TEXT = 4096
_MOST_SEGMENTS = 0xFFFF

_ERROR_CODES = {kind: code for code, kind in enumerate(ErrorKind)}
_STAMP_CODES = {stamp: code for code, stamp in enumerate(Stamp)}
_COLD_CODES = {None: NONE, False: 0, True: 1}

_pack_row = _ROW.pack_into
_ROW_BYTES = _ROW.size


class BlockWriter:
    """Collects results until `take` hands them over; calls `on_full`, which has to take, when that cannot wait.

    `rows` is at most 65,000.
    """

    def __init__(self, on_full: Callable[[], None], rows: int = 4096) -> None:
        self._on_full = on_full
        self._size = rows * _ROW_BYTES
        self._table = bytearray(self._size)
        self._at = 0
        self._instances: dict[str | None, int] = {None: NO_TEXT}
        self._texts = bytearray()

    @property
    def count(self) -> int:
        """Rows since the last `take`."""
        return self._at // _ROW_BYTES

    def served(
        self, arrival: Arrival, start_ns: int, status: int, dns_ns: int, connect_ns: int, tls_ns: int, ttfb_ns: int,
        total_ns: int, bytes_read: int, cold: bool | None, reused: bool, retries: int, stamp: Stamp, segments: int,
        instance: str | None,
    ) -> None:  # fmt: skip
        """Pack the result of a request that got its whole response."""
        at = self._at
        if at == self._size:
            self._on_full()
            at = 0
        code = self._instances.get(instance)
        if code is None:
            code = self._instance(instance)
        seq, phase, target, due_ns = arrival
        _pack_row(
            self._table, at, seq, due_ns, start_ns, dns_ns, connect_ns, tls_ns, ttfb_ns, total_ns, bytes_read, target,
            status, segments if segments < _MOST_SEGMENTS else _MOST_SEGMENTS, code, phase, _COLD_CODES[cold], reused,
            retries, _STAMP_CODES[stamp], NONE, NO_TEXT, NO_TEXT,
        )  # fmt: skip
        self._at = at + _ROW_BYTES

    def add(self, r: Result) -> None:
        """Pack any result. Texts are cut to 4096 bytes."""
        if self._at == self._size:
            self._on_full()
        _pack_row(
            self._table,
            self._at,
            r.seq,
            r.due_ns,
            r.start_ns,
            *(NONE if ns is None else ns for ns in (r.dns_ns, r.connect_ns, r.tls_ns, r.ttfb_ns, r.total_ns)),
            r.bytes_read,
            r.target,
            r.status,
            min(r.segments, _MOST_SEGMENTS),
            self._instances[r.instance] if r.instance in self._instances else self._instance(r.instance),
            r.phase,
            _COLD_CODES[r.cold],
            r.reused,
            r.retries,
            NONE if r.stamp is None else _STAMP_CODES[r.stamp],
            NONE if r.error is None else _ERROR_CODES[r.error],
            self._text(r.event_id),
            self._text(r.message),
        )
        self._at += _ROW_BYTES

    def take(self) -> bytes:
        """The block so far, as bytes that `read_block` reads; the writer starts anew."""
        names = [_bytes(name) for name in self._instances if name is not None]
        table = memoryview(self._table)[: self._at]
        listed = [_LENGTH.pack(len(name)) + name for name in names]
        block = b"".join((_HEAD.pack(self.count, len(names)), table, *listed, self._texts))
        self._at = 0
        self._instances = {None: NO_TEXT}
        self._texts = bytearray()
        return block

    def _instance(self, name: str | None) -> int:
        """The code of a name that this block has not seen yet."""
        code = len(self._instances) - 1  # at most one for each row, so that it fits
        self._instances[name] = code
        return code

    def _text(self, text: str | None) -> int:
        if text is None:
            return NO_TEXT
        raw = _bytes(text)
        self._texts += raw
        return len(raw)


def read_block(block: bytes) -> Block | None:
    """What `BlockWriter.take` made; None when it has no rows."""
    count, names = _HEAD.unpack_from(block)
    if not count:
        return None
    at = _HEAD.size + count * _ROW_BYTES
    columns = zip(*_ROW.iter_unpack(memoryview(block)[_HEAD.size : at]), strict=True)
    instances = []
    for _ in range(names):
        (length,) = _LENGTH.unpack_from(block, at)
        at += _LENGTH.size + length
        instances.append(block[at - length : at].decode("utf-8", "ignore"))
    return Block(instances, block[at:], *columns)


def _bytes(text: str) -> bytes:
    return clean(text[:_LONGEST_TEXT]).encode()[:_LONGEST_TEXT]
