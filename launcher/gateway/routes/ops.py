"""What operators and probes call. None of it waits for the engine."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from launcher.errors import NotReady
from launcher.gateway.errors import error_response
from launcher.gateway.readiness import Readiness
from launcher.gateway.reply import JsonReply
from launcher.telemetry.formats import Encode, format_for


class OpsRoutes:
    def __init__(self, readiness: Readiness, render_metrics: Callable[[Encode], bytes]) -> None:
        self._readiness = readiness
        self._render_metrics = render_metrics

    def routes(self) -> list[Route]:
        return [
            Route("/live", self._live),
            Route("/ready", self._ready),
            Route("/health", self._ready),
            Route("/metrics", self._metrics),
        ]

    async def _live(self, request: Request) -> Response:
        return JsonReply(orjson.dumps({"status": "ok"}))

    async def _ready(self, request: Request) -> Response:
        reason = self._readiness.reason()
        if reason is None:
            return JsonReply(orjson.dumps({"status": "ok"}))
        return error_response(NotReady(reason))

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = format_for(",".join(request.headers.getlist("accept")))
        return Response(self._render_metrics(encode), media_type=content_type)
