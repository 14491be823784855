"""Nobody who lacks this start's secret may call a worker's own HTTP API, which can do whatever it likes to the model.

SGLang's own check of keys lets some paths pass, such as those that begin with /health, one of which makes the model work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

KEY_VARIABLE = "SGLEMBED_KEY"
REFUSAL = b'{"error": "Unauthorized"}'


class Secret(str):
    """SGLang prints its settings when its log is turned up."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<secret>'"


def set_key(server_args: Any, *given: Any, **named: Any) -> None:
    """After SGLang read its command line: ask for this start's secret, unless the operator named a key there."""
    # Out of the environment, so that the processes that SGLang starts do not inherit it.
    secret = Secret(os.environ.pop(KEY_VARIABLE))
    if server_args.api_key is not None:
        return
    if hasattr(server_args, "override"):
        # SGLang 0.5.17 closed its settings by now but for this door.
        server_args.override("sgl-embed", api_key=secret)
    else:
        server_args.api_key = secret


def guard_all(add: Callable[..., None], app: Any, *, api_key: str | None, admin_api_key: str | None) -> None:
    """Around SGLang's ``add_api_key_middleware``: before its own check, one without exceptions."""
    add(app, api_key=api_key, admin_api_key=admin_api_key)
    app.add_middleware(Guard, keys=tuple(key for key in (api_key, admin_api_key) if key))


class Guard:
    """Lets requests pass that carry one of ``keys``; ASGI."""

    def __init__(self, app: Any, keys: tuple[str, ...]) -> None:
        self._app = app
        self._accepted = tuple(b"Bearer " + key.encode() for key in keys)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or self._knows(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(REFUSAL))]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _knows(self, headers: list[tuple[bytes, bytes]]) -> bool:
        shown = next((value for name, value in headers if name == b"authorization"), b"")
        return any(compare_digest(shown, accepted) for accepted in self._accepted)
