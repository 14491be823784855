"""A reply's head and the beginning of its body, in one write."""

from __future__ import annotations

import asyncio

# All that uvicorn sends before a reply's head.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class WholeWrites:
    """The transport of one request's cycle. Not for a request whose reply is a head alone.

    A proxy that has seen a head cannot ask another server any more. Of two writes the second was missing in one of fifteen
    servers that were killed under load (2026-11-21).
    """

    # The cycle has this, so this has no cycle: what refers to each other waits for a search for garbage.
    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None and data != CONTINUE:
            self._head = data
        elif self._head:
            self._transport.write(b"".join((self._head, data)))
            self._head = b""
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
