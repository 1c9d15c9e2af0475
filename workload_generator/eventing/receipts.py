"""Receipts: an event arrived, through which trigger, at which instance and when.

A receiver sends them to the logger in batches, each a JSON document. In `events.csv` a receipt is a line, which begins
with the original's two columns. A receipt whose acknowledgement was lost is sent again, and is then in the file twice,
with the same instance and nanosecond; no two different receipts of an instance have the same nanosecond.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from workload_generator.base.clock import NS_PER_S, rfc3339

HEADER = b"event_id,timestamp,trigger,instance,attempt,sequence\n"
INSTANCES_HEADER = b"instance,timestamp,received,refused,acknowledged,offset_ns,half_rtt_ns\n"

_LATEST_NS = 253_402_300_800 * NS_PER_S  # the year 10000
_MOST_TEXT = 4096


class Receipt(NamedTuple):
    """`received_ns` is wall clock, and unique among the receipts of an instance."""

    event_id: str
    received_ns: int
    trigger: str
    sequence: str


class InstanceReport(NamedTuple):
    """The counters of an instance, and its clock: `offset_ns` is its clock − the logger's. None is "not measured"."""

    received: int
    refused: int
    acknowledged: int
    offset_ns: int | None = None
    half_rtt_ns: int | None = None


class ReceiptBatch(NamedTuple):
    """A batch that a receiver sends to the logger. `attempt` counts from 1."""

    instance: str
    attempt: int
    report: InstanceReport | None
    receipts: list[Receipt]


def encode_batch(batch: ReceiptBatch) -> bytes:
    """The batch as one line, for the logger and for the spool."""
    return orjson.dumps([batch.instance, batch.attempt, batch.report, batch.receipts], default=tuple)


def decode_batch(data: bytes) -> ReceiptBatch:
    """The batch that `encode_batch` encoded. Raises ValueError for anything else."""
    document = orjson.loads(data)
    try:
        batch = ReceiptBatch(*document)
        receipts = [Receipt(*row) for row in batch.receipts]
        report = None if batch.report is None else InstanceReport(*batch.report)
    except TypeError as error:
        raise ValueError(f"not a batch of receipts: {error}") from None
    texts = [batch.instance, *(text for row in receipts for text in (row.event_id, row.trigger, row.sequence))]
    times = [row.received_ns for row in receipts]
    numbers = [batch.attempt, *times, *(number for number in report or () if number is not None)]
    if not all(map(_is_text, texts)) or any(type(number) is not int for number in numbers):
        raise ValueError("not a batch of receipts: a text or a number is missing")
    if times and not 0 <= min(times) <= max(times) < _LATEST_NS:
        raise ValueError("not a batch of receipts: a time is before 1970 or after 9999")
    return batch._replace(receipts=receipts, report=report)


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
