"""JSON replies."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

Header = tuple[bytes, bytes]


class JsonReply(Response):
    """Takes its body and headers as the bytes that are sent; Starlette's own encodes each header again for each reply."""

    def __init__(self, body: bytes, status: int = 200, headers: Sequence[Header] = ()) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
