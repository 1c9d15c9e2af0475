"""HTTP/1.1 as a client speaks it, without I/O: requests to bytes, bytes to the state of a response.

Rules:
- Nothing here knows of sockets or clocks. Whoever reads the socket feeds what arrives, in pieces of any size; the
  outcome does not depend on how the bytes were cut.
- One response at a time. Bytes after its end leave it good, but its connection cannot be used again: nobody can say
  what they answer. 1xx heads are skipped, except 101, for which we never ask.
- What the target sends wrong is a ProtocolError (the head or its framing is not HTTP/1.0 or 1.1) or a BodyError (the
  head was good, the body broke). No other exception leaves `feed`.
- A response that the peer ended early is not an exception: `at_eof` is False; `heard`, `started` and `head_complete`
  say how far it came.

What httptools does not do, and is done here: it takes RTSP, ICE, other versions of HTTP, statuses below 100 and any
transfer coding; it cannot be told that a request was a HEAD; it skips blank lines before a head without saying so; it
does not say where in the data a message ended; it limits nothing. (One leniency remains: between a 1xx and the final
head, blank lines pass, and so does RTSP/1.0 in place of HTTP/1.0.)

A faster parser for the commonest answers can stand before this one: it has to have the methods and attributes of
`ResponseReader`, and to hand over, from the response's first byte, whatever it does not surely understand.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from workload_generator import __version__
from workload_generator.base.errors import UsageError

HEAD_LIMIT = 64 * 1024
"""Bytes of one response's heads, its 1xx included, and, about, of what stands between two body bytes when chunked."""

BODY_HEAD = 16
"""How many of the body's first bytes are kept."""

INSTANCE_LIMIT = 253
"""Bytes of an instance's name: as long as a pod's can be."""

USER_AGENT = f"workload-generator/{__version__}"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})  # their Content-Length is sent even when there is none
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_BUT_TAB = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# RFC 3986, 3.3 and 3.4: what may stand in a path and a query; an escape stays, a lone `%` is escaped itself.
_UNSAFE_IN_PATH = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/%-]|%(?![0-9A-Fa-f]{2})")
_UNSAFE_IN_QUERY = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]|%(?![0-9A-Fa-f]{2})")


class ProtocolError(Exception):
    """The head of what the target sent, or the framing it announces, is not HTTP/1.0 or HTTP/1.1."""


class BodyError(Exception):
    """The head was good, the body's framing broke."""


class Url(NamedTuple):
    """A target's URL in the parts that a client needs.

    `host` is what to resolve (an IPv6 address without brackets, zone included), `authority` what the Host header says,
    `path` the request line's path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    authority: str
    path: str


def split_url(url: str) -> Url:
    """The parts of an http or https URL. Raises UsageError, naming the URL, when it is not one we can ask for."""
    text = url.strip()
    if _CONTROL.search(text):
        raise UsageError(f"URL {url!r}: control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"URL {url!r}: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise UsageError(f"URL {url!r}: the scheme must be http or https")
    if "@" in parts.netloc:
        raise UsageError(f"URL {url!r}: user and password do not belong in a URL; use the Authorization header")
    if port == 0:
        raise UsageError(f"URL {url!r}: port 0")
    try:
        host, shown = _host(parts.hostname or "")
    except ValueError as error:
        raise UsageError(f"URL {url!r}: {error}") from None
    default = _DEFAULT_PORTS[parts.scheme]
    port = port or default
    path = _escape(_UNSAFE_IN_PATH, parts.path) or "/"
    if parts.query:
        path += "?" + _escape(_UNSAFE_IN_QUERY, parts.query)
    return Url(parts.scheme, host, port, shown if port == default else f"{shown}:{port}", path)


def encode_request(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """The whole request for `url`, ready to be sent any number of times.

    Host, User-Agent and Content-Length are ours, unless `headers` names them. Values are sent as UTF-8; surrogate
    escapes stand for raw bytes. Raises UsageError for what would not arrive as one whole request.
    """
    if not _TOKEN.fullmatch(method) or method == "CONNECT":
        raise UsageError(f"method {method!r} cannot be sent")
    asked = split_url(url)
    ours = {"host": ("Host", asked.authority), "user-agent": ("User-Agent", USER_AGENT)}
    length = 0 if body is None else len(body)
    if body is not None or method in _WITH_BODY:
        ours["content-length"] = ("Content-Length", str(length))
    given: set[str] = set()
    lines: list[bytes] = []
    for name, raw in headers.items():
        key, value = name.lower(), raw.strip(" \t")
        if not _TOKEN.fullmatch(name):
            raise UsageError(f"header {name!r}: not a header name")
        if _CONTROL_BUT_TAB.search(value):
            raise UsageError(f"header {name!r}: control characters in its value")
        if key in given:
            raise UsageError(f"header {name!r}: given twice")
        if key == "transfer-encoding":
            raise UsageError(f"header {name!r}: bodies are sent whole, with their length")
        if key == "content-length" and value != str(length):
            raise UsageError(f"header {name!r}: the body has {length} bytes, not {value!r}")
        given.add(key)
        try:
            lines.append(f"{name}: {value}".encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise UsageError(f"header {name!r}: a value that UTF-8 cannot encode") from None
    defaults = [f"{name}: {value}".encode() for key, (name, value) in ours.items() if key not in given]
    start = f"{method} {asked.path} HTTP/1.1".encode()
    return b"\r\n".join([start, *defaults, *lines, b"", b"" if body is None else body])


class ResponseReader:
    """Reads the responses of one connection: `start`, then `feed` until it is True, then `start` again.

    The reader and its parser refer to each other. Keep readers for the next connection instead of dropping them, or
    `close` them: with the garbage collector frozen nothing else would free the pair.
    """

    __slots__ = (
        "_chunked",
        "_clean",
        "_close",
        "_framed",
        "_head_read",
        "_is_head",
        "_keep",
        "_parser",
        "_quiet",
        "body_head",
        "bytes_read",
        "complete",
        "head_complete",
        "heard",
        "instance",
        "keep_alive",
        "started",
        "status",
    )

    def __init__(self) -> None:
        # For the connection
        self._parser: HttpResponseParser | None = None
        # For the response
        self.complete = False
        self.start("GET")

    def start(self, method: str) -> None:
        """Prepare for the response to a request that is about to be sent, on this connection or a fresh one."""
        if not self.complete:
            self._parser = None  # it stands somewhere within the last response
        self.heard = False
        """Whether any byte came: a retry is out of the question."""
        self.started = False
        """Whether a byte of the final response came. What 1xx heads brought does not count: a time to first byte is
        to be taken when this becomes, and stays, True."""
        self.head_complete = False
        """Whether the final head came whole: `status` and `instance` hold from here on."""
        self.complete = False
        """Whether the response came whole."""
        self.keep_alive = False
        """Whether the connection can be used again; holds once `complete`."""
        self.status = 0
        self.instance: bytes | None = None
        """What `x-instance` says, cut to `INSTANCE_LIMIT` bytes."""
        self.bytes_read = 0
        """The body's bytes, without the framing of chunks."""
        self.body_head = b""
        """The body's first bytes, `BODY_HEAD` at most."""
        self._is_head = method == "HEAD"
        self._clean = False  # whether the parser itself sees the response's end, and a further one possible
        self._head_read = 0
        self._quiet = 0
        self._close = self._keep = self._chunked = self._framed = False

    @property
    def cold(self) -> bool | None:
        """What the function says in its body, white space aside: `true`, `false`, or None for anything else."""
        return _COLD.get(self.body_head.strip()) if self.bytes_read <= BODY_HEAD else None

    def feed(self, data: bytes | memoryview) -> bool:
        """Take what arrived; whether the response is complete. Raises ProtocolError or BodyError, after which only
        `start` and `close` may be called."""
        if not data:
            return self.complete
        if self.complete:
            self._surplus()
            return True
        if not self.head_complete:
            if not self.heard:
                self.heard = True
                # Of what the parser takes for a head (blank lines, RTSP, ICE) only HTTP begins with an H.
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
        """The peer sent its last byte; whether the response is complete, which ends a body without a length."""
        if not self.complete and self.head_complete and not self._framed:
            self.complete = True
        self.keep_alive = False
        self._parser = None
        return self.complete

    def close(self) -> None:
        """The connection is gone: let go of the parser. What was read stays; `start` makes a new one."""
        self.keep_alive = False
        self._parser = None

    def _feed_within(self, data: bytes | memoryview) -> bool:
        parser = self._parser
        if parser is None:
            parser = self._parser = HttpResponseParser(self)
            # Without it, what follows a 1xx that says `Connection: close` is refused or swallowed.
            parser.set_dangerous_leniencies(lenient_keep_alive=True)
        before = self.bytes_read
        pieces = self._lines(data) if self._is_head else self._ends(data) if data[-1] in b"\r\n" else (data,)
        for piece in pieces:
            if self.complete:
                self._surplus()
                return True
            try:
                parser.feed_data(piece)
            except (HttpParserError, HttpParserUpgrade) as error:
                if not self.complete:
                    self._parser = None
                    raise self._fault(error) from None
                self._surplus()
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

    @staticmethod
    def _ends(data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        """`data`, its last byte apart: the parser skips line ends after a message silently, so a message that is
        complete before its last line end has surplus bytes, and one that is complete with it has none."""
        yield from (data[:-1], data[-1:]) if len(data) > 1 else (data,)

    @staticmethod
    def _lines(data: bytes | memoryview) -> Iterator[bytes]:
        """`data` line by line, so that a head's end is the end of a piece."""
        return iter(bytes(data).splitlines(keepends=True))

    def _surplus(self) -> None:
        self.keep_alive = False
        self._parser = None

    def _fault(self, error: Exception) -> ProtocolError | BodyError:
        ours = error.__context__
        if isinstance(ours, ProtocolError):
            return ours
        if self.head_complete:
            return BodyError(f"malformed body: {error}")
        return ProtocolError(f"malformed head: {error}")

    # The parser's callbacks. What they raise comes back from feed_data as the context of its own error.

    def on_message_begin(self) -> None:
        if self.complete:
            raise ProtocolError("more than the response")
        self.started = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:  # a trailer: too late to change anything
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
                raise ProtocolError(f"a transfer coding that was not asked for: {value[:64]!r}")
            self._chunked = self._framed = True

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise ProtocolError(f"HTTP/{version} in answer to HTTP/1.1")
        if status < 200:
            if status < 100 or status == 101:
                raise ProtocolError(f"status {status:03d} in answer to an ordinary request")
            if self._framed:  # RFC 9110, 15.2: it has no body; the parser gets lost here
                raise ProtocolError(f"status {status} with a body")
            self.started = False
            self.instance = None
            self._close = self._keep = False
            return
        self.status = status
        self.head_complete = True
        empty = self._is_head or status == 204 or status == 304
        # RFC 9112, 6.1: an HTTP/1.0 message that is chunked may have been forwarded by who did not understand it.
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
    """The host to resolve and the host to show, of a URL's host in lower case. Raises ValueError."""
    if not name:
        raise ValueError("no host")
    if ":" in name:
        address, _, zone = name.partition("%")
        ipaddress.IPv6Address(address)
        zone = zone.removeprefix("25")  # RFC 6874 writes %25eth0, people write %eth0; the Host header has neither
        return f"{address}%{zone}" if zone else address, f"[{address}]"
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError as error:
            raise ValueError(f"not a host name: {error}") from None
    if not _HOST_NAME.fullmatch(name) or ".." in name:
        raise ValueError(f"{name!r} is not a host name")
    return name, name


def _escape(unsafe: re.Pattern[bytes], text: str) -> str:
    return unsafe.sub(lambda found: f"%{found[0][0]:02X}".encode(), text.encode("utf-8", "surrogatepass")).decode()
