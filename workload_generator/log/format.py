"""The format of the log: records to lines, and lines to records.

A log is one JSON object a line, in UTF-8. The first line is `run_started`, the last is `run_finished`. Between them are
a `request` for each result and a `progress` heartbeat each second. Request lines are formatted by hand, since there can
be tens of thousands a second; the others go through structlog.

Rules:
- times are milliseconds with three decimals; null means that the point was not reached
- text from outside (messages, instances, URLs) may hold any byte; invalid UTF-8 becomes a backslash escape, so that
  every line is valid UTF-8 and valid JSON
- a line is written whole, with its newline; a line without one is torn, and readers ignore it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

import orjson

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, rfc3339
from workload_generator.log.records import Block, ErrorKind, Phase, Result

if TYPE_CHECKING:
    from structlog.typing import EventDict

SCHEMA = 1

RUN_STARTED = "run_started"
REQUEST = "request"
PROGRESS = "progress"
COLD_START = "cold_start"
COLD_BURST = "cold_burst"
RUN_FINISHED = "run_finished"
EVENTS = frozenset({RUN_STARTED, REQUEST, PROGRESS, COLD_START, COLD_BURST, RUN_FINISHED})

KUBERNETES, LOCAL, HOST = "kubernetes", "local", "host"
"""The kind of platform that a run measures."""

_PHASES = tuple(phase.label for phase in Phase)
_JSON_BOOL = {None: "null", False: "false", True: "true"}
_MOST_TEXTS = 20_000
_DIGITS = [f"{number:03d}" for number in range(1000)]


class LogFormatError(ValueError):
    """The line does not belong to a log; `str()` is the reason."""


def clean(text: str) -> str:
    """`text` with lone surrogates as backslash escapes, so that it can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def text_of(raw: bytes) -> str:
    """Bytes from the network as text; invalid UTF-8 becomes `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


class ResultEncoder:
    """Formats the request lines of one run. `start` is the wall-clock time of offset 0.

    In event mode the event of a result has the id `<event_prefix><seq>`; a dropped arrival has no event.

    Repeated parts are formatted once and cached: milliseconds of the wall clock, times in whole microseconds, and the
    parts that a block's lines share.
    """

    def __init__(self, targets: Sequence[str], start: Anchor, event_prefix: str | None = None) -> None:
        self._targets = [_json_text(target) for target in targets]
        start_ms, self._beyond_ms_ns = divmod(start.wall_ns, NS_PER_MS)
        self._event = None if event_prefix is None else f',"event_id":{_json_text(event_prefix)[:-1]}'
        seconds = _Texts(lambda second: rfc3339(second * NS_PER_S)[:20])
        self._clock = _Texts(lambda ms: f"{seconds[(start_ms + ms) // 1000]}{_DIGITS[(start_ms + ms) % 1000]}")
        self._ms = _Texts(_ms_text)

    def encode(self, block: Block, ok: Sequence[bool]) -> bytes:
        """The lines of a block's results. `ok` says of each shape whether the experiment expects the response."""
        beyond_ms_ns, clock, digits, ms = self._beyond_ms_ns, self._clock, _DIGITS, self._ms
        texts = list(zip(*map(self._texts, block.shapes, ok), strict=True))
        columns: list[Iterable[str]] = [map(of_shape.__getitem__, block.shape) for of_shape in texts]
        if len(block.shapes) == 1:
            columns = [repeat(of_shape[0]) for of_shape in texts]
        if self._event is not None:
            columns[3] = self._with_events(block, self._event, columns[3])
        ttfbs = self._times(block.ttfb_ns)
        totals = ttfbs if block.in_one_piece else self._times(block.total_ns)
        lags: Iterable[str] = repeat(ms[0])
        if not block.in_time:
            lags = [
                ms[(start_ns - due_ns + 500) // 1000]
                for start_ns, due_ns in zip(block.start_ns, block.due_ns, strict=True)
            ]
        rows = zip(block.seq, block.start_ns, ttfbs, totals, lags, *columns, strict=False)
        lines = [
            f'{{"event":"request","seq":{seq}{phase}{clock[(us := (start + beyond_ms_ns) // 1000) // 1000]}'
            f'{digits[us % 1000]}{target}{ttfb},"total":{total}{opening}{lag}{tail}\n'
            for seq, start, ttfb, total, lag, phase, target, opening, tail in rows
        ]
        return "".join(lines).encode()

    def _times(self, column: Sequence[int]) -> list[str]:
        ms = self._ms
        if min(column) >= 0:
            return [ms[(ns + 500) // 1000] for ns in column]
        return ["null" if ns < 0 else ms[(ns + 500) // 1000] for ns in column]

    @staticmethod
    def _with_events(block: Block, event: str, tails: Iterable[str]) -> Iterable[str]:
        """The ends of the lines, with event ids; a dropped arrival has none."""
        dropped = [shape.error is ErrorKind.DROPPED for shape in block.shapes]
        if not any(dropped):
            return (f'{event}{seq}"{tail}' for seq, tail in zip(block.seq, tails, strict=False))
        rows = zip(block.seq, block.shape, tails, strict=False)
        return (tail if dropped[index] else f'{event}{seq}"{tail}' for seq, index, tail in rows)

    def _texts(self, shape: Result, ok: bool) -> tuple[str, str, str, str]:
        """The parts of a line before its time, before its TTFB, before its lag, and after it."""
        dns, connect, tls = map(_ms, (shape.dns_ns, shape.connect_ns, shape.tls_ns))
        stamp = "null" if shape.stamp is None else f'"{shape.stamp}"'
        tail = f',"cold":{_JSON_BOOL[shape.cold]},"reused":{_JSON_BOOL[shape.reused]},"retries":{shape.retries},'
        tail += f'"bytes":{shape.bytes_read},"stamp":{stamp}'
        if shape.stamp is not None and shape.segments != 1:
            tail += f',"segments":{shape.segments}'
        if shape.instance is not None:
            tail += f',"instance":{_json_text(shape.instance)}'
        if shape.address is not None:
            tail += f',"address":{_json_text(shape.address)}'
        if shape.event_id is not None:
            tail += f',"event_id":{_json_text(shape.event_id)}'
        if shape.error is not None:
            tail += f',"error":"{shape.error}","message":{_json_text(shape.message or "")}'
        elif not ok:
            tail += ',"expected":false'
        return (
            f',"phase":"{_PHASES[shape.phase]}","time":"',
            f'Z","target":{self._targets[shape.target]},"status":{shape.status},"ttfb":',
            f',"dns":{dns},"connect":{connect},"tls":{tls},"lag":',
            f"{tail}}}",
        )


def _ms(ns: int | None) -> str:
    return "null" if ns is None else _ms_text((ns + 500) // 1000)


def _ms_text(us: int) -> str:
    """Milliseconds with three decimals."""
    whole, rest = divmod(abs(us), 1000)
    return f"{'-' if us < 0 else ''}{whole}.{_DIGITS[rest]}"


class _Texts(dict[int, str]):
    """Texts by number, cached; cleared when full."""

    def __init__(self, make: Callable[[int], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: int) -> str:
        if len(self) >= _MOST_TEXTS:
            self.clear()
        text = self[key] = self._make(key)
        return text


class LineLogger:
    """Writes the rare lines: start, heartbeats, end. `file` has `write` and `flush`; each line is flushed."""

    def __init__(self, file: Any) -> None:
        import structlog  # it imports rich and pygments, which readers of logs do not need

        self._logger = structlog.wrap_logger(
            structlog.BytesLogger(file),
            processors=[_event_first, structlog.processors.JSONRenderer(serializer=_dumps)],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=True,
        )

    def write(self, event: str, fields: dict[str, Any]) -> None:
        """Write `event` with `fields` (JSON values) as one line. Raises OSError when the file does."""
        self._logger.info(event, **fields)


def decode(line: bytes) -> dict[str, Any]:
    """The object of one log line, with its `event`. Raises LogFormatError when the line does not belong to a log."""
    try:
        doc = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LogFormatError(f"not JSON: {error}") from None
    event = doc.get("event") if isinstance(doc, dict) else None
    if not isinstance(event, str) or event not in EVENTS:
        raise LogFormatError("not a line of a workload-generator log: it has no known `event`")
    return cast(dict[str, Any], doc)


def _event_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {"event": event.pop("event"), **event}


def _dumps(value: Any, **_options: Any) -> bytes:
    return orjson.dumps(value)


def _json_text(text: str) -> str:
    return orjson.dumps(clean(text)).decode()
