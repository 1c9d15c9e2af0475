"""Reads CloudEvents from HTTP requests, strictly: binary, structured or batched.

Rules:
- bytes in, events or a refusal out: no sockets, no clocks
- a batch with an invalid event is refused as a whole
- data is not inspected in binary mode; in the other modes it is part of the JSON document

Sources: CloudEvents 1.0.2, its HTTP protocol binding and its JSON event format
(https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson

from workload_generator.base.errors import RequestRefused

STRUCTURED_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"

_REQUIRED = ("specversion", "id", "source", "type")
_NAME = re.compile(r"[a-z0-9]+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


class Incoming(NamedTuple):
    """The attributes and extensions of one event, as text."""

    id: str
    attributes: dict[str, str]

    @property
    def sequence(self) -> str:
        """The extension `sequence`; empty without one."""
        return self.attributes.get("sequence", "")


def is_cloudevents(content_type: str) -> bool:
    """Whether the body is one or more events, and not only the data of one."""
    return content_type.startswith("application/cloudevents")


def read_events(headers: Iterable[tuple[str, str]], body: bytes) -> list[Incoming]:
    """The events of a request; a batch may be empty. Raises RequestRefused.

    Bytes of `headers` that are not UTF-8 are surrogate escapes.
    """
    attributes: dict[str, str] = {}
    content_type = ""
    for name, value in headers:
        lower = name.lower()
        if lower.startswith("ce-"):
            key = lower[3:]
            if key in attributes:
                raise RequestRefused(400, f"the header {lower} is there twice")
            attributes[key] = value
        elif lower == "content-type":
            content_type = value.strip()
    kind = content_type.partition(";")[0].strip().lower()
    if is_cloudevents(kind):
        if kind == STRUCTURED_TYPE:
            return [_structured(_json(body))]
        if kind == BATCH_TYPE:
            events = _json(body)
            if not isinstance(events, list):
                raise RequestRefused(400, "expected a batch as a JSON array of events")
            return [_structured(event) for event in events]
        raise RequestRefused(415, f"{kind[:80]}: expected JSON ({STRUCTURED_TYPE}, {BATCH_TYPE}) or ce-* headers")
    if not attributes:
        raise RequestRefused(415, f"not a CloudEvent: neither ce-* headers nor the Content-Type {STRUCTURED_TYPE}")
    return [_checked({name: _decoded(name, value) for name, value in attributes.items()})]


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestRefused(400, f"the body is not JSON in UTF-8: {error}") from None


def _structured(document: Any) -> Incoming:
    if not isinstance(document, dict):
        raise RequestRefused(400, "expected an event as a JSON object")
    attributes: dict[str, str] = {}
    for name, value in document.items():
        if name in ("data", "data_base64"):
            continue
        if value is None:
            continue  # null is the same as absent
        if isinstance(value, bool):
            attributes[name] = "true" if value else "false"
        elif isinstance(value, str | int):
            if name in _REQUIRED and not isinstance(value, str):
                raise RequestRefused(400, f"the attribute {name} is not text")
            attributes[name] = str(value)
        else:
            raise RequestRefused(400, f"the attribute {name[:80]} is not text, a number or a boolean")
    if "data" in document and "data_base64" in document:
        raise RequestRefused(400, "expected data or data_base64, not both")
    return _checked(attributes)


def _decoded(name: str, value: str) -> str:
    """A header's value: percent-encoded UTF-8, perhaps as a quoted string (HTTP binding, section 3.1.3.2)."""
    text = value.strip(" \t")
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        text = re.sub(r"\\(.)", r"\1", quoted[1])
    raw = text.encode("utf-8", "surrogateescape")
    if raw.isascii() and b"%" not in raw:
        return text
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RequestRefused(400, f"the header ce-{name[:80]} is not UTF-8") from None


def _checked(attributes: dict[str, str]) -> Incoming:
    missing = [name for name in _REQUIRED if not attributes.get(name)]
    if missing:
        raise RequestRefused(400, f"no {', no '.join(missing)}; required attributes: {', '.join(_REQUIRED)}")
    if attributes["specversion"] != "1.0":
        raise RequestRefused(400, f"specversion {attributes['specversion'][:20]!r}: only 1.0 is supported")
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise RequestRefused(400, f"{name[:80]!r} is not an attribute name: expected lower-case letters and digits")
        if _CONTROL.search(value):
            raise RequestRefused(400, f"the attribute {name} has a control character")
    time = attributes.get("time")
    if time is not None and not _TIME.fullmatch(time):
        raise RequestRefused(400, f"the time {time[:40]!r} is not RFC 3339")
    return Incoming(attributes["id"], attributes)
