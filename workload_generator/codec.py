"""Records ↔ log lines: the only place that knows the log's format.

A log is one JSON object a line, UTF-8. It opens with `run_started`, closes with `run_finished`, and has a `request` for
each result and a `progress` heartbeat a second in between. Request lines are formatted by hand, since there can be
tens of thousands a second; the others go through structlog.

Rules:
- times are milliseconds with three decimals; a time that was not reached is null
- text that came from outside (messages, instances, URLs) may hold any byte; what is not valid UTF-8 is written as a
  backslash escape, so that every line is valid UTF-8 and valid JSON
- a line is written whole, its newline included; a line without its newline is torn and counts as never written
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol, cast

import orjson
import structlog

from workload_generator.clock import NS_PER_MS, NS_PER_S, Anchor, rfc3339
from workload_generator.records import Block, Phase, Result, Stamp

SCHEMA = 1

RUN_STARTED = "run_started"
REQUEST = "request"
PROGRESS = "progress"
RUN_FINISHED = "run_finished"
EVENTS = frozenset({RUN_STARTED, REQUEST, PROGRESS, RUN_FINISHED})

# A request with its whole response: every time was reached. The rarer lines with nulls are built field by field.
_SERVED = (
    '{"event":"request","seq":%d,"phase":"%s","time":"%s%06dZ","target":%s,"status":%d,"ttfb":%.3f,"total":%.3f,'
    '%s,"lag":%.3f,"cold":%s,"reused":%s,"retries":%d,"bytes":%d,"stamp":"%s"%s}\n'
)
_OPENING = '"dns":%.3f,"connect":%.3f,"tls":%.3f'
_REUSED = _OPENING % (0, 0, 0)
_OTHER = (
    '{"event":"request","seq":%d,"phase":"%s","time":"%s%06dZ","target":%s,"status":%d,"ttfb":%s,"total":%s,"dns":%s,'
    '"connect":%s,"tls":%s,"lag":%.3f,"cold":%s,"reused":%s,"retries":%d,"bytes":%d,"stamp":%s%s}\n'
)
_PHASES = tuple(phase.label for phase in Phase)
_STAMPS = tuple(stamp.value for stamp in Stamp)
_JSON_BOOL: dict[bool | int | None, str] = {None: "null", -1: "null", True: "true", False: "false"}
_UNEXPECTED = ',"expected":false'


class CodecError(ValueError):
    """A line that is not one of the log's; `str()` says why."""


def clean(text: str) -> str:
    """`text` as it can be stored: lone surrogates become backslash escapes, everything else stays."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def text_of(raw: bytes) -> str:
    """Bytes from the wire as text that can be logged; what is not UTF-8 is shown as `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


class ResultEncoder:
    """Formats the request lines of one run. `start` anchors the offsets of its results to the wall clock."""

    def __init__(self, targets: Sequence[str], start: Anchor) -> None:
        self._targets = [_json_text(target) for target in targets]
        self._start_wall_ns = start.wall_ns
        self._seconds = _Seconds()

    def encode(self, r: Result, ok: bool) -> bytes:
        """One log line, its newline included. `ok` is whether the experiment expects such a response."""
        second, rest_ns = divmod(self._start_wall_ns + r.start_ns, NS_PER_S)
        nullable = (r.ttfb_ns, r.total_ns, r.dns_ns, r.connect_ns, r.tls_ns)
        tail = "" if r.stamp is None else _segments(r.segments)
        if r.instance is not None:
            tail += f',"instance":{_json_text(r.instance)}'
        if r.event_id is not None:
            tail += f',"event_id":{_json_text(r.event_id)}'
        if r.error is not None:
            tail += f',"error":"{r.error}","message":{_json_text(r.message or "")}'
        elif not ok:
            tail += _UNEXPECTED
        line = _OTHER % (
            r.seq, _PHASES[r.phase], self._seconds[second], rest_ns // 1000, self._targets[r.target], r.status,
            *map(_ms, nullable), r.lag_ns / NS_PER_MS, _JSON_BOOL[r.cold], _JSON_BOOL[r.reused], r.retries,
            r.bytes_read, "null" if r.stamp is None else f'"{r.stamp}"', tail,
        )  # fmt: skip
        return line.encode()

    def encode_served(self, served: Block, ok: Sequence[bool]) -> bytes:
        """The lines of many results at once; the same as `encode` makes, at a quarter of the cost."""
        s, wall_ns, targets, seconds = served, self._start_wall_ns, self._targets, self._seconds
        instances = [f',"instance":{_json_text(name)}' for name in s.instances]
        tails = [instances[code] if code < len(instances) else "" for code in s.instance]
        if not all(ok):
            tails = [tail if fine else tail + _UNEXPECTED for tail, fine in zip(tails, ok, strict=True)]
        if min(s.segments) != 1 or max(s.segments) != 1:
            tails = [_segments(number) + tail for number, tail in zip(s.segments, tails, strict=True)]
        openings = [_REUSED] * len(s.seq)
        if any(map(max, s.dns_ns, s.connect_ns, s.tls_ns)):
            openings = [
                _OPENING % (dns / NS_PER_MS, connect / NS_PER_MS, tls / NS_PER_MS) if dns or connect or tls else _REUSED
                for dns, connect, tls in zip(s.dns_ns, s.connect_ns, s.tls_ns, strict=True)
            ]
        lines = [
            _SERVED
            % (
                seq, _PHASES[phase], seconds[(wall := wall_ns + start) // NS_PER_S], wall % NS_PER_S // 1000,
                targets[target], status, ttfb / NS_PER_MS, total / NS_PER_MS, opening, (start - due) / NS_PER_MS,
                _JSON_BOOL[cold], _JSON_BOOL[reused], retries, size, _STAMPS[stamp], tail,
            )
            for (
                seq, phase, due, start, target, status, ttfb, total, opening, cold, reused, retries, size, stamp, tail,
            ) in zip(
                s.seq, s.phase, s.due_ns, s.start_ns, s.target, s.status, s.ttfb_ns, s.total_ns, openings, s.cold,
                s.reused, s.retries, s.bytes_read, s.stamp, tails, strict=True,
            )
        ]  # fmt: skip
        return "".join(lines).encode()


class _Seconds(dict[int, str]):
    """The text of a second since the epoch, up to and with the point: `2026-11-24T05:02:40.`"""

    def __missing__(self, second: int) -> str:
        if len(self) >= 3600:  # a run can take days
            self.clear()
        text = self[second] = rfc3339(second * NS_PER_S)[:20]
        return text


class LineFile(Protocol):
    """What a line can be written to."""

    def write(self, data: bytes, /) -> int:
        """Write all of `data`."""

    def flush(self) -> None:
        """Hand what was written to the kernel."""


class LineLogger:
    """Writes the lines that are not on the hot path: start, heartbeat, end. Each is flushed to the file at once."""

    def __init__(self, file: LineFile) -> None:
        self._logger = structlog.wrap_logger(
            structlog.BytesLogger(cast(BinaryIO, file)),  # it calls write and flush, and nothing else
            processors=[_event_first, structlog.processors.JSONRenderer(serializer=_dumps)],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write `event` with `fields` (JSON values) as one line. Raises OSError as the file does."""
        self._logger.info(event, **fields)


def decode(line: bytes) -> dict[str, Any]:
    """The object of one log line, `event` among its keys. Raises CodecError when it is not one of ours."""
    try:
        doc = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise CodecError(f"not JSON: {error}") from None
    event = doc.get("event") if isinstance(doc, dict) else None
    if not isinstance(event, str) or event not in EVENTS:
        raise CodecError("JSON, but not a line of a workload-generator log (no known `event`)")
    return cast(dict[str, Any], doc)


def _event_first(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {"event": event.pop("event"), **event}


def _dumps(value: Any, **_options: Any) -> bytes:
    return orjson.dumps(value)


def _json_text(text: str) -> str:
    return orjson.dumps(clean(text)).decode()


def _segments(number: int) -> str:
    return f',"segments":{number}' if number != 1 else ""


def _ms(ns: int | None) -> str:
    return "null" if ns is None else f"{ns / NS_PER_MS:.3f}"
