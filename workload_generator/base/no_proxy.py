"""HTTP requests to this machine, which ignore the environment's proxy."""

from __future__ import annotations

import http.client
import urllib.request
from typing import cast


def open_directly(request: str | urllib.request.Request, timeout_s: float) -> http.client.HTTPResponse:
    """The response to `request`, a URL for a GET. Raises what `urllib.request.urlopen` raises."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast(http.client.HTTPResponse, opener.open(request, timeout=timeout_s))
