"""Lines of the original generator's logs: Go's `slog` text, `key=value`, values quoted when needed.

Rules:
- `msg=Success` is a response with any status; `msg="Request error"` is a request without one, and has a row as well
- the original does not mark its ramp, so every line counts as measured
- its timestamps are those of logging: the end of a request, not its start
- a line that is not slog text is None; one that is but is no result, such as "Loaded configuration", is ignored
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from workload_generator.base.clock import NS_PER_MS, format_duration, parse_duration
from workload_generator.log.records import ErrorKind

COLUMNS = (
    "timestamp", "status", "ttfb", "total_time", "is_cold", "dns_time", "connect_time", "tls_time", "error_message",
    "event_id", "target", "phase", "error_kind", "ok",
)  # fmt: skip

SUCCESS = "Success"
FAILURE = "Request error"
LOADED = "Loaded configuration"

_PAIR = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?: |$)')
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"'])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([0-7]{3}))")
_SIMPLE = dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))
_COLD = {"true": 1, "false": 0}
_UNITS_MS = (("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6))

# What Go's errors say, most telling first: `Get "http://…": dial tcp …: i/o timeout` is about connecting.
_KINDS = (
    (ErrorKind.CANCELLED, re.compile(r"context canceled")),
    (ErrorKind.DNS, re.compile(r"no such host|server misbehaving|name resolution|lookup [^ ]+( on [^ ]+)?: ")),
    (ErrorKind.TLS, re.compile(r"\btls: |\bx509: |TLS handshake|HTTP response to HTTPS client")),
    (ErrorKind.CONNECT_REFUSED, re.compile(r"connection refused")),
    (ErrorKind.CONNECT_TIMEOUT, re.compile(r"dial [a-z0-9]+ [^ ]+: (i/o timeout|connect: connection timed out)")),
    (ErrorKind.TIMEOUT, re.compile(r"deadline exceeded|Client\.Timeout|[tT]imeout")),
    (ErrorKind.PROTOCOL, re.compile(r"malformed|invalid header|bad Content-Length|http2: |Unsolicited response")),
    (ErrorKind.BODY, re.compile(r"unexpected EOF|http: unexpected end")),
    (
        ErrorKind.RESET,
        re.compile(r"connection reset|broken pipe|\bEOF$|server closed|use of closed network connection"),
    ),
)


def parse(line: str) -> dict[str, str] | None:
    """Keys and values of one slog line; None when it is none. `line` is without its newline."""
    fields: dict[str, str] = {}
    position, end = 0, len(line)
    while position < end:
        match = _PAIR.match(line, position)
        if match is None:
            return None
        key, value = match.groups()
        fields[key] = _unquoted(value) if value.startswith('"') else value
        position = match.end()
    return fields if fields.keys() >= {"time", "level", "msg"} else None


def row_of(fields: dict[str, str]) -> tuple[object, ...] | None:
    """The row of a result, in the order of `COLUMNS`; None when the line is no result.

    Raises ValueError or KeyError when it should be one and is not whole.
    """
    message = fields["msg"]
    if message == FAILURE:
        return _failure(fields)
    if message != SUCCESS:
        return None
    status = int(fields["status"])
    return (
        timestamp(fields["time"]),
        status,
        _ms(fields.get("TTFB")),
        _ms(fields.get("Total")),
        _COLD.get(fields.get("isCold", "")),
        _ms(fields.get("DNS")),
        _ms(fields.get("Connect")),
        _ms(fields.get("TLS")),
        None,
        fields.get("id"),
        fields["target"],
        "measure",
        None,
        int(200 <= status < 300),
    )


def error_kind(text: str) -> ErrorKind:
    """The kind that one of Go's error texts belongs to."""
    return next((kind for kind, pattern in _KINDS if pattern.search(text)), ErrorKind.OTHER)


def timestamp(text: str) -> str:
    """A slog time as the database holds times: UTC, microseconds. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    seconds, fraction, zone = match.groups()
    if zone != "Z":
        seconds = datetime.fromisoformat(seconds + zone).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{(fraction or '')[:6]:0<6}Z"


def settings(config: str) -> dict[str, Any]:
    """The experiment's columns that a logged configuration tells: Go's `%+v` of it, or JSON."""
    found: dict[str, Any] = {}
    for column, key, read in _SETTINGS:
        match = re.search(rf"\b{key}\b[\"']?\s*[:=]\s*[\"']?([0-9][0-9a-zµ.]*)", config, re.IGNORECASE)
        if match is None:
            continue
        try:
            found[column] = read(match[1])
        except ValueError:
            continue
    return found


def _duration(text: str) -> str:
    return format_duration(int(text)) if text.isdecimal() else format_duration(parse_duration(text))


_SETTINGS = (
    ("requests_per_second", "requestsPerSecond", float),
    ("duration", "duration", _duration),
    ("max_idle_conns", "maxIdleConns", int),
    ("max_idle_conns_per_host", "maxIdleConnsPerHost", int),
    ("idle_conn_timeout", "idleConnTimeout", _duration),
    ("timeout", "timeout", _duration),
)


def _failure(fields: dict[str, str]) -> tuple[object, ...]:
    text = fields["error"]
    return (
        timestamp(fields["time"]),
        0,
        _ms(fields.get("TTFB")),
        _ms(fields.get("Total")),
        None,
        _ms(fields.get("DNS")),
        _ms(fields.get("Connect")),
        _ms(fields.get("TLS")),
        text,
        fields.get("id"),
        fields["target"],
        "measure",
        error_kind(text).value,
        0,
    )


def _ms(duration: str | None) -> float | None:
    """Milliseconds of a Go duration, three decimals as everywhere in the database."""
    if duration is None:
        return None
    if duration == "0s":
        return 0.0
    for unit, ms in _UNITS_MS:
        number = duration.removesuffix(unit)
        if number != duration and number.replace(".", "", 1).isdecimal():
            return round(float(number) * ms, 3)
    return round(parse_duration(duration) / NS_PER_MS, 3)


def _unquoted(text: str) -> str:
    """The text of a quoted Go string. Source: https://pkg.go.dev/strconv#Quote"""
    return _ESCAPE.sub(_character, text[1:-1]) if "\\" in text else text[1:-1]


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return _SIMPLE[match[1]]
    if match[2] or match[5]:
        return f"\\x{int(match[2] or match[5], 16 if match[2] else 8):02x}"  # a byte that is no text stays an escape
    code = int(match[3] or match[4], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"
