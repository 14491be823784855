"""The gateway put together: routing, and what stands before it."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.gateway.access import AccessLog
from launcher.gateway.auth import KeyCheck
from launcher.gateway.errors import error_body, http_error_response
from launcher.gateway.middleware import RequestContext, RequireKey
from launcher.gateway.reply import JsonReply
from launcher.gateway.traced import Traced
from launcher.telemetry.tracing import Tracer

EXPOSED_HEADERS = (
    "x-request-id",
    "x-model-fingerprint",
    "x-truncated-inputs",
    "x-cache",
    "x-tokenization-time-ms",
    "x-queue-time-ms",
    "x-inference-time-ms",
    "retry-after",
)


def build_app(
    routes: Sequence[BaseRoute],
    *,
    fingerprint: str,
    keys: KeyCheck | None,
    allowed_origins: Sequence[str],
    access: AccessLog,
    tracer: Tracer | None,
) -> ASGIApp:
    """``keys`` None: no key is asked for; ``tracer`` None: nothing is traced. CORS comes before the key, since a preflight
    carries none."""
    app: ASGIApp = Dispatch(routes)
    if tracer:
        # Whoever has no key may not have traces made.
        app = Traced(app, tracer)
    if keys:
        app = RequireKey(app, keys)
    if allowed_origins:
        app = Cors(
            app,
            allow_origins=allowed_origins,
            allow_methods=["GET", "POST"],
            # OpenAI's JavaScript client sends a dozen of its own.
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    return RequestContext(app, fingerprint, access)


class Dispatch:
    """Starlette's routing, with a short way to the routes that have one path: Starlette tries one route after the other,
    within three layers of error handling."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        plain = [route for route in routes if isinstance(route, Route) and not route.param_convertors]
        self._apps = {(method, route.path): route.app for route in plain for method in route.methods or ()}
        self._all = Starlette(routes=routes, exception_handlers={HTTPException: http_error_response})
        # A redirect would name the Host header's address, whatever proxy stands before this server.
        self._all.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._apps.get((scope["method"], scope["path"]), self._all)
        await app(scope, receive, send)


class Cors(CORSMiddleware):
    """Refuses a preflight with this server's error body instead of plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        body = error_body(f"{bytes(response.body).decode()} (server.cors)", "invalid_request_error", None, None)
        return JsonReply(body, response.status_code, reason="invalid")
