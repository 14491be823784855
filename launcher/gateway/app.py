"""The gateway put together: routes, middleware and error handlers as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from launcher.gateway.auth import KeyCheck
from launcher.gateway.errors import http_error_response
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
                CORSMiddleware,
                allow_origins=allowed_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
                expose_headers=EXPOSED_HEADERS,
            )
        )
    if keys:
        middleware.append(Middleware(RequireKey, keys=KeyCheck(keys)))
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: http_error_response})
