"""The engine's life: not ready, ready, stopped; and that nothing is lost in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from launcher.config.schema import Model
from launcher.engines.base import Batch
from launcher.engines.openvino.engine import OpenVinoEngine
from launcher.errors import NotReady
from launcher.models.checkpoint import read_checkpoint

DEADLINE_S = 60


def batch(*lengths: int, seed: int = 0) -> Batch:
    ids = np.random.default_rng(seed).integers(200, 20000, sum(lengths), np.int32)
    return Batch(ids, np.array(lengths, np.int32))


def new_engine(folder: Path, threads: int = 0) -> OpenVinoEngine:
    return OpenVinoEngine(read_checkpoint(folder, Model()), dtype="float32", threads=threads, max_batch_tokens=4096)


@pytest.fixture
async def engine(tiny_checkpoint: Path) -> AsyncIterator[OpenVinoEngine]:
    engine = new_engine(tiny_checkpoint)
    await engine.start()
    yield engine
    await engine.stop()


async def test_it_refuses_before_the_start_and_after_the_stop(tiny_checkpoint: Path) -> None:
    engine = new_engine(tiny_checkpoint)
    assert "loaded" in (engine.unready_reason() or "")
    with pytest.raises(NotReady, match="loaded"):
        await engine.run(batch(5))
    await engine.start()
    assert engine.unready_reason() is None
    assert (await engine.run(batch(5))).shape == (1, 128)
    await engine.stop()
    assert "stopped" in (engine.unready_reason() or "")
    with pytest.raises(NotReady, match="stopped"):
        await engine.run(batch(5))


async def test_it_stops_without_having_started(tiny_checkpoint: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await new_engine(tiny_checkpoint).stop()


async def test_the_loop_goes_on_while_a_batch_runs(engine: OpenVinoEngine) -> None:
    running = asyncio.create_task(engine.run(batch(*[512] * 64)))
    turns = 0
    while not running.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100


async def test_a_stop_lets_running_batches_end(tiny_checkpoint: Path) -> None:
    engine = new_engine(tiny_checkpoint)
    await engine.start()
    running = [asyncio.create_task(engine.run(batch(*[512] * 64))) for _ in range(engine.slots)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in running)
    async with asyncio.timeout(DEADLINE_S):
        await engine.stop()
        for vectors in await asyncio.gather(*running):
            assert vectors.shape == (64, 128)


async def test_an_abandoned_batch_leaves_the_engine_usable(engine: OpenVinoEngine) -> None:
    expected = await engine.run(batch(7, 20))
    for _ in range(2 * engine.slots):
        abandoned = asyncio.create_task(engine.run(batch(*[512] * 16)))
        await asyncio.sleep(0)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned
    async with asyncio.timeout(DEADLINE_S):
        np.testing.assert_allclose(await engine.run(batch(7, 20)), expected, atol=1e-5)


async def test_the_order_of_a_batch_is_kept(engine: OpenVinoEngine) -> None:
    lengths = [300, 3, 512, 40, 3, 129, 64, 1]
    mixed = batch(*lengths)
    together = await engine.run(mixed)
    pieces = np.split(mixed.ids, np.cumsum(lengths)[:-1])
    alone = [await engine.run(Batch(ids, np.array([len(ids)], np.int32))) for ids in pieces]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


async def test_a_result_is_not_overwritten_by_the_next(engine: OpenVinoEngine) -> None:
    first = await engine.run(batch(16, seed=1))
    kept = first.copy()
    for seed in range(2, 2 + 2 * engine.slots):
        await engine.run(batch(16, seed=seed))
    np.testing.assert_array_equal(first, kept)


async def test_one_thread_gives_the_same_vectors(engine: OpenVinoEngine, tiny_checkpoint: Path) -> None:
    single = new_engine(tiny_checkpoint, threads=1)
    await single.start()
    np.testing.assert_allclose(await single.run(batch(30, 5)), await engine.run(batch(30, 5)), atol=1e-5)
    await single.stop()
