"""Which requests are traced, and what becomes of one: a span of its own, one for each stage, and one for each batch.

None of this exists where tracing is off. What is done with a span is for ``Spans``; here nothing needs OpenTelemetry.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from random import getrandbits, random
from typing import Protocol

import msgspec

from launcher.telemetry.hooks import Stage

# https://www.w3.org/TR/trace-context/#traceparent-header. What follows the flags belongs to a version that is not known here.
TRACEPARENT = re.compile(rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 1
# A longer tracestate is dropped: https://www.w3.org/TR/trace-context/#tracestate-limits. Others are sent on as they are.
MAX_STATE_BYTES = 512
MAX_STATE_MEMBERS = 32
# Stages that are over before the next one begins.
MEASURED = ("tokenize", "encode")
SERVER_ERRORS = 500
# What the log calls otherwise than OpenTelemetry's conventions do.
CONVENTIONS = {"method": "http.request.method", "path": "url.path", "status": "http.response.status_code"}
OWN = "sgl_embed"
# Of a line in the log, what a span says in other ways.
NOT_ATTRIBUTES = frozenset({"message", "trace_id", "duration_ms", "tokenize_ms", "queue_ms", "inference_ms", "encode_ms"})

Attribute = str | bool | int | float


class SpanId(msgspec.Struct, frozen=True):
    """``state`` is W3C's tracestate as it came, which goes with every span of a trace."""

    trace: int
    span: int
    state: str = ""

    @property
    def trace_hex(self) -> str:
        return f"{self.trace:032x}"

    @property
    def traceparent(self) -> bytes:
        return b"00-%032x-%016x-01" % (self.trace, self.span)

    def another(self) -> SpanId:
        return SpanId(self.trace, new_span(), self.state)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Times in nanoseconds since 1970. ``error`` says why it is one, and is None where it is none."""

    name: str
    id: SpanId
    parent: SpanId | None
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute] = {}
    links: Sequence[SpanId] = ()
    # Whether it is the one of a request, to which the others belong.
    of_request: bool = False
    error: str | None = None


class Spans(Protocol):
    def add(self, span: Span) -> None:
        """In any thread. Never waits, and never raises."""


class Caller(msgspec.Struct, frozen=True):
    """What a request's headers say of the trace that it belongs to."""

    span: SpanId
    sampled: bool


class Tracer:
    """A request that comes with a trace context is traced if that says so, of the others the share ``sample``."""

    def __init__(self, spans: Spans, sample: float, scheme: str) -> None:
        """``scheme``: http or https."""
        self._spans = spans
        self._sample = sample
        self._scheme = scheme

    def begin(self, headers: Iterable[tuple[bytes, bytes]], route: str, at: float) -> Trace | None:
        """``at``: by ``time.perf_counter``, as all times of a trace are."""
        caller = caller_of(headers)
        if not (caller.sampled if caller else random() < self._sample):
            return None
        return Trace(self._spans, caller.span if caller else None, route, self._scheme, at)

    def batch(self, traces: Sequence[Trace], texts: int, tokens: int, at: float) -> TracedBatch:
        """A batch for these requests begins, for each perhaps not the first."""
        for trace in traces:
            trace.enter("inference", at)
        return TracedBatch(self._spans, traces, texts, tokens)


class Trace:
    """One traced request. Its stages follow each other: each lasts until the next begins, or until the request's end."""

    def __init__(self, spans: Spans, parent: SpanId | None, route: str, scheme: str, at: float) -> None:
        self._spans = spans
        self._parent = parent
        self._route = route
        self._scheme = scheme
        self._at = at
        # The wall clock may be set while the server runs.
        self.epoch_ns = time.time_ns() - time.perf_counter_ns()
        self.id = parent.another() if parent else SpanId(new_trace(), new_span())
        # What its batches are computed for.
        self.inference = self.id.another()
        self._last_batch: float | None = None
        self._began: dict[Stage, float] = {}

    def enter(self, stage: Stage, at: float) -> None:
        """Only the first time counts: a stage may begin again, with another batch. In any thread."""
        self._began.setdefault(stage, at)

    def batch_ended(self, at: float) -> None:
        """Perhaps not the last one of the request."""
        self._last_batch = at

    def end(self, said: Mapping[str, object]) -> None:
        """``said`` is what the log says of the request, by the names that it has there."""
        status, seconds = said["status"], said["duration_ms"]
        assert isinstance(status, int) and isinstance(seconds, float)
        ended = self._at + seconds / 1e3
        self._end_stages(said, ended)
        self._spans.add(
            Span(
                name=f"POST {self._route}",
                id=self.id,
                parent=self._parent,
                began_ns=self._wall(self._at),
                ended_ns=self._wall(ended),
                attributes={"http.route": self._route, "url.scheme": self._scheme, **attributes_of(said)},
                of_request=True,
                error=str(said.get("reason", status)) if status >= SERVER_ERRORS else None,
            )
        )

    def _end_stages(self, said: Mapping[str, object], ended: float) -> None:
        # A copy: where the client has gone, a batch may begin just now.
        began = list(self._began.items())
        ends = [*(at for _, at in began[1:]), ended]
        for (stage, at), until in zip(began, ends, strict=False):
            if stage == "inference":
                until = min(until, self._last_batch or until)
            elif stage in MEASURED and isinstance(measured_ms := said.get(f"{stage}_ms"), float):
                until = min(until, at + measured_ms / 1e3)
            self._spans.add(
                Span(
                    name=stage,
                    id=self.inference if stage == "inference" else self.id.another(),
                    parent=self.id,
                    began_ns=self._wall(at),
                    ended_ns=self._wall(until),
                )
            )

    def _wall(self, at: float) -> int:
        return self.epoch_ns + int(at * 1e9)


class TracedBatch:
    """Implements ``BatchTrace`` for a batch with inputs of these requests: the first is its parent, the others are linked."""

    def __init__(self, spans: Spans, traces: Sequence[Trace], texts: int, tokens: int) -> None:
        self._spans = spans
        self._traces = traces
        self._texts = texts
        self._tokens = tokens
        self.parent = traces[0].inference.traceparent

    def computed(self, worker: str, began_ns: int, ended_ns: int) -> None:
        first, *others = self._traces
        self._spans.add(
            Span(
                name="compute",
                id=first.inference.another(),
                parent=first.inference,
                began_ns=first.epoch_ns + began_ns,
                ended_ns=first.epoch_ns + ended_ns,
                attributes={
                    f"{OWN}.worker": worker,
                    f"{OWN}.batch.texts": self._texts,
                    f"{OWN}.batch.tokens": self._tokens,
                },
                links=[other.inference for other in others],
            )
        )


def caller_of(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """None where there is no usable traceparent: a wrong one, or two, are as none."""
    parents: list[bytes] = []
    states: list[bytes] = []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if len(parents) != 1 or not (found := TRACEPARENT.fullmatch(parents[0].strip())):
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"00" and more:
        return None
    return Caller(SpanId(int(trace, 16), int(span, 16), state_of(states)), bool(int(flags, 16) & SAMPLED))


def state_of(headers: Sequence[bytes]) -> str:
    """Empty where it is more than has to be sent on."""
    state = b",".join(headers)
    if len(state) > MAX_STATE_BYTES or state.count(b",") >= MAX_STATE_MEMBERS:
        return ""
    return state.decode("latin-1")


def attributes_of(said: Mapping[str, object]) -> dict[str, Attribute]:
    return {
        CONVENTIONS.get(name) or f"{OWN}.{name}": value
        for name, value in said.items()
        if name not in NOT_ATTRIBUTES and isinstance(value, Attribute)
    }


def new_trace() -> int:
    # Not secret, as a request's id. Zero is none.
    return getrandbits(128) or 1


def new_span() -> int:
    return getrandbits(64) or 1
