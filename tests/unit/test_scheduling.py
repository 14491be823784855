import asyncio
from collections import deque

import numpy as np
import pytest

from launcher.engines.base import Batch, Engine
from launcher.errors import EngineError, NotReady
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.queue import Job, Lanes, take_batch


def inputs(*lengths: int) -> list[np.ndarray]:
    return [np.full(length, length, np.int32) for length in lengths]


async def encode(batcher: Batcher, *lengths: int) -> Job:
    job = Job(inputs(*lengths))
    await batcher.encode(job)
    return job


def spans(pieces):
    return [(piece.start, piece.stop) for piece in pieces]


async def test_a_batch_takes_jobs_in_order_up_to_the_budget():
    queue = deque([Job(inputs(4, 4)), Job(inputs(1)), Job(inputs(9))])
    assert spans(take_batch(queue, 10)) == [(0, 2), (0, 1)]
    assert spans(take_batch(queue, 10)) == [(0, 1)]
    assert take_batch(queue, 10) == []


async def test_a_job_larger_than_a_batch_is_split_and_keeps_its_place():
    queue = deque([Job(inputs(6, 6, 6)), Job(inputs(1))])
    assert spans(take_batch(queue, 12)) == [(0, 2)]
    assert spans(take_batch(queue, 12)) == [(2, 3), (0, 1)]


async def test_an_input_larger_than_a_batch_goes_alone():
    queue = deque([Job(inputs(50, 1))])
    assert spans(take_batch(queue, 10)) == [(0, 1)]
    assert spans(take_batch(queue, 10)) == [(1, 2)]


async def test_a_query_goes_before_an_ingest_that_came_first():
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=1.0)
    ingest, query = Job(inputs(*[5] * 8)), Job(inputs(3))
    lanes.add(ingest)
    assert [piece.job for piece in lanes.take(now=0.0)] == [ingest]
    lanes.add(query)
    assert [piece.job for piece in lanes.take(now=0.2)] == [query]
    assert spans(lanes.take(now=0.3)) == [(2, 4)]


async def test_an_ingest_in_long_batches_was_not_passed_over_while_they_ran():
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=1.0)
    ingest = Job(inputs(*[5] * 20))
    lanes.add(ingest)
    turns = []
    for batch in range(6):
        turns.append(lanes.take(now=batch * 5.0)[0].job is ingest)
        # Each batch of the ingest takes 5 s, and one client asks as soon as it was answered.
        if turns[-1]:
            lanes.add(Job(inputs(3)))
    assert turns == [True, False, True, False, True, False]


async def test_an_ingest_gets_its_turn_under_a_flood_of_queries():
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=1.0)
    ingest = Job(inputs(*[5] * 8))
    lanes.add(ingest)
    turns = []
    for step in range(60):
        now = step * 0.1
        lanes.add(Job(inputs(3)))
        turns.append(lanes.take(now)[0].job is ingest)
    assert turns.count(True) == 4
    assert turns.index(True) == 10


async def test_nothing_is_left_behind_in_the_lanes():
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=0.0)
    jobs = [Job(inputs(3)), Job(inputs(*[5] * 8)), Job(inputs(4))]
    for job in jobs:
        lanes.add(job)
    taken = [piece for _ in range(6) for piece in lanes.take(now=0.0)]
    assert sum(piece.stop - piece.start for piece in taken) == 10
    assert not lanes
    assert lanes.take(now=0.0) == []


async def test_abandoned_jobs_are_dropped():
    gone, stays = Job(inputs(1)), Job(inputs(2))
    gone.done.cancel()
    assert [piece.job for piece in take_batch(deque([gone, stays]), 10)] == [stays]


class Recorder(Engine):
    """An engine that returns each input's first id and length, and can be held back."""

    slots = 1
    max_batch_tokens = 10

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, batch: Batch) -> np.ndarray:
        self.batches.append(batch.lengths.tolist())
        self.entered.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        starts = np.concatenate([[0], np.cumsum(batch.lengths)[:-1]])
        return np.stack([batch.ids[starts], batch.lengths], axis=1).astype(np.float32)


@pytest.fixture
async def engine():
    return Recorder()


@pytest.fixture
async def batcher(engine):
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    yield batcher
    await batcher.stop()


async def test_vectors_come_back_in_the_order_of_the_inputs(batcher, engine):
    job = await encode(batcher, 6, 3, 6, 1, 6)
    assert job.vectors[:, 1].tolist() == [6, 3, 6, 1, 6]
    assert len(engine.batches) == 3


class Widening(Recorder):
    """An engine whose vectors become wider with its third batch."""

    async def run(self, batch: Batch) -> np.ndarray:
        vectors = await super().run(batch)
        return vectors if len(self.batches) < 3 else np.tile(vectors, 2)


async def test_vectors_of_another_width_fail_the_one_job_and_stay_out_of_its_vectors():
    batcher = Batcher(Widening(), on_batch=lambda *_: None)
    batcher.start()
    spread, other = asyncio.create_task(encode(batcher, 6, 6)), asyncio.create_task(encode(batcher, 2))
    with pytest.raises(EngineError, match="could not be taken over"):
        await spread
    assert (await other).vectors.shape == (1, 2)
    assert batcher.unready_reason() is None
    await batcher.stop()


async def test_what_queues_while_the_engine_is_busy_goes_as_one_batch(batcher, engine):
    engine.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(encode(batcher, 2))
        await engine.entered.wait()
        for _ in range(4):
            group.create_task(encode(batcher, 2))
        await asyncio.sleep(0)
        engine.gate.set()
    assert engine.batches == [[2], [2, 2, 2, 2]]


async def test_a_failed_input_fails_its_job_and_not_the_batcher(batcher, engine):
    engine.error = EngineError("broken")
    with pytest.raises(EngineError, match="broken"):
        await encode(batcher, 1)
    engine.error = None
    assert (await encode(batcher, 1)).vectors.shape == (1, 2)
    assert batcher.unready_reason() is None


async def test_too_few_vectors_are_an_error():
    class Short(Recorder):
        async def run(self, batch: Batch) -> np.ndarray:
            return np.zeros((len(batch.lengths) - 1, 2), np.float32)

    batcher = Batcher(Short(), on_batch=lambda *_: None)
    batcher.start()
    with pytest.raises(EngineError, match="gave 0 vectors for 1 inputs"):
        await encode(batcher, 1, 1)
    assert batcher.unready_reason() is None
    await batcher.stop()


async def test_work_of_a_cancelled_caller_is_not_run(batcher, engine):
    engine.gate.clear()
    running = asyncio.create_task(encode(batcher, 1))
    await engine.entered.wait()
    abandoned = asyncio.create_task(encode(batcher, 7))
    await asyncio.sleep(0)
    abandoned.cancel()
    with pytest.raises(asyncio.CancelledError):
        await abandoned
    engine.gate.set()
    await running
    await encode(batcher, 2)
    assert engine.batches == [[1], [2]]


async def test_stopping_answers_everyone(engine):
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    engine.gate.clear()
    running = asyncio.create_task(encode(batcher, 1))
    await engine.entered.wait()
    waiting = asyncio.create_task(encode(batcher, 1))
    await asyncio.sleep(0)
    await batcher.stop()
    for task in (running, waiting):
        with pytest.raises(NotReady):
            await task


async def test_what_comes_after_the_stop_is_answered_too(batcher):
    await batcher.stop()
    with pytest.raises(NotReady):
        await encode(batcher, 1)


async def test_a_dead_pump_is_reported(engine):
    def broken(*_: object) -> None:
        raise ValueError("a bug")

    batcher = Batcher(engine, on_batch=broken)
    batcher.start()
    await encode(batcher, 1)
    async with asyncio.timeout(1):
        while batcher.unready_reason() is None:  # noqa: ASYNC110 - a task's end sets no event
            await asyncio.sleep(0)
    assert "ended unexpectedly" in batcher.unready_reason()


async def test_what_waits_is_what_no_batch_has_taken():
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=1.0)
    assert lanes.waiting() == (0, None)
    ingest, query, gone = Job(inputs(5, 5, 5)), Job(inputs(3)), Job(inputs(2))
    ingest.submitted, query.submitted, gone.submitted = 20.0, 10.0, 1.0
    for job in (ingest, query, gone):
        lanes.add(job)
    gone.done.cancel()
    assert lanes.waiting() == (18, 10.0)
    taken = lanes.take(now=0.0)
    assert lanes.waiting() == (15, 20.0)
    ingest_taken = lanes.take(now=0.0)
    assert lanes.waiting() == (5, 20.0)
    lanes.put_back(taken)
    lanes.put_back(ingest_taken)
    assert lanes.waiting() == (18, 10.0)
    query.done.cancel()
    assert lanes.waiting() == (15, 20.0)
