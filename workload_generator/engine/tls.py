"""TLS without I/O: a session over memory buffers, bytes in, bytes out."""

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
        """Take what the server said; True when the handshake is done. Raises ssl.SSLError."""
        self._incoming.write(received)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def encrypt(self, data: bytes) -> bytes:
        """The records that carry `data`."""
        self._session.write(data)
        return self._outgoing.read()

    def decrypt(self, received: bytes | memoryview) -> tuple[bytes, bool]:
        """The plain text that has become readable, and whether the server ended the session.

        Raises ssl.SSLError; plain text that came before a fault is returned first, the fault with the next call.
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
        """What the session wants to say."""
        return self._outgoing.read()


def fault_of(error: Exception) -> str:
    """What went wrong in TLS, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
