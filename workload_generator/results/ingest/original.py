"""Lines of the original generator's logs: Go's `slog` text, `key=value`, values quoted when needed.

Rules:
- `msg=Success` is a response with any status, `msg="Request error"` a request without a response; both are results
- the original does not mark its ramp, so every line counts as measured
- its timestamps are the times of logging: the end of a request, not its start
- other slog lines, such as "Loaded configuration", have no row
"""

from __future__ import annotations

import hashlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from workload_generator.base.clock import NS_PER_MS, format_duration, parse_duration
from workload_generator.log.format import text_of
from workload_generator.log.records import ErrorKind
from workload_generator.results.database import Store
from workload_generator.results.ingest import naming
from workload_generator.results.ingest.files import UNREADABLE, OtherRow, Row, SkippedFile
from workload_generator.results.ingest.our_log import RateColumns
from workload_generator.results.ingest.reconcile import RunLog

COLUMNS = (
    "timestamp", "status", "ttfb", "total_time", "is_cold", "dns_time", "connect_time", "tls_time", "error_message",
    "event_id", "target", "phase", "error_kind", "ok",
)  # fmt: skip

NOT_A_LOG = "neither a log of this generator nor of the original"
SUCCESS = "Success"
FAILURE = "Request error"
LOADED = "Loaded configuration"

_LONGEST_NUMBER = 19  # SQLite's integers hold all shorter ones
_NUMBERS = {"requests_per_second": float, "max_idle_conns": int, "max_idle_conns_per_host": int}
"""The columns of a configuration other than durations."""

_PAIR = re.compile(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s"]*)(?: |$)')
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\\"'])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([0-7]{3}))")
_SIMPLE = dict(zip("abfnrtv\\\"'", "\a\b\f\n\r\t\v\\\"'", strict=True))
_COLD = {"true": 1, "false": 0}
_UNITS_MS = (("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6))

# Patterns of Go's errors, the most specific first: `Get "http://…": dial tcp …: i/o timeout` is about connecting.
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


class OriginalLog(RunLog):
    """A log of the original, whose name tells the experiment."""

    format = "original"
    columns = (*COLUMNS, "experiment_id", "shard")
    unreadable = "not a line of the original's log"

    def __init__(self, name: str, first: bytes) -> None:
        super().__init__(f"sha256:{hashlib.sha256(first.rstrip()).hexdigest()}")
        try:
            fields = parse(first)
        except ValueError:
            raise SkippedFile(NOT_A_LOG) from None
        try:
            started = timestamp(fields["time"])
        except UNREADABLE as error:
            raise SkippedFile(f"its first line: {error}") from None
        prefix, begun = naming.read_file_name(name)
        self.moments = (started[:19],) if begun is None else (started[:19], f"{begun:%Y-%m-%dT%H:%M:%S}")
        self.experiment = {"timestamp": started, **naming.read_name(prefix), "prefix": prefix, "shards": 1}
        self.origin = {"started": started}
        self._settings: dict[str, Any] = {}

    def take(self, line: bytes) -> Row | Iterable[OtherRow]:
        """The row of a result."""
        fields = parse(line)
        row = row_of(fields)
        if row is not None:
            return row + self.mine
        if fields["msg"] == LOADED and "config" in fields:
            config = fields["config"]
            self._settings = {**settings(config), "config": json.dumps(config, ensure_ascii=False)}
        return []

    def finish(self, store: Store, row: Mapping[str, Any]) -> None:
        """Other programs log in this form, too. Raises SkippedFile."""
        if not row["rows"]:
            raise SkippedFile("a log of the original without a result yet")
        if self._settings:
            store.update("experiments", self.experiment_id, self._settings)
        super().finish(store, row)


def parse(line: bytes) -> dict[str, str]:
    """Keys and values of a slog line. Raises ValueError for any other line."""
    text = text_of(line.removeprefix(BOM_UTF8).rstrip(b"\r\n"))
    fields: dict[str, str] = {}
    position, end = 0, len(text)
    while position < end and (match := _PAIR.match(text, position)):
        key, value = match.groups()
        fields[key] = _unquoted(value) if value.startswith('"') else value
        position = match.end()
    if position < end or not fields.keys() >= {"time", "level", "msg"}:
        raise ValueError("not the text of slog")
    return fields


def row_of(fields: Mapping[str, str]) -> tuple[object, ...] | None:
    """The row of a result, in the order of `COLUMNS`; None for any other line.

    Raises ValueError for an incomplete result.
    """
    message = fields["msg"]
    if message not in (SUCCESS, FAILURE):
        return None
    needed = ("status", "target") if message == SUCCESS else ("error", "target")
    if absent := [key for key in needed if key not in fields]:
        raise ValueError(f"no {' and no '.join(absent)}")
    error = fields["error"] if message == FAILURE else None
    status = int(fields["status"]) if error is None else 0
    if not 0 <= status <= 999:
        raise ValueError(f"status {status}")
    ttfb, total, dns, connect, tls = (_ms(fields.get(key)) for key in ("TTFB", "Total", "DNS", "Connect", "TLS"))
    return (
        timestamp(fields["time"]), status, ttfb, total, _COLD.get(fields.get("isCold", "")) if error is None else None,
        dns, connect, tls, error, fields.get("id"), fields["target"], "measure",
        None if error is None else error_kind(error).value, int(200 <= status < 300),
    )  # fmt: skip


def error_kind(text: str) -> ErrorKind:
    """The kind of an error text of Go."""
    return next((kind for kind, pattern in _KINDS if pattern.search(text)), ErrorKind.OTHER)


def timestamp(text: str) -> str:
    """A slog time as the database stores times: UTC, microseconds. Raises ValueError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    seconds, fraction, zone = match.groups()
    seconds = datetime.fromisoformat(seconds + zone).astimezone(UTC).isoformat()[:19]
    return f"{seconds}.{(fraction or '')[:6]:0<6}Z"


def settings(config: str) -> dict[str, Any]:
    """The experiment's columns in a logged configuration, which is Go's `%+v` or JSON."""
    values: dict[str, Any] = {}
    for column, key in zip(RateColumns.__struct_fields__, RateColumns.__struct_encode_fields__, strict=True):
        match = re.search(rf"\b{key}\b[\"']?\s*[:=]\s*[\"']?([0-9][0-9a-zµ.]*)", config, re.IGNORECASE)
        try:
            if match is not None and len(match[1]) < _LONGEST_NUMBER:
                values[column] = _NUMBERS.get(column, _duration)(match[1])
        except ValueError:
            continue
    return values


def _duration(text: str) -> str:
    return format_duration(int(text) if text.isdecimal() else parse_duration(text))


def _ms(duration: str | None) -> float | None:
    """A Go duration in milliseconds with three decimals, as everywhere in the database."""
    if duration is None:
        return None
    for unit, ms in _UNITS_MS:
        number = duration.removesuffix(unit)
        if number != duration and len(number) < _LONGEST_NUMBER and number.replace(".", "", 1).isdecimal():
            return round(float(number) * ms, 3)
    ns = parse_duration(duration)
    if ns < 0:
        raise ValueError(f"{duration} is negative")
    return round(ns / NS_PER_MS, 3)


def _unquoted(text: str) -> str:
    """The text of a quoted Go string. Source: https://pkg.go.dev/strconv#Quote"""
    return _ESCAPE.sub(_character, text[1:-1]) if "\\" in text else text[1:-1]


def _character(match: re.Match[str]) -> str:
    if match[1]:
        return _SIMPLE[match[1]]
    if match[2] or match[5]:
        return f"\\x{int(match[2] or match[5], 16 if match[2] else 8):02x}"  # a byte that is not UTF-8 stays an escape
    code = int(match[3] or match[4], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"
