"""A request's head and body, within the limits and of the right type."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from launcher.errors import BodyTooLarge, InvalidRequest, UnsupportedBody
from launcher.gateway.held import Share

TIMEOUT_HEADER = "x-request-timeout-ms"
TIMEOUT_BYTES = TIMEOUT_HEADER.encode()


class Head(msgspec.Struct, frozen=True):
    """``length``: of the body, 0 where it is not announced."""

    timeout_s: float
    length: int


class Limits(msgspec.Struct, frozen=True):
    """``timeout_s`` is for who asks for none."""

    max_body_bytes: int
    timeout_s: float
    max_timeout_s: float


def read_head(headers: Iterable[tuple[bytes, bytes]], limits: Limits) -> Head:
    """Raises ``BodyTooLarge`` where the body is announced to be, ``UnsupportedBody`` where it is not said to be JSON, and
    ``InvalidRequest`` for a deadline that is none."""
    timeout_s, length = limits.timeout_s, 0
    for name, value in headers:
        if name == b"content-type" and value != b"application/json":
            _check_type(value)
        elif name == b"content-length" and value.isdigit():
            length = int(value)
            if length > limits.max_body_bytes:
                raise BodyTooLarge(limits.max_body_bytes)
        elif name == TIMEOUT_BYTES:
            timeout_s = _timeout_s(value, limits.max_timeout_s)
    return Head(timeout_s, length)


async def read_body(receive: Receive, max_bytes: int, share: Share) -> bytes:
    """The body, which ``share`` holds as it comes. Raises ``BodyTooLarge`` and ``Overloaded`` as soon as it is known to be too
    much, and ``ClientDisconnect``."""
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


def _timeout_s(header: bytes, max_s: float) -> float:
    # A number of any length would take its time.
    milliseconds = int(header) if header.isdigit() and len(header) < 20 else 0
    if not 1 <= milliseconds <= max_s * 1000:
        raise InvalidRequest(
            f"{TIMEOUT_HEADER}: expected a whole number of milliseconds from 1 to {max_s * 1000:.0f}", param=TIMEOUT_HEADER
        )
    return milliseconds / 1000
