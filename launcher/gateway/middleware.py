"""Around every request: its id, its key, its line in the log, and the last catch for our own bugs. Pure ASGI."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from random import getrandbits

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launcher.errors import RateLimited, Unauthorized
from launcher.gateway.auth import KeyCheck
from launcher.gateway.errors import error_response, internal_error

log = logging.getLogger("launcher.access")

MAX_LOGGED_PATH = 200
ACCEPTED_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# Probes and scrapers carry no key; the documentation holds nothing to protect.
OPEN_PATHS = frozenset({"/live", "/ready", "/health", "/metrics", "/openapi.json", "/docs"})
TOO_MANY = 429
QUIET_PATHS = frozenset({"/live", "/ready", "/health", "/metrics"})


class RequestContext:
    """Gives each request an id (the caller's, where it sent a usable one), a log line, and an answer to every failure.

    Those refused with 429 share a line a second: one each would take a good part of what refusing costs, when it matters.
    """

    def __init__(self, app: ASGIApp, fingerprint: str) -> None:
        self._app = app
        self._fingerprint = fingerprint.encode()
        self._refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope["request_id"] = request_id.decode()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id),
                    (b"x-model-fingerprint", self._fingerprint),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            log.exception("request %s failed: a bug", scope["request_id"])
            if status:
                raise
            await internal_error("something went wrong inside the server")(scope, receive, send_with_headers)
        level = logging.DEBUG if status == TOO_MANY or scope["path"] in QUIET_PATHS else logging.INFO
        if status == TOO_MANY:
            self._count_refusal()
        if log.isEnabledFor(level):
            ms = (time.perf_counter() - started) * 1e3
            # As it was sent, so that a decoded line break cannot forge a line.
            path = scope["raw_path"][:MAX_LOGGED_PATH].decode("ascii", "backslashreplace")
            caller = scope.get("caller")
            who = caller.name if caller else "-"
            log.log(level, "%s %s %d %.1fms key=%s id=%s", scope["method"], path, status, ms, who, scope["request_id"])

    def _count_refusal(self) -> None:
        if not self._refused:
            asyncio.get_running_loop().call_later(1.0, self._tell_refusals)
        self._refused += 1

    def _tell_refusals(self) -> None:
        log.warning("refused with 429 in the last second: %d requests", self._refused)
        self._refused = 0


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and ACCEPTED_ID.fullmatch(value):
            return bytes(value)
    return new_request_id()


def new_request_id() -> bytes:
    # Not secret; drawn without the system call that random bytes for secrets need.
    return b"%032x" % getrandbits(128)


class RequireKey:
    """Answers 401 unless the request carries a known API key, and 429 where that has used up its limits."""

    def __init__(self, app: ASGIApp, keys: KeyCheck) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/docs/"):
            header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            try:
                scope["caller"] = caller = self._keys.caller_of(header)
                caller.begin()
            except (Unauthorized, RateLimited) as error:
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
