"""HTTP/1.1 on one connection: uvicorn's, with limits of time and size, and errors in this server's words."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from launcher.errors import HeadTimeout, HeadTooLarge, MalformedRequest, SglEmbedError
from launcher.gateway.access import AccessLog, new_request_id
from launcher.gateway.door import Door
from launcher.gateway.errors import error_response
from launcher.gateway.reply import Header, JsonReply
from launcher.serve.cycle import Cycle
from launcher.telemetry.lines import Event

log = logging.getLogger("launcher.access")

# Of a request line and its headers together.
MAX_HEAD_BYTES = 32 << 10
# Requests sent ahead on a connection, each of which takes far more memory parsed than sent.
MAX_PIPELINED = 64
UPGRADE_WITH_BODY = (
    "a request with a body cannot offer to upgrade to another protocol; "
    "have the client speak HTTP/1.1 (in Java: HttpClient.Version.HTTP_1_1)"
)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds: of a connection without a request, of a request's head, of a client that takes nothing of its reply."""

    keep_alive: float
    head: float
    send: float


class Connections(ServerState):
    """What all connections share. ``arriving`` holds those that are accepted but not open yet, as in a TLS handshake."""

    def __init__(self) -> None:
        super().__init__()
        self.arriving: set[asyncio.Protocol] = set()


class Answered:
    """In the place of uvicorn's cycle where a request is answered at its head, so that the rest of it is passed over."""

    response_complete = True

    def __init__(self) -> None:
        self.more_body = True
        self.message_event = asyncio.Event()


class HttpProtocol(HttpToolsProtocol):
    """A client's part is bounded at every step; ``check`` is called every so often, which is cheaper than a timer each."""

    def __init__(self, config: Config, state: Connections, door: Door, access: AccessLog, timeouts: Timeouts) -> None:
        super().__init__(config, state, app_state={})
        self._arriving = state.arriving
        self._door = door
        self._access = access
        self._timeouts = timeouts
        self._arriving.add(self)
        # When the head that is arriving in several pieces began, else when the connection was last in use.
        self._since = 0.0
        # What has come of that head; 0: there is none.
        self._head_bytes = 0
        # Of what surrounds a chunked body: sizes, extensions, trailers.
        self._framing_bytes = 0
        self._got_body = False
        # Whether to close once the request has come whole, which was answered before.
        self._last = False
        # Why nothing more is read.
        self._refusal: SglEmbedError | None = None
        # Bytes that the client had yet to take when it was last seen to take some, and when that was.
        self._unsent = 0
        self._unsent_since = 0.0
        self._resumed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._arriving.discard(self)
        super().connection_made(transport)
        self._since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if len(data) <= MAX_HEAD_BYTES:
            self._feed(data)
        else:
            # What one piece completes is no longer than the piece.
            view = memoryview(data)
            for start in range(0, len(view), MAX_HEAD_BYTES):
                self._feed(view[start : start + MAX_HEAD_BYTES])

    def _feed(self, piece: bytes | memoryview) -> None:
        if self._refusal:
            return
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._pass_over_upgrade()
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, SglEmbedError) else MalformedRequest(why(error)))
            return
        if self.scope is None:
            return
        if "method" not in self.scope:
            self._count_head(len(piece))
        elif self.cycle.more_body:
            self._count_framing(len(piece))

    def _pass_over_upgrade(self) -> None:
        """To stay with HTTP/1.1 is allowed, and the reply says so by being one. But the parser has left out the body."""
        if any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in self.headers):
            self.cycle.more_body = True
            self._refuse(MalformedRequest(UPGRADE_WITH_BODY))

    def _count_head(self, fed: int) -> None:
        if not self._head_bytes:
            self._since = self.loop.time()
            # The piece may hold the end of the request before, too.
            fed = max(self._parsed_head_bytes(), 1)
        self._head_bytes += fed
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(MAX_HEAD_BYTES))

    def _count_framing(self, fed: int) -> None:
        self._framing_bytes = 0 if self._got_body else self._framing_bytes + fed
        self._got_body = False
        if self._framing_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge(MAX_HEAD_BYTES))

    def _parsed_head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def on_headers_complete(self) -> None:
        if self._head_bytes:
            self._head_bytes = 0
            if self._parsed_head_bytes() > MAX_HEAD_BYTES:
                raise HeadTooLarge(MAX_HEAD_BYTES)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest(f"more than {MAX_PIPELINED} requests were sent ahead of their replies")
        if not (self._may_answer_at_once() and (reply := self._refusal_at_the_door())):
            self._begin_request()
            return
        self.scope["method"] = "POST"
        self.cycle = Answered()  # type: ignore[assignment]
        # To HTTP/1.0 uvicorn never promises to keep the connection.
        keeps = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        self._last = self.expect_100_continue or not keeps
        self._since = self.loop.time()
        self.transport.write(whole_reply(reply, self.server_state.default_headers, close=self._last))

    def _begin_request(self) -> None:
        """As uvicorn does it, for what this server has of it."""
        version = self.parser.get_http_version()
        target = httptools.parse_url(self.url)
        path = target.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = target.path
        self.scope["query_string"] = target.query or b""
        waits = self._answering()
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def _may_answer_at_once(self) -> bool:
        """Not before the replies that are due, nor to who takes none of them, nor where the parser will leave out the body."""
        return not (self._answering() or self.flow.write_paused or self.parser.should_upgrade())

    def _refusal_at_the_door(self) -> JsonReply | None:
        return self._door.refuse(self.parser.get_method(), self.url, self.headers)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.cycle.more_body = False
        if self._last:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._got_body = True
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self._refusal:
            self._send_refusal(self._refusal)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._resumed = True

    def check(self, now: float) -> None:
        """End what has taken too long by ``now``, on the event loop's clock."""
        closing = self.transport.is_closing()
        if closing or self.transport.get_write_buffer_size():
            self._check_reply(now, closing)
        else:
            self._unsent = 0
        if closing:
            return
        waited_s = now - self._since
        if self._head_bytes:
            # While reading is paused, it is not the client that is slow.
            if waited_s > self._timeouts.head and not self.flow.read_paused:
                self._refuse(HeadTimeout(self._timeouts.head))
        elif waited_s > self._timeouts.keep_alive and not self._answering():
            self.transport.close()

    def _check_reply(self, now: float, closing: bool) -> None:
        unsent = self.transport.get_write_buffer_size() + unacknowledged_bytes(self.transport)
        if closing and not unsent:
            # All that is missing is the other side's goodbye under TLS, for which many never take the time.
            self.transport.abort()
        elif self._resumed or not self._unsent or unsent < self._unsent:
            self._unsent_since = now
        elif now - self._unsent_since > self._timeouts.send:
            log.info("cut off %s: it took nothing of its reply for %g s", self._peer(), self._timeouts.send)
            self.transport.abort()
        self._unsent = unsent
        self._resumed = False

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: SglEmbedError) -> None:
        """Read no more, send the replies that are due, then ``error``, and close."""
        self._refusal = error
        self._head_bytes = 0
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            # The request has its answer, and would seem to have two.
            self.transport.close()
        elif not self._answering():
            self._send_refusal(error)
        elif self.cycle.more_body and not self.cycle.response_started:
            self._abandon_request(error)

    def _abandon_request(self, error: SglEmbedError) -> None:
        """The newest request's body will never be complete."""
        if self.pipeline:
            # It was not begun, and is the last to have come.
            self.pipeline.popleft()
            return
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._send_refusal(error)

    def _send_refusal(self, error: SglEmbedError) -> None:
        reply, request_id = error_response(error), new_request_id()
        if reply.reason:
            self._access.turned_away(reply.reason)
        id_ = request_id.decode()
        said = f"refused {self._peer()}: {reply.status_code} {error} id={id_}"
        log.info(Event(said, request_id=id_, status=reply.status_code, reason=reply.reason))
        headers = [*self.server_state.default_headers, (b"x-request-id", request_id)]
        self.transport.write(whole_reply(reply, headers, close=True))
        self.transport.close()

    def _peer(self) -> str:
        return "{}:{}".format(*self.client) if self.client else "a client"


def whole_reply(reply: JsonReply, headers: Sequence[Header], *, close: bool) -> bytes:
    """As it is sent, for where no request was begun."""
    lines = [b"%b: %b\r\n" % header for header in (*headers, *reply.raw_headers) if header[0] != b"connection"]
    if close:
        lines.append(b"connection: close\r\n")
    return b"".join((STATUS_LINE[reply.status_code], *lines, b"\r\n", reply.body))


def why(error: httptools.HttpParserError) -> str:
    if isinstance(error, httptools.HttpParserCallbackError):
        return "not an HTTP/1.1 request: its target is not a path"
    return f"not an HTTP/1.1 request: {error}"


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """What the kernel holds for the other side. It shows a client that reads slowly, where the transport's own buffer stands
    still until a third of the kernel's is free."""
    socket = transport.get_extra_info("socket")
    try:
        # Under TLS there is none from the connection's end until the protocol is told of it.
        return int(struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0]) if socket else 0
    except OSError:
        return 0
