"""Kinds of values in YAML files: functions that parse a scalar, and the `Kind` of keys with such a value.

A function raises ValueError with the message for the user. Numbers are exact: a rate is the fraction of its text, a
duration whole nanoseconds. A value that is not a `Scalar` is a list or a mapping of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import TypeVar
from urllib.parse import urlsplit

from workload_generator.base.clock import format_duration, parse_duration
from workload_generator.experiment.fields import Kind, as_it_is, named, scalar
from workload_generator.experiment.yaml_lines import Scalar, did_you_mean

T = TypeVar("T")

_HIGHEST_RPS = 10**9  # one per nanosecond, the unit of due times
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


def checked(
    parse: Callable[[object], T], is_valid: Callable[[T], object], message: str, show: Callable[[T], object] = as_it_is
) -> Kind[T]:
    """A value that `parse` gets from a scalar, and that is valid; `message` follows the text of one that is not."""

    def read(value: object) -> T:
        parsed = parse(value)
        if not is_valid(parsed):
            raise ValueError(f"{short(str(value))} {message}")
        return parsed

    return scalar(read, show)


def any_text(value: object) -> str:
    """Any text."""
    if not isinstance(value, Scalar):
        raise ValueError("must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("contains a lone surrogate, which is half a character") from None
    return str(value)


def exact_number(value: object) -> Fraction:
    """A number: whole, decimal, with an exponent or not."""
    if not isinstance(value, Scalar):
        raise ValueError("must be a number")
    if value.quoted and _NUMBER.fullmatch(value):
        raise ValueError("must be a number, not text: remove the quotes")
    if len(value) > _LONGEST_NUMBER or not _NUMBER.fullmatch(value):
        raise ValueError(f"{short(value)} is not a number")
    number = Fraction(value.replace("_", ""))
    if number.denominator != 1 and Fraction(repr(float(number))) != number:
        raise ValueError(f"{short(value)} has more digits than the log can store: use at most 15")
    return number


def rps(value: object) -> Fraction:
    """A rate in requests per second; 0 means the closed loop."""
    number = exact_number(value)
    if number < 0:
        raise ValueError(f"{value} is negative")
    if number > _HIGHEST_RPS:
        raise ValueError(f"{value} is more than {_HIGHEST_RPS:,} per second")
    return number


def whole(value: object) -> int:
    """A whole number from 0 to 2⁶³ − 1."""
    number = exact_number(value)
    if number.denominator != 1 or number < 0:
        raise ValueError(f"{value} is not a whole number of 0 or more")
    if number >= 2**63:
        raise ValueError(f"{value} is too large")
    return int(number)


def positive_whole(value: object) -> int:
    """A whole number from 1 to 2⁶³ − 1."""
    number = whole(value)
    if not number:
        raise ValueError("must be at least 1")
    return number


def duration(value: object) -> int:
    """A duration of 0 or more, in nanoseconds."""
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
    """An absolute http or https URL, unchanged."""
    text = any_text(value)
    bad = _NO_URL.search(text)
    if bad is not None:
        raise ValueError(f"{short(text)} contains {bad[0]!r}, which a URL cannot: percent-encode it")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{short(text)} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{short(text)} is not an http:// or https:// URL")
    if not parts.hostname or port == 0 or not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"{short(text)} has no valid host")
    if "@" in parts.netloc:
        raise ValueError("a URL must not contain a user or password, since it is logged: use an Authorization header")
    if "#" in text:
        raise ValueError(f"{short(text)} contains a fragment (#…), which HTTP does not send: remove it")
    return text


def server_url(value: object) -> str:
    """The URL of a server that replaces the hosts of the targets: without a path, since the targets have theirs."""
    where = url(value)
    parts = urlsplit(where)
    if parts.path not in ("", "/") or "?" in where:
        raise ValueError(f"{short(where)} must be scheme, host and port only: targets have path and query")
    return where


def one_of(value: object, options: Collection[str]) -> str:
    """One of these words."""
    if value is None:
        raise ValueError(f"is missing: one of {', '.join(options)}")
    text = any_text(value)
    if text not in options:
        raise ValueError(f"{short(text)} is not one of {', '.join(options)}{did_you_mean(text, options)}")
    return text


def word(*options: str) -> Kind[str]:
    """The kind of a key with one of these words."""
    return scalar(lambda value: one_of(value, options))


def _statuses(value: object) -> tuple[str, ...]:
    texts = [any_text(item) for item in value] if isinstance(value, list) else [any_text(value)]
    bad = [text for text in texts if not _STATUS.fullmatch(text)]
    if bad or not texts:
        raise ValueError(f"{', '.join(map(short, bad)) or 'an empty list'} is not a status: use 200, 2xx or [200, 404]")
    return tuple(texts)


def _header_name(name: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a header name: use letters, digits and hyphens")
    if name.lower() in _FRAMING:
        raise ValueError("is computed from the body: remove it")


def _header_value(value: object) -> str:
    text = "" if value is None else any_text(value)
    if _NO_HEADER_VALUE.search(text):
        raise ValueError("a header value must not contain line breaks or other control characters")
    return text


def _distinct(headers: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name in headers:
        first = seen.setdefault(name.lower(), name)
        if first != name:
            raise ValueError(f"{first} and {name} are the same header")
    return headers


def hides(name: str) -> bool:
    """Whether a header with this name probably contains a secret, which must not be logged."""
    return _SECRET.search(name) is not None


def _without_secrets(headers: dict[str, str]) -> dict[str, str]:
    return {name: _HIDDEN if hides(name) else value for name, value in headers.items()}


def short(text: str) -> str:
    """`text` in quotes, shortened to 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def plain(number: Fraction) -> int | float:
    """`number` as a JSON number."""
    return int(number) if number.denominator == 1 else float(number)


TEXT = scalar(any_text)
BASE_URL = scalar(lambda value: "" if value == "" else server_url(value))
WHOLE = scalar(whole)
POSITIVE_WHOLE = scalar(positive_whole)
RPS = scalar(rps, plain)
SHARE = checked(exact_number, lambda share: 0 < share <= 1, "is not a share: more than 0, at most 1", plain)
FACTOR = checked(exact_number, lambda factor: 0 < factor <= _HIGHEST_RPS, "is not a factor above 0", plain)
DURATION = scalar(duration, format_duration)
POSITIVE_DURATION = scalar(positive_duration, format_duration)
METHOD = word("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
STATUSES = scalar(_statuses, list)
_BY_NAME = named(scalar(_header_value), _header_name)
HEADERS = Kind(lambda value, cursor: _distinct(_BY_NAME.read(value, cursor)), _without_secrets)
