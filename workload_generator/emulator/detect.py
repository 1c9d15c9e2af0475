"""The kind of platform that a run measures, for its log: an emulator's figures are not a cluster's."""

from __future__ import annotations

import http.client
import os
from urllib.parse import urlsplit

from workload_generator.log.format import HOST, KUBERNETES, LOCAL

_HEADER = "x-platform"
_TIMEOUT_S = 1.0


def platform_of(dev_url: str | None) -> str:
    """The platform of a run: `local`, `kubernetes` or `host`. `dev_url` replaces the targets' hosts, if given.

    The embedded platform (`kn-bench local`) is known by a header of its responses; it has no TLS. Otherwise the run is
    in a pod of a cluster, or on a plain host.
    """
    if dev_url is not None and _is_local(dev_url):
        return LOCAL
    return KUBERNETES if "KUBERNETES_SERVICE_HOST" in os.environ else HOST


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        return False
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    try:
        connection.request("HEAD", "/_platform")
        return connection.getresponse().getheader(_HEADER) == LOCAL
    except (OSError, http.client.HTTPException):  # the run reports it
        return False
    finally:
        connection.close()
