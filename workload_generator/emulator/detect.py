"""What kind of platform a run measures: the log says so, since a figure from an emulator is none from a cluster."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

from workload_generator.log.format import HOST, KUBERNETES, LOCAL

_HEADER = "x-platform"
_TIMEOUT_S = 1.0


def platform_of(elsewhere: str | None) -> str:
    """Where the run takes place. `elsewhere` is the URL that stands for all targets, if one does.

    The embedded platform (`kn-bench local`) says that it is one, in a header; it speaks plain HTTP. Anything else is
    what this machine is: a pod's cluster, or just a host.
    """
    if elsewhere is not None and _says_local(elsewhere):
        return LOCAL
    return KUBERNETES if "KUBERNETES_SERVICE_HOST" in os.environ else HOST


def _says_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("HEAD", "/_platform")
        return connection.getresponse().getheader(_HEADER) == LOCAL
    except (OSError, http.client.HTTPException):  # whoever this is, the run will tell
        return False
    finally:
        connection.close()
