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

from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import orjson
import structlog

from workload_generator.clock import NS_PER_S, Anchor, rfc3339
from workload_generator.records import NO_TEXT, NONE, Block, ErrorKind, Phase, Result, Stamp

K = TypeVar("K")

SCHEMA = 1

RUN_STARTED = "run_started"
REQUEST = "request"
PROGRESS = "progress"
RUN_FINISHED = "run_finished"
EVENTS = frozenset({RUN_STARTED, REQUEST, PROGRESS, RUN_FINISHED})

_PHASES = tuple(phase.label for phase in Phase)
_STAMPS = tuple(stamp.value for stamp in Stamp)
_JSON_BOOL = {NONE: "null", 0: "false", 1: "true"}
_REUSED = '"dns":0.000,"connect":0.000,"tls":0.000'
_MOST_TEXTS = 20_000
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
    """Formats the request lines of one run. `start` anchors the offsets of its results to the wall clock.

    In event mode a result's event has the id `<event_prefix><seq>`; one that was dropped was never made.

    What repeats from line to line is formatted once: seconds, times in whole microseconds, and the parts of a line
    that hold no time.
    """

    def __init__(self, targets: Sequence[str], start: Anchor, event_prefix: str | None = None) -> None:
        self._start_wall_ns = start.wall_ns
        self._event = None if event_prefix is None else f',"event_id":{_json_text(event_prefix)[:-1]}'
        self._seconds = _Texts[int](lambda second: rfc3339(second * NS_PER_S)[:20])
        self._ms = _Texts[int](_ms_text)
        texts = [_json_text(target) for target in targets]
        self._heads = _Texts[tuple[int, int]](lambda key: f'"target":{texts[key[0]]},"status":{key[1]}')
        self._tails = _Texts[_Tail](_tail_text)

    def encode(self, r: Result, ok: bool) -> bytes:
        """One log line, its newline included. `ok` is whether the experiment expects such a response."""
        second, rest_ns = divmod(self._start_wall_ns + r.start_ns, NS_PER_S)
        ttfb, total, dns, connect, tls, lag = (
            "null" if ns is None else self._ms[(ns + 500) // 1000]
            for ns in (r.ttfb_ns, r.total_ns, r.dns_ns, r.connect_ns, r.tls_ns, r.lag_ns)
        )
        stamp = NONE if r.stamp is None else _STAMPS.index(r.stamp.value)
        segments = 1 if r.stamp is None else r.segments
        tail = _tail_text(
            (NONE if r.cold is None else r.cold, r.reused, r.retries, r.bytes_read, stamp, segments, r.instance)
        )
        if self._event is not None and r.error is not ErrorKind.DROPPED:
            tail += f'{self._event}{r.seq}"'
        elif r.event_id is not None:
            tail += f',"event_id":{_json_text(r.event_id)}'
        if r.error is not None:
            tail += f',"error":"{r.error}","message":{_json_text(r.message or "")}'
        elif not ok:
            tail += _UNEXPECTED
        line = (
            f'{{"event":"request","seq":{r.seq},"phase":"{_PHASES[r.phase]}",'
            f'"time":"{self._seconds[second]}{rest_ns // 1000:06d}Z",{self._heads[r.target, r.status]},"ttfb":{ttfb},'
            f'"total":{total},"dns":{dns},"connect":{connect},"tls":{tls},"lag":{lag},{tail}}}\n'
        )
        return line.encode()

    def encode_served(self, served: Block, ok: Sequence[bool]) -> bytes:
        """The lines of many results at once; the same as `encode` makes, at a fraction of the cost."""
        s, wall_ns, seconds, ms = served, self._start_wall_ns, self._seconds, self._ms
        names: dict[int, str | None] = {NO_TEXT: None, **dict(enumerate(s.instances))}
        instances = map(names.__getitem__, s.instance)
        heads = map(self._heads.__getitem__, zip(s.target, s.status, strict=True))
        keys = zip(s.cold, s.reused, s.retries, s.bytes_read, s.stamp, s.segments, instances, strict=True)
        tails: Iterable[str] = map(self._tails.__getitem__, keys)
        event = self._event
        if event is not None:
            tails = [f'{tail}{event}{seq}"' for tail, seq in zip(tails, s.seq, strict=True)]
        if not all(ok):
            tails = [tail if fine else tail + _UNEXPECTED for tail, fine in zip(tails, ok, strict=True)]
        openings = [_REUSED] * len(s.seq)
        if any(map(max, s.dns_ns, s.connect_ns, s.tls_ns)):
            openings = [
                f'"dns":{ms[(dns + 500) // 1000]},"connect":{ms[(connect + 500) // 1000]},'
                f'"tls":{ms[(tls + 500) // 1000]}'
                for dns, connect, tls in zip(s.dns_ns, s.connect_ns, s.tls_ns, strict=True)
            ]
        lines = [
            f'{{"event":"request","seq":{seq},"phase":"{_PHASES[phase]}",'
            f'"time":"{seconds[(wall := wall_ns + start) // NS_PER_S]}{wall % NS_PER_S // 1000:06d}Z",{head},'
            f'"ttfb":{ms[(ttfb + 500) // 1000]},"total":{ms[(total + 500) // 1000]},{opening},'
            f'"lag":{ms[(start - due + 500) // 1000]},{tail}}}\n'
            for seq, phase, start, head, ttfb, total, opening, due, tail in zip(
                s.seq, s.phase, s.start_ns, heads, s.ttfb_ns, s.total_ns, openings, s.due_ns, tails, strict=True
            )
        ]
        return "".join(lines).encode()


_Tail = tuple[int, int, int, int, int, int, str | None]
"""cold, reused, retries, bytes, stamp (codes as in a block), segments, instance."""


def _tail_text(key: _Tail) -> str:
    cold, reused, retries, size, stamp, segments, instance = key
    source = "null" if stamp == NONE else f'"{_STAMPS[stamp]}"'
    text = (
        f'"cold":{_JSON_BOOL[cold]},"reused":{_JSON_BOOL[reused]},"retries":{retries},"bytes":{size},"stamp":{source}'
    )
    if segments != 1:
        text += f',"segments":{segments}'
    return text if instance is None else f'{text},"instance":{_json_text(instance)}'


def _ms_text(us: int) -> str:
    """Milliseconds with three decimals."""
    whole, rest = divmod(abs(us), 1000)
    return f"{'-' if us < 0 else ''}{whole}.{rest:03d}"


class _Texts(dict[K, str]):
    """Texts by what they say, made once; begun anew when there are too many."""

    def __init__(self, make: Callable[[K], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> str:
        if len(self) >= _MOST_TEXTS:
            self.clear()
        text = self[key] = self._make(key)
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
