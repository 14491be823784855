"""An engine that computes in a thread of this process takes its batches itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from launcher.engines.base import Batch, Engine, Turn, Vectors
from launcher.errors import EngineError, NotReady
from launcher.scheduling.batcher import Batcher, pack_batch
from launcher.scheduling.queue import Job, Piece

pytestmark = pytest.mark.timeout(20)
DEADLINE_S = 10.0
POISON = 666


class InThread(Engine):
    """Its vectors are the inputs' first ids and lengths. It can be held back, and fails on ``POISON``."""

    slots = 1
    max_batch_tokens = 10

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.up = asyncio.Event()
        self.up.set()
        self.threads = ThreadPoolExecutor(1)

    async def available(self) -> None:
        await self.up.wait()

    def unready_reason(self) -> str | None:
        return None if self.up.is_set() else "not yet"

    def compute(self, next_turn: Callable[[], Turn | None]) -> Future[None]:
        return self.threads.submit(self._compute, next_turn, asyncio.get_running_loop())

    def _compute(self, next_turn: Callable[[], Turn | None], loop: asyncio.AbstractEventLoop) -> None:
        while turn := next_turn():
            try:
                vectors = self._vectors(turn.batch)
            except EngineError as error:
                loop.call_soon_threadsafe(turn.failed, error)
            else:
                loop.call_soon_threadsafe(turn.done, vectors, time.perf_counter())

    def _vectors(self, batch: Batch) -> Vectors:
        self.batches.append(batch.lengths.tolist())
        self.begun.release()
        assert self.gate.wait(DEADLINE_S)
        if POISON in batch.ids:
            raise EngineError("bad")
        return np.stack([batch.ids[np.cumsum(batch.lengths) - batch.lengths], batch.lengths], axis=1).astype(np.float32)

    def has_begun(self) -> bool:
        """Wait for one more batch, and let nothing else happen in the event loop."""
        return self.begun.acquire(timeout=DEADLINE_S)


def job_of(*lengths: int, first: int = 7) -> Job:
    return Job([np.full(length, first, np.int32) for length in lengths])


@pytest.fixture
async def engine() -> AsyncIterator[InThread]:
    engine = InThread()
    yield engine
    engine.gate.set()
    await asyncio.to_thread(engine.threads.shutdown)


@pytest.fixture
async def batcher(engine: InThread) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    yield batcher
    await batcher.stop()


async def test_vectors_come_back_in_the_order_of_the_inputs(batcher: Batcher, engine: InThread) -> None:
    job = job_of(6, 3, 6, 1, 6)
    await batcher.encode(job)
    assert job.vectors[:, 1].tolist() == [6, 3, 6, 1, 6]
    assert len(engine.batches) == 3


async def test_the_next_batch_does_not_wait_for_the_event_loop_and_takes_all_that_waits(
    batcher: Batcher, engine: InThread
) -> None:
    engine.gate.clear()
    jobs = [job_of(2) for _ in range(5)]
    batcher.submit(jobs[0])
    assert engine.has_begun()
    for job in jobs[1:]:
        batcher.submit(job)
    engine.gate.set()
    assert engine.has_begun()
    assert engine.batches == [[2], [2, 2, 2, 2]]
    assert not any(job.done.done() for job in jobs)
    await asyncio.gather(*(job.done for job in jobs))


async def test_the_input_at_fault_fails_alone(batcher: Batcher, engine: InThread) -> None:
    engine.gate.clear()
    batcher.submit(first := job_of(1))
    assert engine.has_begun()
    jobs = [job_of(2), job_of(2, first=POISON), job_of(2)]
    for job in jobs:
        batcher.submit(job)
    engine.gate.set()
    results = await asyncio.gather(*(job.done for job in (first, *jobs)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), type(None), EngineError, type(None)]
    assert batcher.unready_reason() is None


async def test_no_job_is_forgotten_however_they_come(batcher: Batcher) -> None:
    """The thread may look for work, find none and stop just when some comes."""
    for number in range(400):
        jobs = [job_of(*lengths) for lengths in ([1], [9, 9], [4])[: 1 + number % 3]]
        for job in jobs:
            batcher.submit(job)
            if number % 2:
                await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*(job.done for job in jobs))


async def test_what_comes_before_the_engine_is_there_waits_for_it(engine: InThread) -> None:
    engine.up.clear()
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    batcher.submit(early := job_of(3))
    await asyncio.sleep(0)
    assert engine.batches == []
    engine.up.set()
    await early.done
    await batcher.stop()


async def test_stopping_answers_everyone_and_computes_nothing_more(batcher: Batcher, engine: InThread) -> None:
    engine.gate.clear()
    jobs: Sequence[Job] = [job_of(1), job_of(1)]
    batcher.submit(jobs[0])
    assert engine.has_begun()
    batcher.submit(jobs[1])
    await batcher.stop()
    for job in jobs:
        with pytest.raises(NotReady, match="shutting down"):
            await job.done
    engine.gate.set()
    await asyncio.to_thread(engine.threads.shutdown)
    assert engine.batches == [[1]]


async def test_a_dead_thread_is_reported(engine: InThread) -> None:
    def broken(pieces: Sequence[Piece]) -> Batch:
        if len(pieces) > 1:
            raise MemoryError("no room")
        return pack_batch(pieces)

    batcher = Batcher(engine, on_batch=lambda *_: None, pack=broken)
    batcher.start()
    engine.gate.clear()
    batcher.submit(job_of(1))
    assert engine.has_begun()
    batcher.submit(job_of(1))
    batcher.submit(job_of(1))
    engine.gate.set()
    await asyncio.to_thread(engine.threads.shutdown)
    assert "ended unexpectedly: no room" in (batcher.unready_reason() or "")
    await batcher.stop()
