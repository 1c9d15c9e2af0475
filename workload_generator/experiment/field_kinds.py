"""What stands in an experiment's file as values: each function takes a scalar and gives what it means.

Each raises ValueError, whose text is what the user reads, for anything else. Numbers are exact: a rate is the fraction
that its text says, a duration whole nanoseconds. What is no `Scalar` cannot have come from a scalar of the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from fractions import Fraction
from urllib.parse import urlsplit

from workload_generator.base.clock import format_duration, parse_duration
from workload_generator.experiment.fields import Kind, named, scalar
from workload_generator.experiment.yaml_lines import Scalar, closest

_HIGHEST_RPS = 10**9  # one a nanosecond: deadlines are whole nanoseconds
_LONGEST_NUMBER = 40
_NUMBER = re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9]{1,2})?")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2
_NO_HEADER_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5: no control character but the tab
_NO_URL = re.compile(r"[^\x21-\x7e]")
_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]*[0-9A-Za-z_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")
_STATUS = re.compile(r"[1-5]([0-9][0-9]|xx)")
_SECRET = re.compile(r"authorization|cookie|token|secret|password|credential|api-?key", re.IGNORECASE)
_HIDDEN = "(hidden)"
_FRAMING = frozenset({"content-length", "transfer-encoding"})


def any_text(value: object) -> str:
    """Any text."""
    if not isinstance(value, Scalar):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate)") from None
    return str(value)


def exact_number(value: object) -> Fraction:
    """A number: whole, decimal, with an exponent or not."""
    if isinstance(value, Fraction):
        return value
    if not isinstance(value, Scalar):
        raise ValueError("must be a number")
    if value.quoted and _NUMBER.fullmatch(value):
        raise ValueError("must be a number, not text: leave the quotes out")
    if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
        raise ValueError(f"{short(value)} is not a number")
    number = Fraction(value.replace("_", ""))
    if number.denominator != 1 and Fraction(repr(float(number))) != number:
        raise ValueError(f"{short(value)} has more digits than the log can keep: 15 are safe")
    return number


def rps(value: object) -> Fraction:
    """A rate in requests a second; 0 is the closed loop."""
    number = exact_number(value)
    if number < 0:
        raise ValueError(f"{value} is negative")
    if number > _HIGHEST_RPS:
        raise ValueError(f"{value} is more than {_HIGHEST_RPS:,} a second")
    return number


def whole(value: object) -> int:
    """A whole number from 0 to 2^63 - 1."""
    number = exact_number(value)
    if number.denominator != 1 or number < 0:
        raise ValueError(f"{value} is not a whole number from 0 on")
    if number >= 2**63:
        raise ValueError(f"{value} is too large")
    return int(number)


def positive_whole(value: object) -> int:
    """A whole number from 1 on."""
    number = whole(value)
    if not number:
        raise ValueError("must be at least 1")
    return number


def _share(value: object) -> Fraction:
    number = exact_number(value)
    if not 0 < number <= 1:
        raise ValueError(f"{value} is not a share of requestsPerSecond: more than 0, at most 1")
    return number


def _factor(value: object) -> Fraction:
    number = exact_number(value)
    if not 0 < number <= _HIGHEST_RPS:
        raise ValueError(f"{value} is not a factor above 0")
    return number


def duration(value: object) -> int:
    """A duration, in nanoseconds; 0 is one."""
    if not isinstance(value, Scalar):
        raise ValueError("must be a duration, such as 90s or 1h30m")
    duration_ns = parse_duration(value)
    if duration_ns < 0:
        raise ValueError(f"{value} is negative")
    return duration_ns


def positive_duration(value: object) -> int:
    """A duration above 0, in nanoseconds."""
    duration_ns = duration(value)
    if not duration_ns:
        raise ValueError("must be longer than 0")
    return duration_ns


def url(value: object) -> str:
    """An absolute http or https URL, as it stands."""
    text = any_text(value)
    bad = _NO_URL.search(text)
    if bad is not None:
        raise ValueError(f"{short(text)} holds {bad[0]!r}, which a URL cannot: write it percent-encoded")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{short(text)} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{short(text)} is not a URL that begins with http:// or https://")
    if not parts.hostname or port == 0 or not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"{short(text)} names no host that requests can go to")
    if "@" in parts.netloc:
        raise ValueError("a URL goes into logs, so it must not hold a user or password: use an Authorization header")
    if "#" in text:
        raise ValueError(f"{short(text)} holds a fragment (#…), which is never sent")
    return text


def server_url(value: object) -> str:
    """Where connections go instead of the targets' hosts: a URL without a path, since the targets have theirs."""
    where = url(value)
    parts = urlsplit(where)
    if parts.path not in ("", "/") or "?" in where:
        raise ValueError(f"{short(where)} holds more than scheme, host and port: path and query are the targets'")
    return where


def one_of(value: object, options: Collection[str]) -> str:
    """One of these words."""
    text = any_text(value)
    if text not in options:
        near = closest(text, options)
        hint = f": did you mean {near}?" if near else ""
        raise ValueError(f"{short(text)} is none of {', '.join(options)}{hint}")
    return text


def word(*options: str) -> Kind[str]:
    """A key that holds one of these words."""
    return scalar(lambda value: one_of(value, options))


def _statuses(value: object) -> tuple[str, ...]:
    texts = [any_text(item) for item in value] if isinstance(value, list) else [any_text(value)]
    bad = [text for text in texts if not _STATUS.fullmatch(text)]
    if bad or not texts:
        raise ValueError(
            f"{', '.join(map(short, bad)) or 'an empty list'} is not a status: write 200, 2xx or [200, 404]"
        )
    return tuple(texts)


def _header_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a header's name: letters, digits and hyphens")
    if name.lower() in _FRAMING:
        raise ValueError("comes from the body: leave it out")


def _header_value(value: object) -> str:
    text = "" if value is None else any_text(value)
    if _NO_HEADER_VALUE.search(text):
        raise ValueError("a header's value must not hold line breaks or other control characters")
    return text


def _distinct(headers: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name in headers:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same header")
    return headers


def hides(name: str) -> bool:
    """Whether the header of this name probably holds a secret, whose value does not belong in logs."""
    return _SECRET.search(name) is not None


def _without_secrets(headers: dict[str, str]) -> dict[str, str]:
    return {name: _HIDDEN if hides(name) else value for name, value in headers.items()}


def short(text: str) -> str:
    """`text` quoted, and cut when it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def plain(number: Fraction) -> int | float:
    """`number` as JSON has it."""
    return int(number) if number.denominator == 1 else float(number)


TEXT = scalar(any_text)
WHOLE = scalar(whole)
POSITIVE_WHOLE = scalar(positive_whole)
RPS = scalar(rps, plain)
SHARE = scalar(_share, plain)
FACTOR = scalar(_factor, plain)
DURATION = scalar(duration, format_duration)
POSITIVE_DURATION = scalar(positive_duration, format_duration)
METHOD = word("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
STATUSES = scalar(_statuses, list)
_BY_NAME = named(scalar(_header_value), _header_name)
HEADERS = Kind(lambda value, cursor: _distinct(_BY_NAME.read(value, cursor)), _without_secrets)
