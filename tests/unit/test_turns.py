"""An engine that computes in a thread of this process takes its batches itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from launcher.engines.base import Batch, Engine, Turn, Vectors
from launcher.errors import EngineError, NotReady
from launcher.scheduling.batcher import Batcher, pack_batch
from launcher.scheduling.feeds import Taken, Turns
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

    def compute(self, next_turn: Callable[[], Turn | None]) -> None:
        self.threads.submit(self._compute, next_turn, asyncio.get_running_loop())

    def _compute(self, next_turn: Callable[[], Turn | None], loop: asyncio.AbstractEventLoop) -> None:
        while turn := next_turn():
            try:
                vectors = self._vectors(turn.batch)
            except EngineError as error:
                loop.call_soon_threadsafe(turn.failed, error, time.perf_counter())
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


async def test_a_batch_that_fails_as_the_server_stops_is_answered(batcher: Batcher, engine: InThread) -> None:
    engine.gate.clear()
    batcher.submit(job := job_of(1, 1, first=POISON))
    assert engine.has_begun()
    engine.gate.set()
    # The failure is on its way to the event loop, which does not hear of it before the stop.
    engine.threads.submit(lambda: None).result(DEADLINE_S)
    await batcher.stop()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(NotReady, match="shutting down"):
            await job.done


async def test_what_cannot_be_made_a_batch_fails_as_what_cannot_be_computed(engine: InThread) -> None:
    def small_ones(pieces: Sequence[Piece]) -> Batch:
        if len(pieces) > 1 or len(pieces[0].job.inputs) > 1:
            raise MemoryError("no room")
        return pack_batch(pieces)

    batcher = Batcher(engine, on_batch=lambda *_: None, pack=small_ones)
    batcher.start()
    engine.gate.clear()
    batcher.submit(first := job_of(1))
    assert engine.has_begun()
    jobs = [job_of(2), job_of(3), job_of(1, 1)]
    for job in jobs:
        batcher.submit(job)
    engine.gate.set()
    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*(job.done for job in (first, *jobs)), return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 3 + [MemoryError]
    assert batcher.unready_reason() is None
    await batcher.stop()


async def test_a_bug_on_the_way_back_is_reported(engine: InThread) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    batcher = Batcher(engine, on_batch=broken)
    batcher.start()
    await batcher.encode(job_of(1))
    await asyncio.sleep(0)
    assert "ended unexpectedly: ValueError('a bug')" in (batcher.unready_reason() or "")
    await batcher.stop()


async def test_vectors_that_are_none_fail_their_job(
    batcher: Batcher, engine: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_vectors", lambda batch: np.zeros(len(batch.lengths), np.float32))
    with pytest.raises(EngineError, match="could not be taken over"):
        await batcher.encode(job_of(1))
    assert batcher.unready_reason() is None


class Scripted(Batcher):
    """Its first look finds nothing, and just then something comes."""

    turns: Turns

    def __init__(self, engine: InThread) -> None:
        super().__init__(engine, on_batch=lambda *_: None)
        self.looks = 0
        self.late = job_of(1)

    def take(self) -> Taken | None:
        self.looks += 1
        taken = super().take()
        if self.looks == 1:
            assert taken is None
            self._lanes.add(self.late)
            # As ``submit`` does, while the thread still says that it is looking.
            self.turns.wake()
        return taken


async def test_what_comes_between_two_looks_is_found(engine: InThread) -> None:
    batcher = Scripted(engine)
    batcher.turns = Turns(engine, batcher)
    batcher.turns.wake()
    async with asyncio.timeout(DEADLINE_S):
        await batcher.late.done
    await batcher.turns.stop()


async def test_a_bug_in_the_thread_is_reported(engine: InThread) -> None:
    class Broken(Batcher):
        def take(self) -> Taken | None:
            raise ValueError("a bug")

    turns = Turns(engine, Broken(engine, on_batch=lambda *_: None))
    assert turns.unready_reason() is None
    turns.wake()
    await asyncio.to_thread(engine.threads.shutdown)
    assert "ended unexpectedly: ValueError('a bug')" in (turns.unready_reason() or "")
