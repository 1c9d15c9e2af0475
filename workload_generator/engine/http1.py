"""The client side of HTTP/1.1 without I/O: encodes requests, and reads responses from bytes.

Rules:
- The module uses neither sockets nor clocks. The caller feeds data in pieces of any size; the outcome does not depend
  on where the pieces were cut.
- A reader reads one response at a time. Bytes after its end do not spoil it, but its connection cannot be used again,
  since no request asked for them. 1xx heads are skipped, except 101, which no request asks for.
- `feed` raises ProtocolError (head or framing are not HTTP/1.0 or 1.1) or BodyError (the head is good, the body is
  not), and no other exception.
- A response that the peer ended early is not an exception: `at_eof` returns False; `has_data`, `started` and
  `head_complete` tell its progress.

httptools is more lenient: it takes RTSP, ICE, other versions of HTTP, statuses below 100, any transfer coding and
control characters in headers, skips blank lines before a head, and limits nothing. It does not know that a request was
a HEAD, nor where in the data a message ended. This module adds those checks. (Blank lines and RTSP/1.0 still pass
between a 1xx and the final head.)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from workload_generator import __version__
from workload_generator.base.errors import UsageError

HEAD_LIMIT = 64 * 1024
"""The most bytes of a response's heads, 1xx included, and roughly of the framing between bytes of a chunked body."""

BODY_HEAD = 16
"""The number of the body's first bytes to keep."""

INSTANCE_LIMIT = 253
"""The most bytes of an instance's name: the limit of a pod's name."""

USER_AGENT = f"workload-generator/{__version__}"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})  # sent with a Content-Length even without a body
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_BUT_TAB = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_SAFE = "!$&'()*+,;=:@/?%"  # beside what is always: the characters of a path and a query (RFC 3986, 3.3 and 3.4)
_SINGLE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")


class ProtocolError(Exception):
    """The head of a response, or the framing in it, is not HTTP/1.0 or HTTP/1.1."""


class BodyError(Exception):
    """The head is good, but the framing of the body is malformed."""


class Url(NamedTuple):
    """The parts of a target's URL.

    `host` is the name to resolve (an IPv6 address without brackets, with its zone), `authority` the value of the Host
    header, `path` the path and query of the request line, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def split_url(url: str) -> Url:
    """The parts of an http or https URL. Raises UsageError for any other."""
    try:
        return _split(url.strip())
    except ValueError as error:
        raise UsageError(f"URL {url!r}: {error}") from None


def _split(url: str) -> Url:
    if _CONTROL.search(url):
        raise ValueError("must not contain control characters")
    parts = urlsplit(url)
    port = parts.port
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("the scheme must be http or https")
    if "@" in parts.netloc:
        raise ValueError("must not contain user and password; use the Authorization header")
    if port == 0:
        raise ValueError("the port must be from 1 to 65535")
    host, shown = _host(parts.hostname or "")
    default = _DEFAULT_PORTS[parts.scheme]
    port = port or default
    asked = (parts.path or "/") + (f"?{parts.query}" if "?" in url.partition("#")[0] else "")
    path = quote(_SINGLE_PERCENT.sub("%25", asked), _SAFE, errors="surrogatepass")
    return Url(parts.scheme, host, port, shown if port == default else f"{shown}:{port}", path)


def encode_request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """The bytes of a request for `url`, to be sent any number of times.

    Host, User-Agent and Content-Length are added unless `headers` has them. Values are encoded as UTF-8; surrogate
    escapes stand for raw bytes. Raises UsageError for anything that is not one complete request.
    """
    if not _TOKEN.fullmatch(method) or method == "CONNECT":
        raise UsageError(f"method {method!r}: must be an HTTP method other than CONNECT")
    asked = split_url(url)
    added = {"host": ("Host", asked.authority), "user-agent": ("User-Agent", USER_AGENT)}
    length = 0 if body is None else len(body)
    if body is not None or method in _WITH_BODY:
        added["content-length"] = ("Content-Length", str(length))
    given: set[str] = set()
    lines: list[bytes] = []
    for name, value in headers.items():
        try:
            lines.append(_header_line(name, value.strip(" \t"), given, length))
        except ValueError as error:
            raise UsageError(f"header {name!r}: {error}") from None
    defaults = [f"{name}: {value}".encode() for key, (name, value) in added.items() if key not in given]
    start = f"{method} {asked.path} HTTP/1.1".encode()
    return b"\r\n".join([start, *defaults, *lines, b"", b"" if body is None else body])


def _header_line(name: str, value: str, given: set[str], length: int) -> bytes:
    key = name.lower()
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not a valid header name")
    if key in given:
        raise ValueError("given twice")
    if key == "transfer-encoding":
        raise ValueError("cannot be set; bodies are sent with a Content-Length")
    if key == "content-length" and value != str(length):
        raise ValueError(f"the body has {length} bytes, not {value!r}")
    given.add(key)
    try:
        line = f"{name}: {value}".encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("the value cannot be encoded as UTF-8") from None
    if _CONTROL_BUT_TAB.search(line):
        raise ValueError("the value must not contain control characters")
    return line


class ResponseReader:
    """Reads the responses of one connection: `start`, then `feed` until it returns True, then `start` again.

    The reader and its parser refer to each other, and the garbage collector is frozen during a run: reuse a reader for
    another connection, or `close` it to free the parser.
    """

    def __init__(self) -> None:
        # For the connection
        self._parser: HttpResponseParser | None = None
        # For the response
        self.complete = False
        self.start("GET")

    def start(self, method: str) -> None:
        """Prepare for the response to the next request, on this connection or another one."""
        if not self.complete:
            self._parser = None  # it has stopped within the last response
        self.has_data = False
        """Whether any byte came, so that the request must not be repeated."""
        self.started = False
        """Whether a byte of the final response came; 1xx heads do not count. TTFB ends when this becomes, and stays,
        True."""
        self.head_complete = False
        """Whether the final head is complete: `status` and `instance` are valid from here on."""
        self.complete = False
        """Whether the response is complete."""
        self.keep_alive = False
        """Whether the connection can be used again; valid once `complete`."""
        self.status = 0
        self.instance: bytes | None = None
        """The header `x-instance`, cut to `INSTANCE_LIMIT` bytes."""
        self.surplus = False
        """Whether there were bytes behind the response, on a connection that could have been used again."""
        self.bytes_read = 0
        """The body's bytes, without the framing of chunks."""
        self.body_head = b""
        """The body's first bytes, `BODY_HEAD` at most."""
        self._is_head = method == "HEAD"
        self._clean = False  # whether the parser has reached the end of the response, and can read another one
        self._head_read = 0
        self._quiet = 0
        self._close = self._keep = self._chunked = self._framed = False

    @property
    def cold(self) -> bool | None:
        """The function's word in the body, white space aside: `true` or `false`; None for anything else."""
        return _COLD.get(self.body_head.strip()) if self.bytes_read <= BODY_HEAD else None

    def feed(self, data: bytes | memoryview) -> bool:
        """Read received data; returns whether the response is complete. Raises ProtocolError or BodyError, after which
        only `start` and `close` may be called."""
        if not data:
            return self.complete
        if self.complete:
            self._on_surplus()
            return True
        if not self.head_complete:
            if not self.has_data:
                self.has_data = True
                # The parser takes more for a head (blank lines, RTSP, ICE), but only HTTP begins with an H.
                if data[0] != 0x48:
                    raise ProtocolError(f"not an HTTP response: it begins with {bytes(data[:24])!r}")
            room = HEAD_LIMIT - self._head_read
            if len(data) > room:
                self._head_read = HEAD_LIMIT
                if room:
                    self._feed_within(data[:room])
                if not self.head_complete:
                    self._parser = None
                    raise ProtocolError(f"the response's head is larger than {HEAD_LIMIT} bytes")
                return self.feed(data[room:])
            self._head_read += len(data)
        return self._feed_within(data)

    def at_eof(self) -> bool:
        """The peer has closed, which ends a body without a length; returns whether the response is complete."""
        if not self.complete and self.head_complete and not self._framed:
            self.complete = True
        self.close()
        return self.complete

    def close(self) -> None:
        """Free the parser. The attributes stay; `start` makes a new parser."""
        self.keep_alive = False
        self._parser = None

    def _feed_within(self, data: bytes | memoryview) -> bool:
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpResponseParser(self)
            # Otherwise it refuses folded headers, and everything behind a 1xx with `Connection: close`.
            parser.set_dangerous_leniencies(lenient_headers=True, lenient_keep_alive=True)
        before = self.bytes_read
        pieces: list[bytes | memoryview] = [data]
        if self._is_head:  # line by line, so that the end of a head is the end of a piece
            pieces = [*bytes(data).splitlines(keepends=True)]
        elif len(data) > 1 and data[-1] in b"\r\n":
            # The parser silently skips line ends after a message: a message that is complete before the last line end
            # has surplus bytes, one that is complete with it has none.
            pieces = [data[:-1], data[-1:]]
        for piece in pieces:
            if self.complete:
                self._on_surplus()
                return True
            try:
                parser.feed_data(piece)
            except (HttpParserError, HttpParserUpgrade) as error:
                if not self.complete:
                    self._parser = None
                    raise self._fault(error) from None
                self._on_surplus()
                return True
        if self.complete:
            if not (self._clean and self.keep_alive):
                self._parser = None
        elif self._chunked:
            self._quiet = self._quiet + len(data) if self.bytes_read == before else 0
            if self._quiet > HEAD_LIMIT:
                self._parser = None
                raise BodyError(f"over {HEAD_LIMIT} bytes of chunk extensions or trailers")
        return self.complete

    def _on_surplus(self) -> None:
        self.surplus = self.surplus or self.keep_alive
        self.close()

    def _fault(self, error: Exception) -> ProtocolError | BodyError:
        fault = error.__context__
        if self.head_complete:
            return BodyError(f"malformed body: {error}")
        return fault if isinstance(fault, ProtocolError) else ProtocolError(f"malformed head: {error}")

    # Callbacks of the parser. feed_data raises their exceptions as the context of its own.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ProtocolError("data after the response")
        self.started = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if _CONTROL_BUT_TAB.search(value):  # the parser, which takes folded headers, takes anything
            raise ProtocolError(f"control character in the header {name[:64]!r}")
        if self.head_complete:  # a trailer
            return
        length = len(name)
        if length == 10:
            key = name.lower()
            if key == b"x-instance":
                if self.instance is None:
                    self.instance = value.strip(b" \t")[:INSTANCE_LIMIT] or None
            elif key == b"connection":
                options = [option.strip(b" \t") for option in value.lower().split(b",")]
                self._close = self._close or b"close" in options
                self._keep = self._keep or b"keep-alive" in options
        elif length == 14:
            if name.lower() == b"content-length":
                self._framed = True
        elif length == 17 and name.lower() == b"transfer-encoding":
            if self._chunked or value.strip(b" \t").lower() != b"chunked":
                raise ProtocolError(f"unexpected transfer coding: {value[:64]!r}")
            self._chunked = self._framed = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise ProtocolError(f"HTTP/{version} in response to HTTP/1.1")
        if status < 200:
            if status < 100 or status == 101:
                raise ProtocolError(f"unexpected status {status:03d}")
            if self._framed:  # RFC 9110, 15.2: a 1xx has no body; the parser misreads one
                raise ProtocolError(f"status {status} with a body")
            self.started = False
            self.instance = None
            self._close = self._keep = False
            return
        self.status = status
        self.head_complete = True
        empty = self._is_head or status == 204 or status == 304
        # RFC 9112, 6.1: a chunked HTTP/1.0 message may have passed a proxy that does not know chunks.
        stays = version == "1.1" or (self._keep and not self._chunked)
        self.keep_alive = stays and not self._close and (self._framed or empty)
        if self._is_head:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        if self.bytes_read < BODY_HEAD:
            self.body_head += data[: BODY_HEAD - self.bytes_read]
        self.bytes_read += len(data)

    def on_message_complete(self) -> None:
        if self.head_complete:  # else it was a 1xx
            assert self._parser is not None
            self._clean = self._parser.should_keep_alive()
            self.complete = True


_COLD = {b"true": True, b"false": False}


def _host(name: str) -> tuple[str, str]:
    """The host to resolve and the host for the Host header, from a URL's host in lower case. Raises ValueError."""
    if not name:
        raise ValueError("no host")
    if ":" in name:
        address, _, zone = name.partition("%")
        ipaddress.IPv6Address(address)
        zone = zone.removeprefix("25")  # %25eth0 in RFC 6874, often %eth0; the Host header has no zone
        return f"{address}%{zone}" if zone else address, f"[{address}]"
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"not a host name: {error}") from None
    if not _HOST_NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} is not a host name")
    return name, name
