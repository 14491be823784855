"""Inputs that are equal and under way at the same time: encoded once, and nobody loses a vector by it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import numpy as np
import pytest

from launcher.engines import base
from launcher.engines.base import Batch
from launcher.errors import EngineError, NotReady, Overloaded
from launcher.scheduling.admission import Admission
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.encoder import DeduplicatingEncoder, Encoded, Encoder, SeparateEncoder

MAX_BATCH_TOKENS = 10


class Engine(base.Engine):
    """Encodes each input as its own ids summed up; each batch waits to be let through, and may be told to fail."""

    slots = 1
    max_batch_tokens = MAX_BATCH_TOKENS

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.errors: list[Exception | None] = []
        self._entered = asyncio.Semaphore(0)
        self._permits = asyncio.Semaphore(0)

    async def run(self, batch: Batch) -> np.ndarray:
        inputs = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        self.batches.append([int(ids[0]) for ids in inputs])
        self._entered.release()
        await self._permits.acquire()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        return np.array([[ids.sum()] for ids in inputs], np.float32)

    async def has_begun(self) -> None:
        """Return once another batch has begun."""
        await self._entered.acquire()

    def let_through(self, batches: int = 1000) -> None:
        for _ in range(batches):
            self._permits.release()

    @property
    def encoded(self) -> list[int]:
        return [first for batch in self.batches for first in batch]


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
async def admission() -> Admission:
    return Admission(max_tokens=100, max_wait_s=10**6, max_batch_tokens=MAX_BATCH_TOKENS)


@pytest.fixture
async def batcher(engine: Engine) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    yield batcher
    await batcher.stop()


@pytest.fixture
def encoder(admission: Admission, batcher: Batcher) -> DeduplicatingEncoder:
    return DeduplicatingEncoder(admission, batcher, max_batch_tokens=MAX_BATCH_TOKENS)


def encode(encoder: Encoder, *values: int, length: int = 1) -> asyncio.Task[Encoded]:
    """A request whose inputs are ``length`` times each value."""
    inputs = [np.full(length, value, np.int32) for value in values]
    return asyncio.create_task(encoder.encode([ids.tobytes() for ids in inputs], inputs))


async def started(*tasks: asyncio.Task[Encoded]) -> None:
    """Let tasks run until each waits: they only wait for the engine."""
    for _ in tasks:
        await asyncio.sleep(0)


async def cancelled(task: asyncio.Task[Encoded]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def values(encoded: Encoded) -> list[float]:
    return encoded.vectors[:, 0].tolist()


async def test_equal_inputs_of_one_request_are_encoded_once(encoder, engine):
    engine.let_through()
    encoded = await encode(encoder, 3, 1, 3, 2, 3)
    assert values(encoded) == [3, 1, 3, 2, 3]
    assert engine.encoded == [3, 1, 2]
    assert encoded.deduplicated == 2


async def test_equal_inputs_of_concurrent_requests_are_encoded_once(encoder, engine):
    requests = [encode(encoder, 7) for _ in range(50)]
    await started(*requests)
    engine.let_through()
    encoded = await asyncio.gather(*requests)
    assert [values(each) for each in encoded] == [[7]] * 50
    assert engine.encoded == [7]
    assert sum(each.deduplicated for each in encoded) == 49


async def test_requests_that_overlap_share_what_they_share(encoder, engine):
    first, second, third = encode(encoder, 1, 2), encode(encoder, 3, 2, 3), encode(encoder, 3, 4, 1, 2)
    await started(first, second, third)
    engine.let_through()
    encoded = await asyncio.gather(first, second, third)
    assert [values(each) for each in encoded] == [[1, 2], [3, 2, 3], [3, 4, 1, 2]]
    assert sorted(engine.encoded) == [1, 2, 3, 4]
    assert [each.deduplicated for each in encoded] == [0, 2, 3]


async def test_what_is_finished_is_encoded_anew(encoder, engine):
    engine.let_through()
    await encode(encoder, 5)
    assert (await encode(encoder, 5)).deduplicated == 0
    assert engine.encoded == [5, 5]


async def test_switched_off_each_input_is_encoded(admission, batcher, engine):
    engine.let_through()
    encoder = SeparateEncoder(admission, batcher)
    first, second = await asyncio.gather(encode(encoder, 6, 6), encode(encoder, 6))
    assert values(first) + values(second) == [6, 6, 6]
    assert engine.encoded == [6, 6, 6]
    assert first.deduplicated == second.deduplicated == 0


async def test_who_joined_gets_the_vector_when_the_first_leaves_the_queue(encoder, engine):
    busy = encode(encoder, 1)
    await engine.has_begun()
    first, second = encode(encoder, 2), encode(encoder, 2)
    await started(first, second)
    await cancelled(first)
    engine.let_through()
    assert values(await second) == [2]
    await busy
    assert engine.encoded == [1, 2]


async def test_who_joined_gets_the_vector_when_the_first_leaves_during_the_run(encoder, engine):
    first, second = encode(encoder, 2), encode(encoder, 2, 3)
    await engine.has_begun()
    await cancelled(first)
    engine.let_through()
    assert values(await second) == [2, 3]
    assert engine.encoded == [2, 3]


async def test_what_nobody_waits_for_any_more_is_not_encoded(encoder, engine, admission):
    busy = encode(encoder, 1)
    await engine.has_begun()
    first, second = encode(encoder, 2), encode(encoder, 2)
    await started(first, second)
    await cancelled(second)
    await cancelled(first)
    other = encode(encoder, 3)
    engine.let_through()
    assert values(await other) == [3]
    await busy
    assert engine.encoded == [1, 3]
    assert admission.tokens_in_flight == 0


async def test_what_is_being_abandoned_is_not_joined(encoder, engine):
    first = encode(encoder, 2)
    await engine.has_begun()
    first.cancel()
    second = encode(encoder, 2)
    await started(first, second)
    engine.let_through()
    assert values(await second) == [2]
    assert first.cancelled()


async def test_the_end_of_one_job_does_not_hide_another_with_the_same_input(encoder, engine):
    ingest = encode(encoder, *range(1, 13))
    await engine.has_begun()
    engine.let_through(1)
    await engine.has_begun()
    query = encode(encoder, 12)
    await started(query)
    engine.let_through(1)
    await ingest
    await engine.has_begun()
    another = encode(encoder, 12)
    await started(another)
    engine.let_through()
    assert values(await query) == values(await another) == [12]
    assert (await another).deduplicated == 1
    assert engine.encoded == [*range(1, 13), 12]


async def test_a_failure_is_not_shared(encoder, engine):
    engine.errors = [EngineError("broken"), None, EngineError("broken by another input")]
    first = encode(encoder, 2, 9)
    await engine.has_begun()
    second = encode(encoder, 2, 3)
    await started(second)
    engine.let_through()
    with pytest.raises(EngineError, match="another input"):
        await first
    assert values(await second) == [2, 3]
    # What failed takes turns with what came.
    assert engine.encoded == [2, 9, 3, 2, 2]


async def test_an_engine_that_goes_on_failing_fails_everyone_once(encoder, engine, admission):
    engine.errors = [EngineError(f"broken {i}") for i in range(20)]
    requests = [encode(encoder, 2, 3) for _ in range(3)]
    await started(*requests)
    engine.let_through()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 3
    # Both inputs of each of three requests, tried twice at most: with the others, halved, and alone.
    assert len(engine.encoded) <= 2 * 3 * 2 * 3
    assert admission.tokens_in_flight == 0


async def test_a_failure_that_nobody_looked_at_is_not_reported_as_overlooked(encoder, engine):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    engine.errors = [EngineError("first"), EngineError("second")]
    first = encode(encoder, 1)
    await engine.has_begun()
    both = encode(encoder, 1, 2)
    await started(both)
    await cancelled(first)
    engine.let_through()
    with pytest.raises(EngineError, match="second"):
        await both
    del first, both
    gc.collect()
    await asyncio.sleep(0)
    assert reported == []


async def test_a_stop_answers_everyone(encoder, batcher, engine):
    requests = [encode(encoder, 2), encode(encoder, 2, 3), encode(encoder, 3)]
    await started(*requests)
    await engine.has_begun()
    await batcher.stop()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotReady] * 3


async def test_a_query_does_not_wait_for_an_ingest_but_an_ingest_for_both(encoder, engine):
    ingest = encode(encoder, *range(1, 40))
    await engine.has_begun()
    query, other_ingest = encode(encoder, 39), encode(encoder, *range(30, 60))
    await started(query, other_ingest)
    engine.let_through()
    assert values(await query) == [39]
    assert engine.batches[1] == [39]
    assert values(await ingest) == list(range(1, 40))
    encoded = await other_ingest
    assert values(encoded) == list(range(30, 60))
    assert encoded.deduplicated == 10
    assert sorted(engine.encoded) == sorted([*range(1, 60), 39])


async def test_only_what_is_encoded_counts_for_admission(encoder, engine, admission):
    first = encode(encoder, *range(60))
    await started(first)
    second = encode(encoder, *range(20, 90))
    await started(second)
    assert admission.tokens_in_flight == 90
    refused = encode(encoder, *range(90, 120), 5)
    with pytest.raises(Overloaded):
        await refused
    engine.let_through()
    assert values(await first) == list(range(60))
    assert values(await second) == list(range(20, 90))
    assert admission.tokens_in_flight == 0
    # Nothing of the refused request is left behind for others to wait for.
    assert values(await encode(encoder, *range(90, 120))) == list(range(90, 120))


async def test_who_joined_late_is_not_told_of_time_before_it_came(encoder, engine):
    first = encode(encoder, 4)
    await engine.has_begun()
    second = encode(encoder, 4)
    await started(second)
    clock = asyncio.get_running_loop().time
    began = clock()
    engine.let_through()
    encoded = await second
    assert encoded.queue_s + encoded.inference_s <= clock() - began + 0.001
    await first
