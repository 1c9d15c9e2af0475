"""What the API server can answer instead of what was asked for, each as an exception of its own."""

from __future__ import annotations

from http import HTTPStatus

import orjson

from workload_generator.base.errors import BenchError

_LONGEST_TEXT = 300
_UNTYPED = "failed to create typed patch object"


class ApiError(BenchError):
    """A refused request. `status` is HTTP's, 0 when none came; `reason` the API's word, such as `Conflict`."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class Unreachable(ApiError):
    """No answer: nothing listens, the name is unknown, the certificate is not trusted, or the answer did not come."""


class Unauthorized(ApiError):
    """401, also with credentials that were just loaded again."""


class Forbidden(ApiError):
    """403: these credentials may not do this, or an admission plugin says no."""


class NotFound(ApiError):
    """404: there is no such object."""


class ApiAbsent(NotFound):
    """404: the cluster does not have this API at all, since what brings it is not installed."""


class Conflict(ApiError):
    """409: someone else changed the object meanwhile, owns a field, or it exists already (`reason` says which)."""


class Expired(ApiError):
    """410: this resourceVersion, or the token of the next page, is too old. List again."""


class Invalid(ApiError):
    """400, 415 or 422: the object is not what the API's schema asks for."""


class Busy(ApiError):
    """429 or 5xx that did not go away: see `retry_after_s`."""


class WaitTimeout(BenchError):
    """What was waited for did not happen in time; the text says what was last seen."""


def error_of(method: str, path: str, status: int, body: bytes, retry_after: str | None = None) -> ApiError:
    """The exception for an answer of `status` with `body` (the API's Status object, or whatever a proxy sent)."""
    reason, message, is_status = "", "", False
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        message = body.decode(errors="replace").strip()[:_LONGEST_TEXT]
    else:
        if isinstance(answer, dict) and answer.get("kind") == "Status":
            is_status = True
            reason, message = str(answer.get("reason") or ""), str(answer.get("message") or "")
        else:
            message = body.decode(errors="replace")[:_LONGEST_TEXT]
    reason = reason or _phrase(status)
    kind = _KINDS.get(status, Busy if status >= 500 else ApiError)
    if _UNTYPED in message:  # an apply with a field that the schema does not have is answered with 500
        kind = Invalid
    if status == 404 and not is_status:
        kind, reason = ApiAbsent, "ApiAbsent"
        message = f"the cluster has no API {_api_of(path)}: what brings it is not installed"
    try:
        wait_s = float(retry_after) if retry_after else None
    except ValueError:  # an HTTP date: the API server never sends one, a proxy may
        wait_s = None
    text = f"{method} {path}: {message or 'no message'} ({status} {reason})"
    return kind(text, status=status, reason=reason, retry_after_s=wait_s)


def error_of_status(path: str, answer: dict[str, object]) -> ApiError:
    """The exception for the Status object that a watch sends as an ERROR event."""
    code = answer.get("code")
    return error_of("WATCH", path, code if isinstance(code, int) else 500, orjson.dumps(answer))


_KINDS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    415: Invalid,
    422: Invalid,
    429: Busy,
}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no known status"


def _api_of(path: str) -> str:
    """`serving.knative.dev/v1 services` of `/apis/serving.knative.dev/v1/namespaces/functions/services/x`."""
    words = path.strip("/").split("/")
    group_version, rest = ("/".join(words[1:3]), words[3:]) if words[0] == "apis" else (words[-1], words[2:])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    return " ".join([group_version, *rest[:1]])
