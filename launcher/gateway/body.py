"""A request's body, within the limit and of the right type."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """Raises ``HTTPException`` 413 as soon as the body is known to be too long, 415 where it is not said to be JSON."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise HTTPException(415, f"the body is said to be {content_type}; send 'Content-Type: application/json'")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(max_bytes: int) -> HTTPException:
    # The rest of the body is not read, so the connection cannot serve another request.
    return HTTPException(
        413, f"the body is larger than {max_bytes >> 20} MiB; send the inputs in several requests", {"Connection": "close"}
    )
