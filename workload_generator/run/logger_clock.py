"""How far this machine's clock is from the event logger's, so that delays between machines mean something.

Each exchange asks `/clock`, which answers when the request came and when the answer left, as NTP does (RFC 5905,
section 8). The one with the shortest round trip counts: the true offset lies within half of it.
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
    """This clock − that of `EVENT_LOGGER_URL`, which every receiver measures as well; None when nobody is named.

    Raises UsageError when who is named does not answer.
    """
    url = environment.get("EVENT_LOGGER_URL", "")
    if not url:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise UsageError(f"--event: EVENT_LOGGER_URL {url!r} is not a URL that begins with http://")
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
        raise UsageError(f"--event: EVENT_LOGGER_URL {url} does not tell its time: {error}") from None
    finally:
        connection.close()
    assert best is not None
    return {"url": url, "offset_ns": best[1], "half_rtt_ns": best[0]}
