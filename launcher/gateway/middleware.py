"""Around every request: its id, its key, its line in the log, and the last catch for our own bugs. Pure ASGI."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.errors import RateLimited, Unauthorized
from launcher.gateway.access import AccessLog, Entry, request_id_of
from launcher.gateway.auth import KeyCheck
from launcher.gateway.errors import error_response, internal_error
from launcher.telemetry.lines import Event

log = logging.getLogger("launcher.access")

# Probes and scrapers carry no key; the documentation holds nothing to protect.
OPEN_PATHS = frozenset({"/live", "/ready", "/health", "/metrics", "/openapi.json", "/docs"})


class RequestContext:
    """Gives each request an id (the caller's, where it sent a usable one), a log line, and an answer to every failure."""

    def __init__(self, app: ASGIApp, fingerprint: str, access: AccessLog) -> None:
        self._app = app
        self._fingerprint = fingerprint.encode()
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request_id = request_id_of(scope["headers"])
        entry = scope["entry"] = Entry(scope["method"], scope["raw_path"], request_id.decode())

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id),
                    (b"x-model-fingerprint", self._fingerprint),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception(Event(f"request {entry.request_id} failed: a bug", request_id=entry.request_id))
            if entry.status:
                raise
            await internal_error("something went wrong inside the server")(scope, receive, send_with_headers)
        entry.seconds = time.perf_counter() - started
        self._access.note(entry)


class RequireKey:
    """Answers 401 unless the request carries a known API key, and 429 where that has used up its limits."""

    def __init__(self, app: ASGIApp, keys: KeyCheck) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/docs/"):
            try:
                scope["caller"] = caller = self._keys.caller_of(scope["headers"])
                scope["entry"].key = caller.name
                caller.begin()
            except (Unauthorized, RateLimited) as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
