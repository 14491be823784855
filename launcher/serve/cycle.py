"""One request and its reply: uvicorn's cycle with this server's way of sending."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from launcher.gateway.reply import Header

# Of these there is none, whatever the headers say.
WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """Sends a reply's head and the beginning of its body in one write.

    A proxy that has seen a head cannot ask another server any more. Of two writes the second was missing in one of fifteen
    servers that were killed under load (2026-11-21).
    """

    # Until the body's beginning is there.
    _head = b""

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected:
            raise RuntimeError(f"the application sent {message['type']} in place of {expected}")
        if not self.response_started:
            self._begin(message["status"], [*self.default_headers, *message["headers"]])
        else:
            self._continue(message.get("body", b""), message.get("more_body", False))

    def _begin(self, status: int, headers: Sequence[Header]) -> None:
        """Names are in lower case, as Starlette writes them. Raises ``RuntimeError`` where a header would be taken for several,
        or says how the body is cut up, which is said here."""
        head = [STATUS_LINE[status]]
        length: int | None = None
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and b"close" not in value.lower()
                continue
            elif name == b"transfer-encoding":
                raise RuntimeError("the application sent a transfer-encoding of its own")
            head.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            head.append(b"connection: close\r\n")
        if self.scope["method"] == "HEAD" or status in WITHOUT_BODY:
            length = 0
        self.chunked_encoding = length is None
        if self.chunked_encoding:
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        self._head = b"".join(head)
        if not self._head.count(b"\n") == self._head.count(b"\r") == len(head):
            raise RuntimeError("a header holds a line break")
        self.expected_content_length = length or 0
        self.response_started = True
        self.waiting_for_100_continue = False

    def _continue(self, body: bytes, more: bool) -> None:
        """Raises ``RuntimeError`` where the body is not as long as the head says."""
        if self.response_complete:
            raise RuntimeError("the reply is complete already")
        if self.scope["method"] == "HEAD":
            body = b""
        parts = self._chunk(body, more) if self.chunked_encoding else self._part(body, more)
        # A piece of a long body goes as it is: to join it would copy it.
        self.transport.write(b"".join((self._head, *parts)) if self._head or len(parts) != 1 else parts[0])
        self._head = b""
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _part(self, body: bytes, more: bool) -> tuple[bytes, ...]:
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more):
            raise RuntimeError("the body is not as long as its Content-Length")
        return (body,)

    def _chunk(self, body: bytes, more: bool) -> tuple[bytes, ...]:
        framed = (b"%x\r\n" % len(body), body, b"\r\n") if body else ()
        return framed if more else (*framed, b"0\r\n\r\n")
