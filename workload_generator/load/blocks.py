"""Results on their way from the event loop to the recorder: packed into preallocated blocks, handed over as bytes.

Packing costs well under a microsecond and creates no objects that the garbage collector would have to visit. A block is
a table of fixed-width rows followed by the rows' texts, one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from workload_generator.codec import clean
from workload_generator.records import ErrorKind, Phase, Result, Stamp

# seq, phase, target, due, start, status, dns, connect, tls, ttfb, total, bytes, cold, reused, retries, stamp, error,
# then the lengths of instance, event_id and message
_ROW = struct.Struct("<qBIqqHqqqqqqbBBbbHHH")
_COUNT = struct.Struct("<I")
_NONE = -1
_NO_TEXT = 0xFFFF
_LONGEST_TEXT = 4096

_PHASES = tuple(Phase)
_ERRORS = tuple(ErrorKind)
_STAMPS = tuple(Stamp)
_ERROR_CODES = {kind: code for code, kind in enumerate(_ERRORS)}
_STAMP_CODES = {stamp: code for code, stamp in enumerate(_STAMPS)}
_COLD = {_NONE: None, 0: False, 1: True}


class BlockWriter:
    """Collects results until `take` hands them over; `full` says when that must not wait any longer."""

    def __init__(self, rows: int = 4096) -> None:
        self._rows = rows
        self._table = bytearray(rows * _ROW.size)
        self._texts = bytearray()
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether the next `add` needs a `take` first."""
        return self.count == self._rows

    def add(self, r: Result) -> None:
        """Pack one result. Texts are cut to 4096 bytes."""
        _ROW.pack_into(
            self._table,
            self.count * _ROW.size,
            r.seq,
            r.phase,
            r.target,
            r.due_ns,
            r.start_ns,
            r.status,
            _NONE if r.dns_ns is None else r.dns_ns,
            _NONE if r.connect_ns is None else r.connect_ns,
            _NONE if r.tls_ns is None else r.tls_ns,
            _NONE if r.ttfb_ns is None else r.ttfb_ns,
            _NONE if r.total_ns is None else r.total_ns,
            r.bytes_read,
            _NONE if r.cold is None else r.cold,
            r.reused,
            r.retries,
            _NONE if r.stamp is None else _STAMP_CODES[r.stamp],
            _NONE if r.error is None else _ERROR_CODES[r.error],
            self._text(r.instance),
            self._text(r.event_id),
            self._text(r.message),
        )
        self.count += 1

    def take(self) -> bytes:
        """The block so far, as bytes that `read_block` reads; the writer starts anew."""
        size = self.count * _ROW.size
        block = b"".join((_COUNT.pack(self.count), memoryview(self._table)[:size], self._texts))
        self.count = 0
        self._texts = bytearray()
        return block

    def _text(self, text: str | None) -> int:
        if text is None:
            return _NO_TEXT
        raw = clean(text[:_LONGEST_TEXT]).encode()[:_LONGEST_TEXT]
        self._texts += raw
        return len(raw)


def read_block(block: bytes) -> Iterator[Result]:
    """The results of one block, in the order in which they were added."""
    (count,) = _COUNT.unpack_from(block)
    text_at = _COUNT.size + count * _ROW.size

    def text(length: int) -> str | None:
        nonlocal text_at
        if length == _NO_TEXT:
            return None
        text_at += length
        return block[text_at - length : text_at].decode("utf-8", "ignore")

    for row in _ROW.iter_unpack(memoryview(block)[_COUNT.size : _COUNT.size + count * _ROW.size]):
        (seq, phase, target, due, start, status, dns, connect, tls, ttfb, total, size) = row[:12]
        (cold, reused, retries, stamp, error, instance, event_id, message) = row[12:]
        yield Result(
            seq,
            _PHASES[phase],
            target,
            due,
            start,
            status,
            None if dns == _NONE else dns,
            None if connect == _NONE else connect,
            None if tls == _NONE else tls,
            None if ttfb == _NONE else ttfb,
            None if total == _NONE else total,
            size,
            _COLD[cold],
            bool(reused),
            retries,
            None if stamp == _NONE else _STAMPS[stamp],
            text(instance),
            text(event_id),
            None if error == _NONE else _ERRORS[error],
            text(message),
        )
