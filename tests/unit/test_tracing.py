"""Which requests are traced, and what spans become of their stages and batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import numpy as np
import pytest

from launcher.engines.base import Batch, Vectors
from launcher.errors import EngineError
from launcher.scheduling.admission import Admission
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.encoder import DeduplicatingEncoder
from launcher.scheduling.queue import Job, Piece
from launcher.scheduling.traced import TracedPacking
from launcher.telemetry.tracing import Trace, Tracer, caller_of, state_of
from tests.support.spans import CALLER, PARENT, TRACE, Kept

ROUTE = "/v1/embeddings"
DONE: Mapping[str, object] = {"status": 200, "duration_ms": 100.0}


def begin(tracer: Tracer, header: bytes = PARENT) -> Trace:
    trace = tracer.begin([(b"traceparent", header)], ROUTE, 0.0)
    assert trace
    return trace


def tracer_of(kept: Kept) -> Tracer:
    return Tracer(kept, sample=0, scheme="http")


def ids(*lengths: int) -> list[np.ndarray]:
    return [np.arange(5, 5 + length, dtype=np.int32) + 100 * number for number, length in enumerate(lengths)]


def test_the_callers_ids_and_flag_are_read() -> None:
    caller = caller_of([(b"host", b"x"), (b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")])
    assert caller
    assert (caller.span.trace_hex, f"{caller.span.span:016x}", caller.span.state) == (TRACE, CALLER, "a=1,b=2")
    assert caller.sampled
    unsampled = caller_of([(b"traceparent", PARENT[:-2] + b"00")])
    assert unsampled and not unsampled.sampled


@pytest.mark.parametrize(
    "headers", [[b"a=" + b"x" * 511], [b"a=1"] * 33, [b",".join([b"a=1"] * 33)]], ids=["long", "many", "many in one"]
)
def test_more_state_than_has_to_be_sent_on_is_dropped(headers: list[bytes]) -> None:
    assert state_of(headers) == ""


def test_other_state_is_kept_as_it_came() -> None:
    assert state_of([b"a=" + b"x" * 510]) == "a=" + "x" * 510
    assert state_of([b"a=1", b"b=2"]) == "a=1,b=2"
    assert state_of([]) == ""


def test_two_traceparents_are_as_none() -> None:
    assert caller_of([(b"traceparent", PARENT), (b"traceparent", PARENT)]) is None


@pytest.mark.parametrize(("sample", "traced"), [(0.0, 0), (1.0, 1000), (0.25, pytest.approx(250, abs=80))])
def test_of_requests_without_a_caller_a_share_is_traced(sample: float, traced: object) -> None:
    tracer = Tracer(Kept(), sample, "http")
    assert sum(tracer.begin([], ROUTE, 0.0) is not None for _ in range(1000)) == traced


def test_a_stage_lasts_until_the_next_and_a_measured_one_as_long_as_it_was() -> None:
    kept = Kept()
    trace = begin(tracer_of(kept))
    trace.enter("tokenize", 0.010)
    trace.enter("queue", 0.020)
    trace.enter("inference", 0.030)
    trace.enter("encode", 0.080)
    trace.end({**DONE, "tokenize_ms": 4.0, "queue_ms": 10.0, "encode_ms": 5.0})
    assert [(span.name, round((span.ended_ns - span.began_ns) / 1e6)) for span in kept.spans] == [
        ("tokenize", 4),
        ("queue", 10),
        ("inference", 50),
        ("encode", 5),
        ("POST /v1/embeddings", 100),
    ]


def test_a_stage_under_way_ends_with_a_request_that_fails() -> None:
    kept = Kept()
    trace = begin(tracer_of(kept))
    trace.enter("tokenize", 0.010)
    trace.enter("queue", 0.020)
    trace.end({"status": 504, "duration_ms": 100.0, "reason": "deadline_exceeded"})
    assert kept.named("queue").ended_ns == kept.named("POST /v1/embeddings").ended_ns
    assert kept.named("POST /v1/embeddings").error == "deadline_exceeded"


def test_inference_lasts_from_the_first_batch_to_the_last() -> None:
    kept = Kept()
    tracer = tracer_of(kept)
    trace = begin(tracer)
    now = time.perf_counter()
    for began in (now, now + 1):
        batch = tracer.batch([trace], 1, 8, began)
        batch.computed("worker 1", 0, 1)
        trace.batch_ended(began + 0.5)
    trace.enter("encode", now + 50)
    trace.end({**DONE, "duration_ms": (now + 60) * 1e3})
    inference = kept.named("inference")
    assert inference.began_ns == trace.epoch_ns + int(now * 1e9)
    assert (inference.ended_ns - inference.began_ns) / 1e9 == pytest.approx(1.5)
    assert [span.parent for span in kept.spans if span.name == "compute"] == [inference.id] * 2


async def test_a_batch_belongs_to_the_first_traced_request_and_is_linked_to_the_others() -> None:
    tracer = tracer_of(Kept())
    first, second = begin(tracer), begin(tracer)
    untraced, one, another, same = Job(ids(3)), Job(ids(2, 2), first), Job(ids(4), second), Job(ids(1), first)
    pieces = [Piece(untraced, 0, 1), Piece(one, 0, 2), Piece(another, 0, 1), Piece(same, 0, 1)]
    kept = Kept()
    batch = TracedPacking(tracer_of(kept))(pieces)
    assert batch.trace and batch.trace.parent == first.inference.traceparent
    batch.trace.computed("worker 0", 10, 20)
    compute = kept.named("compute")
    assert (compute.parent, compute.links) == (first.inference, [second.inference])
    assert compute.attributes == {"sgl_embed.worker": "worker 0", "sgl_embed.batch.texts": 5, "sgl_embed.batch.tokens": 12}


async def test_a_batch_without_a_traced_request_has_no_trace() -> None:
    assert TracedPacking(tracer_of(Kept()))([Piece(Job(ids(3)), 0, 1)]).trace is None


class StandIn:
    """An engine that says which batches it was given, and computes one for each ``go``; ``errors`` are raised before."""

    slots = 1
    max_batch_tokens = 64

    def __init__(self, *errors: Exception) -> None:
        self.go = asyncio.Semaphore(0)
        self.begun: asyncio.Queue[Batch] = asyncio.Queue()
        self._errors = list(errors)

    async def run(self, batch: Batch) -> Vectors:
        self.begun.put_nowait(batch)
        await self.go.acquire()
        if self._errors:
            raise self._errors.pop()
        began = time.perf_counter_ns()
        if batch.trace:
            batch.trace.computed("worker 0", began, time.perf_counter_ns())
        return np.ones((len(batch.lengths), 4), np.float32)

    async def available(self) -> None: ...

    def unready_reason(self) -> str | None:
        return None

    async def stop(self) -> None: ...


def encoder_of(engine: StandIn, tracer: Tracer) -> tuple[DeduplicatingEncoder, Batcher]:
    admission = Admission(1000, max_wait_s=60, max_batch_tokens=64, on_change=lambda tokens: None)
    batcher = Batcher(engine, on_batch=lambda *told: None, pack=TracedPacking(tracer))
    return DeduplicatingEncoder(admission, batcher, max_batch_tokens=64), batcher


async def test_a_request_that_joins_another_is_under_way_with_it() -> None:
    kept, engine = Kept(), StandIn()
    tracer = tracer_of(kept)
    encoder, batcher = encoder_of(engine, tracer)
    batcher.start()
    owner, early, late = begin(tracer), begin(tracer), begin(tracer)
    busy = asyncio.create_task(encoder.encode([b"busy"], ids(2)))
    await engine.begun.get()
    # The engine is busy: these two wait, and the third comes when theirs has begun.
    asked = [asyncio.create_task(encoder.encode([b"same"], ids(3), trace=trace)) for trace in (owner, early)]
    await asyncio.sleep(0)
    engine.go.release()
    batch = await engine.begun.get()
    asked.append(asyncio.create_task(encoder.encode([b"same"], ids(3), trace=late)))
    await asyncio.sleep(0)
    engine.go.release()
    await asyncio.gather(busy, *asked)
    await batcher.stop()
    compute = kept.named("compute")
    assert batch.trace and (compute.parent, compute.links) == (owner.inference, [early.inference])
    for trace in (owner, early, late):
        trace.end({**DONE, "duration_ms": time.perf_counter() * 1e3})
    assert len([span for span in kept.spans if span.name == "inference"]) == 3


async def test_a_batch_that_is_tried_again_is_one_inference() -> None:
    kept, engine = Kept(), StandIn(EngineError("no room"))
    tracer = tracer_of(kept)
    encoder, batcher = encoder_of(engine, tracer)
    batcher.start()
    trace = begin(tracer)
    for _ in range(3):
        engine.go.release()
    await encoder.encode([b"1", b"2"], ids(2, 3), trace=trace)
    await batcher.stop()
    trace.end({**DONE, "duration_ms": time.perf_counter() * 1e3})
    computes = [span for span in kept.spans if span.name == "compute"]
    assert [span.parent for span in computes] == [kept.named("inference").id] * 2
