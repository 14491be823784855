"""The life of a request that asks the model: deadline, disconnect, drain and counting, the same for each such route."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from launcher.errors import DeadlineExceeded, EngineError, SglEmbedError
from launcher.gateway.body import Limits, read_body, read_head
from launcher.gateway.disconnect import DisconnectWatch
from launcher.gateway.errors import error_response
from launcher.gateway.held import HeldBytes, Share
from launcher.gateway.readiness import Readiness
from launcher.gateway.reply import JsonReply
from launcher.telemetry.hooks import Hooks, Task
from launcher.telemetry.lines import Event
from launcher.telemetry.tracing import Trace

log = logging.getLogger("launcher.gateway")

# nginx's word for a client that closed the connection before its reply.
CLIENT_CLOSED_REQUEST = 499
# A longer body is refused before it comes where there is no room for it; a shorter one is here by then.
EXPECTED_BYTES = 64 << 10
# From a body and its deadline, and what is recorded of it where it is traced.
Answer = Callable[[bytes, float, Trace | None], Awaitable[JsonReply]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ASGI app: reads the body, has ``answer`` make a response of it by a deadline, and sends that.

    Each request is counted once as offered and once as answered, whatever becomes of it.
    """

    task: Task
    answer: Answer
    readiness: Readiness
    hooks: Hooks
    held: HeldBytes
    limits: Limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = DisconnectWatch(receive)
        share = Share(self.held)
        started = time.perf_counter()
        status = 500
        entry = scope["entry"]
        entry.task = self.task
        self.hooks.offered(self.task)
        try:
            head = read_head(scope["headers"], self.limits)
            try:
                async with asyncio.timeout(head.timeout_s) as deadline:
                    when = deadline.when()
                    assert when
                    with self.readiness.arriving():
                        if head.length > EXPECTED_BYTES:
                            share.expect(head.length)
                        body = await read_body(receive, self.limits.max_body_bytes, share)
                    with self.readiness.answering():
                        with watch:
                            response = await self._answer_or_error(scope, body, when)
                        del body
                        share.become(len(response.body))
                        # From here on the client's own pace counts, not the deadline.
                        deadline.reschedule(None)
                        status = response.status_code
                        if response.tokens and (caller := scope.get("caller")):
                            caller.spend(response.tokens)
                        await response(scope, receive, send)
            except TimeoutError:
                raise DeadlineExceeded(f"the request was not finished within {head.timeout_s:g} s") from None
        except ClientDisconnect:
            status = entry.status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            if not watch.disconnected:
                raise
            status = entry.status = CLIENT_CLOSED_REQUEST
        except SglEmbedError as error:
            response = response_to(scope, error)
            status = response.status_code
            await response(scope, receive, send)
        finally:
            share.release()
            trace_id = entry.trace.id.trace_hex if entry.trace else None
            self.hooks.answered(self.task, status, time.perf_counter() - started, trace_id)

    async def _answer_or_error(self, scope: Scope, body: bytes, deadline: float) -> JsonReply:
        try:
            return await self.answer(body, deadline, scope["entry"].trace)
        except SglEmbedError as error:
            return response_to(scope, error)


def response_to(scope: Scope, error: SglEmbedError) -> JsonReply:
    if isinstance(error, EngineError):
        request_id = scope["entry"].request_id
        log.error(Event(f"request {request_id}: the engine failed: {error}", request_id=request_id), exc_info=error)
    return error_response(error)
