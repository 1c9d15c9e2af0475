"""Encodes CloudEvents as HTTP requests. The SDK encodes one event of a run; the parts that differ are filled in.

Rules:
- the id of an event is `<run id>-<seq>`, its `time` the start of its request, its `sequence` the number in twelve
  digits, which also sorts as text (https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md)
- the SDK's event has marks for the parts that differ; marks are random, so that no text of a user matches one
- the second and the content length change rarely and are filled in when they do, so that an event costs one formatting
  of its number and its microseconds
- data is text; in a template `${seq}`, `${id}` and `${time}` are replaced by those of the event
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

import orjson

from workload_generator.base.clock import NS_PER_S, rfc3339
from workload_generator.base.errors import UsageError

BINARY, STRUCTURED = "binary", "structured"
MODES = (BINARY, STRUCTURED)
PLACEHOLDERS = ("seq", "id", "time")

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
JSON_TYPE = re.compile(r"(application|text)/([a-zA-Z0-9.-]+\+)?json(;.*)?", re.DOTALL)

_SEQ, _MICROSECOND = range(2)
_SECOND = secrets.token_hex(12).encode()  # the mark of the time up to the second
_TIME = "2000-01-01T00:00:00.123456Z"


@dataclass(frozen=True, slots=True)
class Draft:
    """The common parts of the events of a run. `data` None means no data; `is_template`: it has placeholders."""

    type: str
    source: str
    mode: str = BINARY
    content_type: str | None = None
    data: str | None = None
    is_template: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_json(self) -> bool:
        """Whether the data is JSON, which is the default content type (CloudEvents 1.0, section 3.1.1)."""
        return self.content_type is None or JSON_TYPE.fullmatch(self.content_type) is not None


def data_of_size(size: int) -> str:
    """JSON text of exactly `size` bytes, a string."""
    return '"' + "x" * (size - 2) + '"' if size > 1 else "0" * size


class EventEncoder:
    """Encodes the events of one run. `head(headers, length mark)` returns the head of the request; it is called once.

    Call `begin` before the first event.
    """

    def __init__(self, draft: Draft, id_prefix: str, head: Callable[[Mapping[str, str], int], bytes]) -> None:
        id_mark, sequence_mark, seq_mark, data_mark = (secrets.token_hex(12) for _ in range(4))
        headers, body = _build(draft, id_mark, sequence_mark, data_mark)
        holes = {
            id_mark.encode(): (id_prefix.replace("%", "%%").encode() + b"%d", _SEQ),
            sequence_mark.encode(): (b"%012d", _SEQ),
            seq_mark.encode(): (b"%d", _SEQ),
            _TIME.encode(): (_SECOND + b"%06dZ", _MICROSECOND),
        }
        data = draft.data or ""
        if draft.is_template:
            marks = {"seq": seq_mark, "id": id_mark, "time": _TIME}
            data = PLACEHOLDER.sub(lambda match: marks[match[1]], data)
        if draft.mode == BINARY:
            body = data.encode()
        else:
            body = body.replace(orjson.dumps(data_mark), data.encode() if draft.has_json else orjson.dumps(data))
        length_mark = int(secrets.token_hex(7), 16) + 10**16  # no body has this length
        self._length_mark = str(length_mark).encode()
        self._body, body_kinds = _with_holes(body, holes)
        self._head, head_kinds = _with_holes(head(headers, length_mark), holes)
        self._same = b"" if body_kinds else body  # the body of all events, if it never changes
        self._pick = _picker(head_kinds + body_kinds)
        self._pick_body = _picker(body_kinds)
        self._format = b""
        self._offset_ns = 0
        self._second = -1
        self._lowest = self._limit = 0  # the range of numbers with as many digits as the last one

    def begin(self, offset_ns: int) -> None:
        """Set the offset between the wall clock and the monotonic clock."""
        self._offset_ns = offset_ns

    def encode(self, seq: int, start_ns: int) -> bytes:
        """The request of event `seq`, which starts at `start_ns` on the monotonic clock."""
        second, rest_ns = divmod(start_ns + self._offset_ns, NS_PER_S)
        if second != self._second or not self._lowest <= seq < self._limit:
            self._turn(second, seq)
        varying: bytes = self._format % self._pick((seq, rest_ns // 1000))
        return varying + self._same

    def _turn(self, second: int, seq: int) -> None:
        """Fill in a new second or a new number of digits."""
        digits = len(str(seq))
        self._second = second
        self._lowest, self._limit = 10 ** (digits - 1) if digits > 1 else 0, 10**digits
        text = rfc3339(second * NS_PER_S)[:20].encode()  # 2026-11-25T08:00:00.
        body = b"" if self._same else self._body.replace(_SECOND, text)
        length = len(self._same or body % self._pick_body((seq, 0)))
        head = self._head.replace(_SECOND, text).replace(self._length_mark, b"%d" % length)
        self._format = head + body


def _with_holes(text: bytes, holes: Mapping[bytes, tuple[bytes, int]]) -> tuple[bytes, list[int]]:
    """The text as a format string, and the kinds of its values in their order."""
    pattern = re.compile(b"|".join(map(re.escape, holes)))
    kinds = [holes[match[0]][1] for match in pattern.finditer(text)]
    return pattern.sub(lambda match: holes[match[0]][0], text.replace(b"%", b"%%")), kinds


def _picker(kinds: list[int]) -> Callable[[tuple[int, int]], Any]:
    return itemgetter(*kinds) if kinds else lambda _: ()


def _build(draft: Draft, id_mark: str, seq_mark: str, data_mark: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of one event with marks, encoded by the SDK. Raises UsageError."""
    # Imported here: it takes 100 ms, and only event mode needs it.
    from cloudevents.core.bindings.http import to_binary_event, to_structured_event
    from cloudevents.core.exceptions import CloudEventValidationError
    from cloudevents.core.v1.event import CloudEvent

    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": id_mark,
        "source": draft.source,
        "type": draft.type,
        "time": datetime(2000, 1, 1, 0, 0, 0, 123456, UTC),
        "sequence": seq_mark,
    }
    if draft.content_type is not None and draft.data is not None:
        attributes["datacontenttype"] = draft.content_type
    attributes |= draft.attributes
    try:
        event = CloudEvent(attributes, None if draft.data is None else data_mark)
    except CloudEventValidationError as error:
        problems = [str(problem) for each in error.errors.values() for problem in each]
        raise UsageError(f"the settings do not make a valid CloudEvent: {'; '.join(problems)}") from None
    _check_data(draft)
    message = to_binary_event(event) if draft.mode == BINARY else to_structured_event(event)
    return dict(message.headers), message.body


def _check_data(draft: Draft) -> None:
    if not draft.data or not draft.has_json:
        return
    samples = {"seq": "1", "id": "run-1", "time": _TIME}
    text = PLACEHOLDER.sub(lambda match: samples[match[1]], draft.data) if draft.is_template else draft.data
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if draft.mode == STRUCTURED:  # it would make the event invalid; in binary mode data is any bytes
            raise UsageError(f"the data of the event is not JSON, but its content type is: {error}") from None
