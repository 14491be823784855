"""What each exception means over HTTP, decided here and nowhere else.

The body follows OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from launcher.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    HeadTimeout,
    HeadTooLarge,
    MalformedRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    RateLimited,
    RequestError,
    SglEmbedError,
    TooManyConnections,
    Unauthorized,
    UnsupportedBody,
)
from launcher.gateway.reply import Header, JsonReply
from launcher.telemetry.hooks import Reason


@dataclass(frozen=True, slots=True)
class Meaning:
    """``reason`` is the word of the metrics."""

    status: int
    type: str
    reason: Reason
    code: str | None = None


# The first class that fits decides, so that a more particular one stands above its base.
MEANINGS: tuple[tuple[type[Exception], Meaning], ...] = (
    (Unauthorized, Meaning(401, "authentication_error", "unauthorized")),
    (ModelNotFound, Meaning(404, "invalid_request_error", "model_not_found")),
    (HeadTimeout, Meaning(408, "timeout_error", "head_timeout")),
    (BodyTooLarge, Meaning(413, "invalid_request_error", "body_too_large")),
    (UnsupportedBody, Meaning(415, "invalid_request_error", "unsupported_body")),
    (HeadTooLarge, Meaning(431, "invalid_request_error", "head_too_large")),
    (MalformedRequest, Meaning(400, "invalid_request_error", "malformed")),
    (RequestError, Meaning(400, "invalid_request_error", "invalid")),
    (Overloaded, Meaning(429, "overloaded_error", "overloaded", "overloaded")),
    (RateLimited, Meaning(429, "rate_limit_error", "rate_limited", "rate_limit_exceeded")),
    (TooManyConnections, Meaning(503, "unavailable_error", "too_many_connections", "too_many_connections")),
    (NotReady, Meaning(503, "unavailable_error", "not_ready", "not_ready")),
    (DeadlineExceeded, Meaning(504, "timeout_error", "deadline_exceeded", "deadline_exceeded")),
)
INTERNAL = Meaning(500, "server_error", "internal_error", "internal_error")


def error_body(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})


def error_response(error: SglEmbedError) -> JsonReply:
    """The reply to an error that was raised on purpose; an engine's own words stay in the log."""
    meaning = next((meaning for kind, meaning in MEANINGS if isinstance(error, kind)), INTERNAL)
    if meaning is INTERNAL:
        return internal_error("the engine failed on this request")
    param = error.param if isinstance(error, RequestError) else None
    code = (error.code if isinstance(error, RequestError) else None) or meaning.code
    headers: list[Header] = []
    if isinstance(error, Overloaded | RateLimited):
        headers.append((b"retry-after", b"%d" % math.ceil(error.retry_after_s)))
    if isinstance(error, NotReady | TooManyConnections):
        headers += [(b"connection", b"close"), (b"retry-after", b"1")]
    if isinstance(error, DeadlineExceeded | BodyTooLarge):
        # The rest of the upload would be taken for the next request.
        headers.append((b"connection", b"close"))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    return JsonReply(error_body(str(error), meaning.type, param, code), meaning.status, headers, reason=meaning.reason)


def internal_error(message: str) -> JsonReply:
    """500 without internals: the request id of the header finds the details in the log."""
    message = f"{message}; the server's log has the details under this x-request-id"
    body = error_body(message, INTERNAL.type, None, INTERNAL.code)
    return JsonReply(body, INTERNAL.status, reason=INTERNAL.reason)


def http_error_response(request: Request, error: Exception) -> JsonReply:
    """The routing layer's own errors (no such route, wrong method) in the same shape."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is nothing at {request.url.path}; the routes are listed at /docs",
        405: f"{request.method} is not possible at {request.url.path}",
    }
    message = messages.get(error.status_code, error.detail)
    headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return JsonReply(error_body(message, "invalid_request_error", None, None), error.status_code, headers, reason="not_found")
