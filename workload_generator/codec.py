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
from workload_generator.records import Phase, Result

SCHEMA = 1

RUN_STARTED = "run_started"
REQUEST = "request"
PROGRESS = "progress"
RUN_FINISHED = "run_finished"
EVENTS = frozenset({RUN_STARTED, REQUEST, PROGRESS, RUN_FINISHED})

# A served request: every time was reached. The rarer lines with nulls are built field by field.
_SERVED = (
    '{"event":"request","seq":%d,"phase":"%s","time":"%s","target":%s,"status":%d,"ttfb":%.3f,"total":%.3f,"dns":%.3f,'
    '"connect":%.3f,"tls":%.3f,"lag":%.3f,"cold":%s,"reused":%s,"retries":%d,"bytes":%d,"stamp":"%s"'
)
_OTHER = (
    '{"event":"request","seq":%d,"phase":"%s","time":"%s","target":%s,"status":%d,"ttfb":%s,"total":%s,"dns":%s,'
    '"connect":%s,"tls":%s,"lag":%.3f,"cold":%s,"reused":%s,"retries":%d,"bytes":%d,"stamp":%s'
)
_PHASES = tuple(phase.label for phase in Phase)
_JSON_BOOL = {None: "null", True: "true", False: "false"}


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
        self._second = -1
        self._second_text = ""
        self._known_instances: dict[str, str] = {}

    def encode(self, r: Result, ok: bool) -> bytes:
        """One log line, its newline included. `ok` is whether the experiment expects such a response."""
        second, rest_ns = divmod(self._start_wall_ns + r.start_ns, NS_PER_S)
        if second != self._second:
            self._second, self._second_text = second, rfc3339(second * NS_PER_S)[:20]
        time = f"{self._second_text}{rest_ns // 1000:06d}Z"
        cold, reused = _JSON_BOOL[r.cold], _JSON_BOOL[r.reused]
        lag = r.lag_ns / NS_PER_MS
        head: tuple[object, ...] = (r.seq, _PHASES[r.phase], time, self._targets[r.target], r.status)
        tail: tuple[object, ...] = (lag, cold, reused, r.retries, r.bytes_read)
        if (
            r.ttfb_ns is not None
            and r.total_ns is not None
            and r.dns_ns is not None
            and r.connect_ns is not None
            and r.tls_ns is not None
            and r.stamp is not None
        ):
            times = (
                r.ttfb_ns / NS_PER_MS,
                r.total_ns / NS_PER_MS,
                r.dns_ns / NS_PER_MS,
                r.connect_ns / NS_PER_MS,
                r.tls_ns / NS_PER_MS,
            )
            line = _SERVED % (*head, *times, *tail, r.stamp)
        else:
            nullable = (r.ttfb_ns, r.total_ns, r.dns_ns, r.connect_ns, r.tls_ns)
            stamp = "null" if r.stamp is None else f'"{r.stamp}"'
            line = _OTHER % (*head, *map(_ms, nullable), *tail, stamp)
        if r.instance is not None:
            line += f',"instance":{self._instance(r.instance)}'
        if r.event_id is not None:
            line += f',"event_id":{_json_text(r.event_id)}'
        if not ok and r.error is None:
            line += ',"expected":false'
        if r.error is not None:
            line += f',"error":"{r.error}","message":{_json_text(r.message or "")}'
        return (line + "}\n").encode()

    def _instance(self, name: str) -> str:
        known = self._known_instances.get(name)
        if known is None:
            if len(self._known_instances) >= 4096:  # names come from the target: never let them grow without bound
                self._known_instances.clear()
            known = self._known_instances[name] = _json_text(name)
        return known


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


def _ms(ns: int | None) -> str:
    return "null" if ns is None else f"{ns / NS_PER_MS:.3f}"
