"""A connection with TLS: the handshake, and encryption of what a plain connection sends and receives."""

from __future__ import annotations

import contextlib
import ssl

from workload_generator.base.clock import monotonic_ns
from workload_generator.engine.connection import Connection, ConnectionOwner
from workload_generator.engine.endpoint import Origin
from workload_generator.engine.exchange import ConnectionState
from workload_generator.engine.timestamps import Ancillary, segments_received
from workload_generator.engine.tls import TlsSession, fault_of
from workload_generator.log.records import ErrorKind

_OPEN = (ConnectionState.ACTIVE, ConnectionState.IDLE)


class TlsConnection(Connection):
    """A connection to an origin with TLS."""

    def __init__(self, owner: ConnectionOwner, origin: Origin) -> None:
        super().__init__(owner, origin)
        assert origin.tls is not None
        self._tls = TlsSession(origin.tls, origin.host)

    def _on_watched(self) -> None:
        self.state = ConnectionState.HANDSHAKE
        self._shake_hands(b"")

    def _shake_hands(self, received: bytes) -> None:
        tls = self._tls
        try:
            done = tls.shake_hands(received)
        except (ssl.SSLError, ssl.CertificateError, ValueError) as error:
            with contextlib.suppress(OSError):  # the alert informs the server only
                self._sock.send(tls.to_send())
            self._fail(ErrorKind.TLS, fault_of(error))
            return
        self._write(tls.to_send())
        if done and self.state is ConnectionState.HANDSHAKE:
            now_ns = monotonic_ns()
            self._opening.tls_ns = now_ns - self._mark_ns
            self._segments = segments_received(self._sock)
            self._on_open()
            self._decrypt(b"", (), now_ns)  # data that came with the end of the handshake

    def _send(self, data: bytes) -> None:
        self._write(self._tls.encrypt(data))

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
            plain, ended = self._tls.decrypt(data)
        except ssl.SSLError as error:
            if self.state is ConnectionState.IDLE:
                self._on_end(now_ns)
            else:
                self._fail(ErrorKind.TLS, fault_of(error))
            return True
        self._write(self._tls.to_send())
        done = self.state is ConnectionState.IDLE
        if done and not plain and not ended:  # session tickets and key updates may come at any time
            self._segments = segments_received(self._sock)
        if plain and self.state in _OPEN:
            done = super()._on_data(plain, ancillary, now_ns)
        if ended and self.state in _OPEN:
            self._on_end(now_ns)
        return done

    def _on_end(self, now_ns: int) -> None:
        if self.state is ConnectionState.HANDSHAKE:
            self._fail(ErrorKind.TLS, "the server closed the connection during the TLS handshake")
        else:
            super()._on_end(now_ns)


def connection_to(origin: Origin, owner: ConnectionOwner) -> Connection:
    """A new connection to `origin`."""
    return Connection(owner, origin) if origin.tls is None else TlsConnection(owner, origin)
