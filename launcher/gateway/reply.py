"""JSON replies."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from launcher.gateway.work import Work
from launcher.telemetry.hooks import Reason

Header = tuple[bytes, bytes]

# What is handed over at once for a client to take. The rest waits here, where it is counted, and not in the transport.
PIECE_BYTES = 256 << 10


class JsonReply(Response):
    """Takes its body and headers as the bytes that are sent; Starlette's own encodes each header again for each reply.

    ``tokens`` is what it cost the engine, for the caller's account; ``work`` what the log says of it; ``reason`` why it is an
    error, None where it is none.
    """

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: Sequence[Header] = (),
        tokens: int = 0,
        reason: Reason | None = None,
        work: Work | None = None,
    ) -> None:
        self.status_code = status
        self.reason = reason
        self.tokens = tokens
        self.work = work
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns once the client has taken what is longer than a piece, but for a little."""
        entry = scope["entry"]
        entry.reason, entry.work = self.reason, self.work
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if len(self.body) > PIECE_BYTES:
            view = memoryview(self.body)
            for start in range(0, len(view), PIECE_BYTES):
                await send({"type": "http.response.body", "body": view[start : start + PIECE_BYTES], "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": self.body})
