"""Which requests are traced, where tracing is on. Pure ASGI."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Receive, Scope, Send

from launcher.gateway.routes.inference import EMBEDDINGS, TOKENIZE
from launcher.telemetry.tracing import Tracer

# Those that ask the model, whatever becomes of them.
ROUTES = frozenset({EMBEDDINGS, TOKENIZE})


class Traced:
    """Begins a request's trace, which ends where its line in the log is written."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in ROUTES and scope["method"] == "POST":
            scope["entry"].trace = self._tracer.begin(scope["headers"], scope["path"], time.perf_counter())
        await self._app(scope, receive, send)
