"""What is refused at a request's head, before anything is made of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from launcher.errors import RateLimited, Unauthorized
from launcher.gateway.access import AccessLog, Entry, request_id_of
from launcher.gateway.auth import Caller, KeyCheck
from launcher.gateway.errors import error_response
from launcher.gateway.readiness import Readiness
from launcher.gateway.reply import Header, JsonReply
from launcher.scheduling.admission import Admission
from launcher.telemetry.hooks import Hooks
from launcher.telemetry.tracing import Tracer

EMBEDDINGS = b"/v1/embeddings"
# What a longer request takes to read and parse is not worth what a cache could answer of it.
LOOKED_UP_BYTES = 64 << 10


class Door:
    """Turns away who asks for embeddings while no query would be admitted.

    Under an overload that is most of what comes, on the CPU that the engine may need itself. On the way through the gateway a
    refusal cost 0.3 ms beside OpenVINO (2-core Xeon, 2026-11-21): all of it is new to the processor's caches each time.

    With ``caches`` a short request is let in, since one of them may have what it asks for; with ``cors`` one from a web page
    is, since it needs headers in its answer to be able to read it.
    """

    def __init__(
        self,
        admission: Admission,
        readiness: Readiness,
        keys: KeyCheck | None,
        hooks: Hooks,
        access: AccessLog,
        fingerprint: str,
        tracer: Tracer | None,
        *,
        caches: bool,
        cors: bool,
    ) -> None:
        self._admission = admission
        self._readiness = readiness
        self._keys = keys
        self._hooks = hooks
        self._access = access
        self._fingerprint = fingerprint.encode()
        self._least_bytes = LOOKED_UP_BYTES if caches else 0
        self._cors = cors
        self._tracer = tracer

    def refuse(self, method: bytes, target: bytes, headers: Sequence[Header]) -> JsonReply | None:
        """The whole answer, or None for who may go in. A request that is wrong in another way may do so, and is told inside."""
        if target != EMBEDDINGS or method != b"POST":
            return None
        full = self._admission.full()
        if full is None or self._readiness.refusal() or not self._concerns(headers):
            return None
        began = time.perf_counter()
        caller: Caller | None = None
        limited: JsonReply | None = None
        if self._keys:
            try:
                caller = self._keys.caller_of(headers)
                caller.begin()
            except Unauthorized:
                return None
            except RateLimited as error:
                limited = error_response(error)
        reply = limited or error_response(full)
        request_id = request_id_of(headers)
        reply.raw_headers += [(b"x-request-id", request_id), (b"x-model-fingerprint", self._fingerprint)]
        seconds = time.perf_counter() - began
        if not limited:
            self._hooks.offered("embeddings")
            self._hooks.answered("embeddings", reply.status_code, seconds)
        entry = refused(reply, request_id, seconds, caller)
        if self._tracer:
            entry.trace = self._tracer.begin(headers, EMBEDDINGS.decode(), began)
        self._access.note(entry)
        return reply

    def _concerns(self, headers: Sequence[Header]) -> bool:
        length = 0
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                length = int(value)
            elif name == b"origin" and self._cors:
                return False
        return length >= self._least_bytes


def refused(reply: JsonReply, request_id: bytes, seconds: float, caller: Caller | None) -> Entry:
    entry = Entry("POST", EMBEDDINGS, request_id.decode())
    entry.task = "embeddings"
    entry.status, entry.seconds, entry.reason = reply.status_code, seconds, reply.reason
    if caller:
        entry.key = caller.name
    return entry
