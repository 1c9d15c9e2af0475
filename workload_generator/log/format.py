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
from itertools import repeat
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

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
"""What kind of platform a run measures."""

_PHASES = tuple(phase.label for phase in Phase)
_JSON_BOOL = {None: "null", False: "false", True: "true"}
_MOST_TEXTS = 20_000
_DIGITS = [f"{number:03d}" for number in range(1000)]


class LogFormatError(ValueError):
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

    What repeats from line to line is formatted once: milliseconds of the wall clock, times in whole microseconds, and
    for each block what its lines have in common.
    """

    def __init__(self, targets: Sequence[str], start: Anchor, event_prefix: str | None = None) -> None:
        self._targets = [_json_text(target) for target in targets]
        start_ms, self._beyond_ms_ns = divmod(start.wall_ns, NS_PER_MS)
        self._event = None if event_prefix is None else f',"event_id":{_json_text(event_prefix)[:-1]}'
        seconds = _Texts(lambda second: rfc3339(second * NS_PER_S)[:20])
        self._clock = _Texts(lambda ms: f"{seconds[(start_ms + ms) // 1000]}{_DIGITS[(start_ms + ms) % 1000]}")
        self._ms = _Texts(_ms_text)

    def encode(self, block: Block, ok: Sequence[bool]) -> bytes:
        """The lines of a block's results, each with its newline. `ok` is by shape: whether the response is expected."""
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
        """The ends of the lines with the ids of their events; what was dropped has none."""
        dropped = [shape.error is ErrorKind.DROPPED for shape in block.shapes]
        if not any(dropped):
            return (f'{event}{seq}"{tail}' for seq, tail in zip(block.seq, tails, strict=False))
        rows = zip(block.seq, block.shape, tails, strict=False)
        return (tail if dropped[index] else f'{event}{seq}"{tail}' for seq, index, tail in rows)

    def _texts(self, shape: Result, ok: bool) -> tuple[str, str, str, str]:
        """What stands in a line before its time, its TTFB and its lag, and behind that."""
        dns, connect, tls = map(_ms, (shape.dns_ns, shape.connect_ns, shape.tls_ns))
        stamp = "null" if shape.stamp is None else f'"{shape.stamp}"'
        tail = f',"cold":{_JSON_BOOL[shape.cold]},"reused":{_JSON_BOOL[shape.reused]},"retries":{shape.retries},'
        tail += f'"bytes":{shape.bytes_read},"stamp":{stamp}'
        if shape.stamp is not None and shape.segments != 1:
            tail += f',"segments":{shape.segments}'
        if shape.instance is not None:
            tail += f',"instance":{_json_text(shape.instance)}'
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
    """Texts of numbers, made once; begun anew when there are too many."""

    def __init__(self, make: Callable[[int], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: int) -> str:
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
        import structlog  # it brings rich and pygments: too much for those who only read logs

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
    """The object of one log line, `event` among its keys. Raises LogFormatError when it is not one of ours."""
    try:
        doc = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LogFormatError(f"not JSON: {error}") from None
    event = doc.get("event") if isinstance(doc, dict) else None
    if not isinstance(event, str) or event not in EVENTS:
        raise LogFormatError("JSON, but not a line of a workload-generator log (no known `event`)")
    return cast(dict[str, Any], doc)


def _event_first(_logger: object, _method: str, event: EventDict) -> EventDict:
    return {"event": event.pop("event"), **event}


def _dumps(value: Any, **_options: Any) -> bytes:
    return orjson.dumps(value)


def _json_text(text: str) -> str:
    return orjson.dumps(clean(text)).decode()
