"""A connection with TLS: the handshake, and encryption of what a plain connection sends and receives."""

from __future__ import annotations

import contextlib
import ssl

from workload_generator.base.clock import monotonic_ns
from workload_generator.engine.connection import Connection, ConnectionOwner, ConnectionState
from workload_generator.engine.endpoint import Origin
from workload_generator.engine.timestamps import Ancillary, segments_received
from workload_generator.log.records import ErrorKind


class TlsConnection(Connection):
    """A connection to an origin with TLS. The session works on buffers in memory: `_incoming` and `_outgoing`."""

    def _on_watched(self) -> None:
        assert self.origin.tls is not None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = self.origin.host.partition("%")[0].rstrip(".")  # as in the certificate: without zone and root
        self._session = self.origin.tls.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.state = ConnectionState.HANDSHAKE
        self._shake_hands(b"")

    def _shake_hands(self, received: bytes) -> None:
        self._incoming.write(received)
        done = True
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except (ssl.SSLError, ValueError) as error:
            with contextlib.suppress(OSError):  # the alert informs the server only
                self._sock.send(self._outgoing.read())
            self._fail(ErrorKind.TLS, _message(error))
            return
        self._write(self._outgoing.read())
        if done and self.state is ConnectionState.HANDSHAKE:
            now_ns = monotonic_ns()
            self._opening.tls_ns = now_ns - self._mark_ns
            self._mark_ns = now_ns
            self._decrypt(b"", (), now_ns)  # what came with the end of the handshake
            if self.state is ConnectionState.HANDSHAKE:
                self._on_open()

    def _send(self, data: bytes) -> None:
        self._session.write(data)
        self._write(self._outgoing.read())

    def _on_data(self, data: bytes, ancillary: Ancillary, now_ns: int) -> bool:
        if not data:
            self._on_end(now_ns)
            return True
        if self.state is ConnectionState.HANDSHAKE:
            self._shake_hands(data)
            return False
        return self._decrypt(data, ancillary, now_ns)

    def _decrypt(self, data: bytes, ancillary: Ancillary, now_ns: int) -> bool:
        try:
            plain, ended = self._plain_text(data)
        except ssl.SSLError as error:
            if self.state is ConnectionState.IDLE:
                self._on_end(now_ns)
            else:
                self._fail(ErrorKind.TLS, _message(error))
            return True
        self._write(self._outgoing.read())
        if self.state is not ConnectionState.ACTIVE and not plain:  # tickets and key updates may come at any time
            self._segments = segments_received(self._sock)
        done = self.state is ConnectionState.IDLE
        if plain and self.state is ConnectionState.HANDSHAKE:
            return self._on_unasked()
        if plain and self.state is not ConnectionState.CLOSED:
            if ended:
                self.on_ending()
            done = super()._on_data(plain, ancillary, now_ns)
        if ended and self.state is not ConnectionState.CLOSED:
            self._on_end(now_ns)
        return done

    def _plain_text(self, received: bytes) -> tuple[bytes, bool]:
        """The plain text of received data, and whether the session has ended: by the server, or by a fault behind the
        text. Raises ssl.SSLError."""
        self._incoming.write(received)
        parts: list[bytes] = []
        try:
            while part := self._session.read(65536):
                parts.append(part)
        except ssl.SSLWantReadError:
            return b"".join(parts), False
        except ssl.SSLError as error:
            if not parts and not isinstance(error, (ssl.SSLZeroReturnError, ssl.SSLEOFError)):
                raise
        return b"".join(parts), True

    def _on_end(self, now_ns: int) -> None:
        if self.state is ConnectionState.HANDSHAKE:
            self._fail(ErrorKind.TLS, "the server closed the connection during the TLS handshake")
        else:
            super()._on_end(now_ns)


def connection_to(origin: Origin, owner: ConnectionOwner) -> Connection:
    """A new connection to `origin`."""
    return Connection(owner, origin) if origin.tls is None else TlsConnection(owner, origin)


def _message(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
