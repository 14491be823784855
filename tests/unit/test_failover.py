"""A batch that fails: who is at fault is found, everyone else gets their vectors, and each is answered once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from launcher.engines.base import Batch, Engine, Vectors
from launcher.errors import EngineError, NotReady, WorkerLost
from launcher.scheduling import feeds
from launcher.scheduling import quarantine as quarantine_module
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.quarantine import FORGET_AFTER_S, MAX_INPUTS, Quarantine
from launcher.scheduling.queue import Job, Lanes, Piece
from launcher.scheduling.retry import another_try

pytestmark = pytest.mark.timeout(10)
POISON = 666


def one(first: int, length: int = 1) -> np.ndarray:
    return np.full(length, first, np.int32)


async def encode(batcher: Batcher, *inputs: np.ndarray) -> Job:
    job = Job(inputs)
    await batcher.encode(job)
    return job


class Fragile(Engine):
    """Its vectors are the inputs' first ids. A batch with ``POISON`` in it ends with ``error``."""

    slots = 1
    max_batch_tokens = 100

    def __init__(self) -> None:
        self.error: type[Exception] = EngineError
        self.batches: list[list[int]] = []
        self.up = asyncio.Event()
        self.up.set()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.fail_next: Exception | None = None

    async def available(self) -> None:
        await self.up.wait()

    async def run(self, batch: Batch) -> Vectors:
        self.batches.append(batch.ids[np.cumsum(batch.lengths) - batch.lengths].tolist())
        self.entered.set()
        await self.gate.wait()
        if self.fail_next:
            error, self.fail_next = self.fail_next, None
            raise error
        if POISON in batch.ids:
            raise self.error("bad")
        return np.array([[first] for first in self.batches[-1]], np.float32)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LOSS_PAUSE_S", 0.0)
    monkeypatch.setattr(quarantine_module, "SAME_MOMENT_S", 0.0)


@pytest.fixture
async def engine() -> Fragile:
    return Fragile()


@pytest.fixture
async def batcher(engine: Fragile) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    yield batcher
    await batcher.stop()


async def together(batcher: Batcher, engine: Fragile, *values: int) -> list[Job | BaseException]:
    """One request per value, all in one batch."""
    engine.up.clear()
    asking = [asyncio.create_task(encode(batcher, one(value))) for value in values]
    while len(batcher._lanes._interactive) < len(values):  # noqa: ASYNC110 - the queue tells nobody
        await asyncio.sleep(0)
    engine.up.set()
    return await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize("error", [EngineError, WorkerLost, RuntimeError])
async def test_one_bad_input_takes_none_of_its_neighbours_down(
    batcher: Batcher, engine: Fragile, error: type[Exception]
) -> None:
    engine.error = error
    values = [*range(1, 14), POISON, *range(14, 20)]
    results = await together(batcher, engine, *values)
    assert engine.batches[0] == values
    for value, result in zip(values, results, strict=True):
        if value == POISON:
            assert isinstance(result, error)
        else:
            assert isinstance(result, Job), (value, result)
            assert result.vectors.tolist() == [[value]]
    assert batcher.unready_reason() is None


async def test_an_input_costs_two_workers_and_is_then_known(batcher: Batcher, engine: Fragile) -> None:
    engine.error = WorkerLost
    await together(batcher, engine, *range(1, 33), POISON)
    lost = [batch for batch in engine.batches if POISON in batch]
    assert [len(batch) for batch in lost] == [33, 1]
    with pytest.raises(EngineError, match="not tried again"):
        await encode(batcher, one(1), one(POISON))
    assert len([batch for batch in engine.batches if POISON in batch]) == 2
    assert (await encode(batcher, one(1))).vectors.tolist() == [[1]]


async def test_a_refused_batch_is_halved(batcher: Batcher, engine: Fragile) -> None:
    await together(batcher, engine, *range(1, 64), POISON)
    refused = [len(batch) for batch in engine.batches if POISON in batch]
    assert refused == [64, 32, 16, 8, 4, 2, 1]
    assert len(engine.batches) == 13


async def test_one_loss_is_forgiven(batcher: Batcher, engine: Fragile) -> None:
    engine.fail_next = WorkerLost("killed")
    assert (await encode(batcher, one(1), one(2))).vectors.tolist() == [[1], [2]]
    engine.fail_next = WorkerLost("killed")
    assert (await encode(batcher, one(3))).vectors.tolist() == [[3]]


async def test_a_batch_that_was_not_begun_waits_for_the_engine_and_goes_as_it_was(batcher: Batcher, engine: Fragile) -> None:
    engine.gate.clear()
    asking = asyncio.create_task(encode(batcher, one(1), one(2)))
    await engine.entered.wait()
    engine.up.clear()
    engine.fail_next = NotReady("the worker is gone")
    engine.gate.set()
    assert not (await asyncio.wait({asking}, timeout=0.02))[0]
    assert engine.batches == [[1, 2]]
    engine.up.set()
    assert (await asking).vectors.tolist() == [[1], [2]]
    assert engine.batches == [[1, 2], [1, 2]]


async def test_who_gave_up_meanwhile_is_not_computed(batcher: Batcher, engine: Fragile) -> None:
    engine.gate.clear()
    leaves = asyncio.create_task(encode(batcher, one(1)))
    await engine.entered.wait()
    engine.fail_next = WorkerLost("killed")
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    engine.gate.set()
    assert (await encode(batcher, one(2))).vectors.tolist() == [[2]]
    assert engine.batches == [[1], [2]]


async def test_stopping_answers_what_waits_for_another_try(batcher: Batcher, engine: Fragile) -> None:
    engine.gate.clear()
    asking = asyncio.create_task(encode(batcher, one(1)))
    await engine.entered.wait()
    engine.up.clear()
    engine.fail_next = NotReady("the worker is gone")
    engine.gate.set()
    while not batcher._lanes:  # noqa: ASYNC110 - the queue tells nobody
        await asyncio.sleep(0)
    await batcher.stop()
    with pytest.raises(NotReady, match="shutting down"):
        await asking


async def test_halves_hold_every_input_once() -> None:
    long, short = Job([one(n) for n in range(7)]), Job([one(9)])
    first, second = another_try([Piece(long, 2, 7), Piece(short, 0, 1)], EngineError("bad"))
    assert [(piece.job, piece.start, piece.stop) for piece in first] == [(long, 2, 5)]
    assert [(piece.job, piece.start, piece.stop) for piece in second] == [(long, 5, 7), (short, 0, 1)]


def test_the_quarantine_is_bounded_and_forgets() -> None:
    now = 0.0
    quarantine = Quarantine(lambda: now)
    assert not quarantine
    for value in range(MAX_INPUTS + 1):
        quarantine.note_loss(one(value))
    assert not quarantine.is_suspect(one(0))
    assert quarantine.is_suspect(one(1))
    assert not quarantine.is_given_up(one(1))
    quarantine.note_loss(one(1))
    assert quarantine.is_given_up(one(1))
    quarantine.note_loss(one(MAX_INPUTS + 1))
    # The oldest is forgotten for it, and that is not the one that was noted again.
    assert quarantine.is_given_up(one(1))
    assert not quarantine.is_suspect(one(2))
    quarantine.clear([one(1)])
    assert not quarantine.is_suspect(one(1))
    now = FORGET_AFTER_S
    assert not quarantine.is_suspect(one(MAX_INPUTS))


async def test_who_leaves_and_asks_again_costs_no_more_workers(batcher: Batcher, engine: Fragile) -> None:
    engine.error = WorkerLost
    for _ in range(4):
        engine.gate.clear()
        engine.entered.clear()
        asking = asyncio.create_task(encode(batcher, one(POISON)))
        entered = asyncio.create_task(engine.entered.wait())
        await asyncio.wait({asking, entered}, return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        engine.gate.set()
        await asyncio.gather(asking, return_exceptions=True)
        assert (await encode(batcher, one(1))).vectors.tolist() == [[1]]
        entered.cancel()
    assert engine.batches.count([POISON]) == 2


async def test_a_suspect_is_run_alone_and_cleared_by_a_vector(batcher: Batcher, engine: Fragile) -> None:
    engine.gate.clear()
    leaves = asyncio.create_task(encode(batcher, one(5)))
    await engine.entered.wait()
    engine.fail_next = WorkerLost("killed")
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    engine.gate.set()
    while not batcher._quarantine:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    assert (await encode(batcher, one(4), one(5))).vectors.tolist() == [[4], [5]]
    assert (await encode(batcher, one(4), one(5))).vectors.tolist() == [[4], [5]]
    assert engine.batches == [[5], [4], [5], [4, 5]]


async def test_a_lost_batch_of_many_takes_turns_with_what_comes() -> None:
    lanes = Lanes(max_tokens=10, max_bulk_wait_s=1.0)
    lost = Job([one(n) for n in range(100)])
    for batch in another_try([Piece(lost, 0, 100)], WorkerLost("killed")):
        lanes.put_back(batch)
    query = Job([one(7)])
    lanes.add(query)
    assert [lanes.take(0.0)[0].job for _ in range(2)].count(query) == 1
    assert all(lanes.take(0.0)[0].job is lost for _ in range(99))
    assert not lanes


def test_losses_of_one_moment_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_module, "SAME_MOMENT_S", 0.25)
    now = 0.0
    quarantine = Quarantine(lambda: now)
    for _ in range(4):
        quarantine.note_loss(one(1))
    assert not quarantine.is_given_up(one(1))
    now = 1.0
    quarantine.note_loss(one(1))
    assert quarantine.is_given_up(one(1))
