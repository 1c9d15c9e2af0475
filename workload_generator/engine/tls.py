"""TLS without I/O."""

from __future__ import annotations

import ssl


class TlsSession:
    """A TLS session over memory buffers: bytes in, bytes out."""

    __slots__ = ("_fault", "_incoming", "_outgoing", "_session")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._fault: ssl.SSLError | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shake_hands(self, received: bytes | memoryview) -> bool:
        """Continue the handshake with received data; returns whether it is complete. Raises ssl.SSLError."""
        self._incoming.write(received)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encrypt(self, data: bytes) -> bytes:
        """The TLS records of `data`."""
        self._session.write(data)
        return self._outgoing.read()

    def decrypt(self, received: bytes | memoryview) -> tuple[bytes, bool]:
        """The plain text of received data, and whether the server has ended the session.

        Raises ssl.SSLError. Plain text before a fault is returned first; the next call raises the fault.
        """
        if self._fault is not None:
            raise self._fault
        self._incoming.write(received)
        parts: list[bytes] = []
        while True:
            try:
                part = self._session.read(65536)
            except ssl.SSLWantReadError:
                return b"".join(parts), False
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b"".join(parts), True
            except ssl.SSLError as error:
                if not parts:
                    raise
                self._fault = error
                return b"".join(parts), True
            if not part:
                return b"".join(parts), True
            parts.append(part)

    def to_send(self) -> bytes:
        """The TLS records to send."""
        return self._outgoing.read()


def fault_of(error: Exception) -> str:
    """The message of a TLS error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
