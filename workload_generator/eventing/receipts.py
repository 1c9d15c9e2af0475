"""Receipts: an event arrived, through which trigger, at which instance and when.

A receiver sends them to the logger in batches, each a JSON document. In `events.csv` a receipt is a line, which begins
with the original's two columns. A receipt whose acknowledgement was lost is sent again, and is then in the file twice,
with the same instance and nanosecond; no two different receipts of an instance have the same nanosecond.
"""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import msgspec
import orjson

from workload_generator.base.clock import NS_PER_S, rfc3339

HEADER = b"event_id,timestamp,trigger,instance,attempt,sequence\n"
INSTANCES_HEADER = b"instance,timestamp,received,refused,acknowledged,offset_ns,half_rtt_ns\n"

_MOST_TEXT = 4096

Text = Annotated[str, msgspec.Meta(max_length=_MOST_TEXT)]
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Receipt(NamedTuple):
    """`received_ns` is wall clock, and unique among the receipts of an instance."""

    event_id: Text
    received_ns: Nanoseconds
    trigger: Text
    sequence: Text


class InstanceReport(NamedTuple):
    """The counters of an instance, and its clock: `offset_ns` is its clock − the logger's. None is "not measured"."""

    received: Integer
    refused: Integer
    acknowledged: Integer
    offset_ns: Integer | None = None
    half_rtt_ns: Integer | None = None


class ReceiptBatch(NamedTuple):
    """A batch that a receiver sends to the logger. `attempt` counts from 1."""

    instance: Text
    attempt: Integer
    report: InstanceReport | None
    receipts: list[Receipt]


def encode_batch(batch: ReceiptBatch) -> bytes:
    """The batch as one line, for the logger and for the spool."""
    return orjson.dumps([batch.instance, batch.attempt, batch.report, batch.receipts], default=tuple)


def decode_batch(data: bytes) -> ReceiptBatch:
    """The batch that `encode_batch` encoded. Raises ValueError for anything else."""
    try:
        batch = _DECODER.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a batch of receipts: {error}") from None
    texts = [batch.instance, *(text for row in batch.receipts for text in (row.event_id, row.trigger, row.sequence))]
    if not all(map(str.isprintable, texts)):
        raise ValueError("not a batch of receipts: a text is not printable")
    return batch


_DECODER = msgspec.json.Decoder(ReceiptBatch)


def csv_lines(batch: ReceiptBatch) -> bytes:
    """The batch's lines of `events.csv`."""
    tail = f"{_field(batch.instance)},{batch.attempt}"
    lines = []
    second, moment = -1, ""
    for event_id, received_ns, trigger, sequence in batch.receipts:
        now, rest_ns = divmod(received_ns, NS_PER_S)
        if now != second:
            second, moment = now, rfc3339(now * NS_PER_S)[:20]
        lines.append(f"{_field(event_id)},{moment}{rest_ns:09d}Z,{_field(trigger)},{tail},{_field(sequence)}\n")
    return "".join(lines).encode()


def report_line(batch: ReceiptBatch, now_ns: int) -> bytes:
    """The line of `instances.csv` for an instance's report."""
    report = batch.report
    assert report is not None
    figures = ",".join("" if value is None else str(value) for value in report)
    return f"{_field(batch.instance)},{rfc3339(now_ns)},{figures}\n".encode()


def original_receipt(document: Any) -> bytes | None:
    """The line for a document of the original's receiver, `{"event_id": …, "timestamp": …}`; None for any other."""
    if not isinstance(document, dict) or document.keys() != {"event_id", "timestamp"}:
        return None
    texts = (document["event_id"], document["timestamp"])
    if not all(map(_is_text, texts)) or not all(texts):
        return None
    return f"{_field(texts[0])},{_field(texts[1])},,,1,\n".encode()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MOST_TEXT and value.isprintable()


def _field(value: str) -> str:
    return '"' + value.replace('"', '""') + '"' if '"' in value or "," in value else value
