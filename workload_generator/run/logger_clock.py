"""The offset of this machine's clock from the event logger's, for event delays between machines.

Each request to `/clock` returns the times at which it came and at which the response left, as in NTP (RFC 5905,
section 8). The request with the shortest round trip counts: the true offset is within half of it.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from workload_generator.base.errors import UsageError

_EXCHANGES = 16
_TIMEOUT_S = 2.0


def measured_clock(environment: Mapping[str, str] = os.environ) -> dict[str, object] | None:
    """This clock − that of `EVENT_LOGGER_URL`, which receivers measure too; None when the variable is not set.

    Raises UsageError when the event logger does not respond.
    """
    url = environment.get("EVENT_LOGGER_URL", "")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise UsageError(f"--event: EVENT_LOGGER_URL {url!r} must begin with http://")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_TIMEOUT_S)
    best: tuple[int, int] | None = None
    try:
        for _ in range(_EXCHANGES):
            began_ns = time.time_ns()
            connection.request("GET", "/clock")
            answer = json.loads(connection.getresponse().read())
            ended_ns = time.time_ns()
            inside_ns = answer["sent_ns"] - answer["received_ns"]
            half_rtt_ns = max(0, ended_ns - began_ns - inside_ns) // 2
            middle_ns = (answer["sent_ns"] + answer["received_ns"]) // 2
            best = min(best or (half_rtt_ns + 1, 0), (half_rtt_ns, (began_ns + ended_ns) // 2 - middle_ns))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--event: no time from the event logger at {url} (EVENT_LOGGER_URL): {error}") from None
    finally:
        connection.close()
    assert best is not None
    return {"url": url, "offset_ns": best[1], "half_rtt_ns": best[0]}
