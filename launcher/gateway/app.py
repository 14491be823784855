"""The gateway put together: routes, middleware and error handlers as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from launcher.gateway.auth import KeyCheck
from launcher.gateway.errors import error_body, http_error_response, json_response
from launcher.gateway.middleware import RequestContext, RequireKey

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
    routes: Sequence[BaseRoute], *, fingerprint: str, keys: Mapping[str, str], allowed_origins: Sequence[str]
) -> ASGIApp:
    """``keys`` maps a name to its API key; empty: no key is asked for. CORS comes first, since a preflight carries no key."""
    middleware = [Middleware(RequestContext, fingerprint=fingerprint)]
    if allowed_origins:
        middleware.append(
            Middleware(
                Cors,
                allow_origins=allowed_origins,
                allow_methods=["GET", "POST"],
                # OpenAI's JavaScript client sends a dozen of its own.
                allow_headers=["*"],
                expose_headers=EXPOSED_HEADERS,
            )
        )
    if keys:
        middleware.append(Middleware(RequireKey, keys=KeyCheck(keys)))
    app = Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: http_error_response})
    # A redirect would name the Host header's address, whatever proxy stands before this server.
    app.router.redirect_slashes = False
    return app


class Cors(CORSMiddleware):
    """Refuses a preflight with this server's error body instead of plain text."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        reason = bytes(response.body).decode()
        return json_response(error_body(f"{reason} (server.cors)", "invalid_request_error", None, None), response.status_code)
