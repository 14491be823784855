"""A request's body, within the limit and of the right type."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from launcher.errors import BodyTooLarge, UnsupportedBody
from launcher.gateway.held import Share

# A longer body is refused before it comes where there is no room for it; a shorter one is here by then.
EXPECTED_BYTES = 64 << 10


async def read_json_body(scope: Scope, receive: Receive, max_bytes: int, share: Share) -> bytes:
    """The body, which ``share`` holds as it comes.

    Raises ``BodyTooLarge`` and ``Overloaded`` as soon as the body is known to be too much, ``UnsupportedBody`` where it is not
    said to be JSON, and ``ClientDisconnect``.
    """
    for name, value in scope["headers"]:
        if name == b"content-type" and value != b"application/json":
            _check_type(value)
        elif name == b"content-length" and value.isdigit():
            length = int(value)
            if length > max_bytes:
                raise BodyTooLarge(max_bytes)
            if length > EXPECTED_BYTES:
                share.expect(length)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(max_bytes)
        share.add(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)


def _check_type(header: bytes) -> None:
    content_type = header.partition(b";")[0].strip().lower().decode("latin-1")
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise UnsupportedBody(content_type)
