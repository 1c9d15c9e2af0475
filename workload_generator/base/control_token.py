"""The token of the embedded platform's control interface, in a file that only its user can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from workload_generator.base.errors import BenchError
from workload_generator.base.private_folder import make_private_folder


def token_path(port: int) -> Path:
    """The file with the token of the platform on this port. Raises UsageError."""
    return make_private_folder() / f"local-{port}.token"


@contextlib.contextmanager
def token_file(port: int) -> Iterator[str]:
    """A new token, in its file while the context is active. Raises UsageError, OSError."""
    path, token = token_path(port), secrets.token_urlsafe()
    path.unlink(missing_ok=True)  # left behind by a platform that was killed
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def control_headers(url: str) -> dict[str, str]:
    """The headers of requests to the control interface of the platform at `url`; none without its token."""
    with contextlib.suppress(OSError, BenchError):
        return {"Authorization": f"Bearer {token_path(urlsplit(url).port or 80).read_text()}"}
    return {}
