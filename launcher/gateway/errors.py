"""What each exception means over HTTP, decided here and nowhere else.

The body follows OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from launcher.errors import (
    DeadlineExceeded,
    ModelNotFound,
    NotReady,
    Overloaded,
    RequestError,
    SglEmbedError,
    Unauthorized,
)


@dataclass(frozen=True, slots=True)
class Meaning:
    status: int
    type: str
    code: str | None = None


# The first class that fits decides, so that a more particular one stands above its base.
MEANINGS: tuple[tuple[type[Exception], Meaning], ...] = (
    (Unauthorized, Meaning(401, "authentication_error")),
    (ModelNotFound, Meaning(404, "invalid_request_error")),
    (RequestError, Meaning(400, "invalid_request_error")),
    (Overloaded, Meaning(429, "overloaded_error", "overloaded")),
    (NotReady, Meaning(503, "unavailable_error", "not_ready")),
    (DeadlineExceeded, Meaning(504, "timeout_error", "deadline_exceeded")),
)
INTERNAL = Meaning(500, "server_error", "internal_error")


def error_body(message: str, type: str, param: str | None, code: str | None) -> bytes:
    return orjson.dumps({"error": {"message": message, "type": type, "param": param, "code": code}})


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, media_type="application/json")


def error_response(error: SglEmbedError) -> Response:
    """The reply to an error that was raised on purpose; an engine's own words stay in the log."""
    meaning = next((meaning for kind, meaning in MEANINGS if isinstance(error, kind)), INTERNAL)
    if meaning is INTERNAL:
        return internal_error("the engine failed on this request")
    param = error.param if isinstance(error, RequestError) else None
    code = (error.code if isinstance(error, RequestError) else None) or meaning.code
    headers = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, NotReady):
        headers |= {"Connection": "close", "Retry-After": "1"}
    if isinstance(error, DeadlineExceeded):
        # The rest of a stalled upload would be taken for the next request.
        headers["Connection"] = "close"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(error_body(str(error), meaning.type, param, code), meaning.status, headers)


def internal_error(message: str) -> Response:
    """500 without internals: the request id of the header finds the details in the log."""
    message = f"{message}; the server's log has the details under this x-request-id"
    body = error_body(message, INTERNAL.type, None, INTERNAL.code)
    return json_response(body, INTERNAL.status)


def http_error_response(request: Request, error: Exception) -> Response:
    """The routing layer's own errors (no such route, wrong method, body too large) in the same shape."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"there is nothing at {request.url.path}; the routes are listed at /docs",
        405: f"{request.method} is not possible at {request.url.path}",
    }
    message = messages.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    return json_response(error_body(message, "invalid_request_error", None, None), error.status_code, headers)
