"""The errors of the API server, each as an exception."""

from __future__ import annotations

import re
from http.client import responses

import orjson

from workload_generator.base.errors import BenchError

_LONGEST_TEXT = 300
_UNTYPED = "failed to create typed patch object"


class ApiError(BenchError):
    """A failed request: HTTP `status` (0 without a response), and the API's `reason`, such as `Conflict`."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class Unreachable(ApiError):
    """No response: no server, an unknown name, an untrusted certificate, a time-out or a broken connection."""


class Unauthorized(ApiError):
    """401, even with credentials that were loaded again."""


class Forbidden(ApiError):
    """403: the credentials do not allow it, or an admission plugin refuses it."""


class NotFound(ApiError):
    """404: there is no such object."""


class ApiAbsent(NotFound):
    """404: the cluster does not have this API; the product that brings it is not installed."""


class ApiConflict(ApiError):
    """409: the object has changed meanwhile, another manager owns a field, or it exists already (see `reason`)."""


class Expired(ApiError):
    """410: this resourceVersion or page token is too old. List again."""


class Invalid(ApiError):
    """400, 415 or 422: the object does not match the API's schema."""


class Busy(ApiError):
    """429 or 5xx, after retries: see `retry_after_s`."""


class WaitTimeout(BenchError):
    """A condition was not met in time; the message has the last state."""


_KINDS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: ApiConflict,
    410: Expired,
    415: Invalid,
    422: Invalid,
    429: Busy,
}


def error_of(method: str, path: str, status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The exception for a response: `body` is the API's Status object, or any text of a proxy."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    is_status = isinstance(answer, dict) and answer.get("kind") == "Status"
    reason = str(answer.get("reason") or "") if is_status else ""
    text = body.decode(errors="replace").strip()[:_LONGEST_TEXT]
    message = str(answer.get("message") or "") if is_status else text
    reason = reason or responses.get(status, "unknown status")
    kind = _KINDS.get(status, Busy if status >= 500 else ApiError)
    if _UNTYPED in message:  # the response to an apply with an unknown field has status 500
        kind = Invalid
    if status == 404 and not is_status:
        kind, reason = ApiAbsent, "ApiAbsent"
        api = re.sub("^/apis?/|namespaces/[^/]+/", "", path)
        message = f"the cluster has no API {api}: the product that brings it is not installed"
    # Only a proxy sends an HTTP date.
    wait_s = float(retry_after) if retry_after and retry_after.isdecimal() else None
    text = f"{method} {path}: {message or 'no message'} ({status} {reason})"
    return kind(text, status=status, reason=reason, retry_after_s=wait_s)


def error_of_status(path: str, answer: dict[str, object]) -> ApiError:
    """The exception for the Status object of a watch's ERROR event."""
    code = answer.get("code")
    return error_of("WATCH", path, code if isinstance(code, int) else 500, orjson.dumps(answer))
