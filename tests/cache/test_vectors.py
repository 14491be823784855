"""However many levels and requests there are, each input gets the vector that it would get alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from launcher.cache.base import Level
from launcher.cache.memory import MemoryCache
from launcher.cache.redis import RedisCache
from launcher.embedding.vectors import Found, VectorSource
from launcher.engines import base
from launcher.engines.base import Batch
from launcher.errors import EngineError
from launcher.scheduling.admission import Admission
from launcher.scheduling.batcher import Batcher
from launcher.scheduling.encoder import DeduplicatingEncoder, Encoder, SeparateEncoder
from tests.support.log import listening_to
from tests.support.redis import RunningRedis

DIMENSIONS = 8
MAX_BATCH_TOKENS = 40
REQUESTS = 300
# Few enough that requests often have the same, enough that a small memory cannot hold all.
DISTINCT_INPUTS = 60


def vector_of(ids: np.ndarray) -> np.ndarray:
    """A vector of unit length that says which ids it belongs to."""
    vector = np.random.default_rng(ids.tolist()).normal(size=DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector)


@dataclass
class Setup:
    source: VectorSource
    encoded: list[bytes]
    admission: Admission
    redis: RedisCache | None


class Engine(base.Engine):
    """Takes its time, in turns of the event loop, and fails at some batches."""

    slots = 2
    max_batch_tokens = MAX_BATCH_TOKENS

    def __init__(self, seed: int, failures: float) -> None:
        self.encoded: list[bytes] = []
        self._rng = np.random.default_rng(seed)
        self._failures = failures

    async def run(self, batch: Batch) -> np.ndarray:
        inputs = np.split(batch.ids, np.cumsum(batch.lengths)[:-1])
        for _ in range(self._rng.integers(0, 8)):
            await asyncio.sleep(0)
        if self._rng.random() < self._failures:
            raise EngineError("broken")
        self.encoded += [ids.tobytes() for ids in inputs]
        return np.stack([vector_of(ids) for ids in inputs])


async def started(url: str) -> RedisCache:
    """A level that has reached its Redis."""
    redis = RedisCache(url, fingerprint="abc", dimensions=DIMENSIONS, ttl_s=100, timeout_s=10.0)
    with listening_to("launcher.cache.redis") as said:
        await redis.__aenter__()
        await said.wait_for("Redis answers")
    return redis


async def build(
    stack: AsyncExitStack, names: str, redis_url: str, *, deduplicate: bool = True, failures: float = 0.0, seed: int = 0
) -> Setup:
    engine, admission = Engine(seed, failures), Admission(10**6, max_wait_s=10**6, max_batch_tokens=MAX_BATCH_TOKENS)
    batcher = Batcher(engine, on_batch=lambda *_: None)
    batcher.start()
    stack.push_async_callback(batcher.stop)
    encoder: Encoder = SeparateEncoder(admission, batcher)
    if deduplicate:
        encoder = DeduplicatingEncoder(admission, batcher, max_batch_tokens=MAX_BATCH_TOKENS)
    levels: list[Level] = []
    redis = None
    if "memory" in names:
        levels.append(MemoryCache(max_bytes=20 * 500))
    if "redis" in names:
        redis = await started(redis_url)
        stack.push_async_exit(redis)
        levels.append(redis)
    return Setup(VectorSource(levels, encoder), engine.encoded, admission, redis)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


def some_inputs(rng: np.random.Generator) -> list[np.ndarray]:
    """Mostly a few, now and then more than a batch takes; the first of the distinct ones much more often."""
    count = rng.integers(1, 6) if rng.random() < 0.9 else rng.integers(20, 40)
    seeds = np.minimum(rng.zipf(1.4, count), DISTINCT_INPUTS)
    return [np.random.default_rng(seed).integers(0, 30_000, seed % 9 + 1).astype(np.int32) for seed in seeds]


def check(found: Found, inputs: list[np.ndarray]) -> None:
    np.testing.assert_array_equal(found.vectors, np.stack([vector_of(ids) for ids in inputs]))
    assert 0 <= sum(found.cached.values()) + found.deduplicated <= len(inputs)


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("levels", ["none", "memory", "redis", "memory and redis"])
@pytest.mark.parametrize("failures", [0.0, 0.2])
async def test_each_input_gets_its_own_vector_or_an_error(redis_server: RunningRedis, stack, levels, deduplicate, failures):
    setup = await build(stack, levels, redis_server.url, deduplicate=deduplicate, failures=failures, seed=7)
    rng = np.random.default_rng(11)
    outcomes: Counter[str] = Counter()

    async def client() -> None:
        for _ in range(REQUESTS // 10):
            inputs = some_inputs(rng)
            request = asyncio.create_task(setup.source.of(inputs))
            if rng.random() < 0.2:
                for _ in range(rng.integers(0, 12)):
                    await asyncio.sleep(0)
                request.cancel()
            try:
                check(await request, inputs)
                outcomes["answered"] += 1
            except EngineError:
                outcomes["failed"] += 1
            except asyncio.CancelledError:
                outcomes["cancelled"] += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(client() for _ in range(10)))
        while setup.admission.tokens_in_flight:  # noqa: ASYNC110 - what was abandoned ends without an event
            await asyncio.sleep(0)
    assert outcomes.total() == REQUESTS
    assert outcomes["answered"] > REQUESTS / 3
    assert outcomes["cancelled"] > 0
    assert bool(outcomes["failed"]) == bool(failures)


def four_inputs() -> list[np.ndarray]:
    return [np.array([i, i + 1], np.int32) for i in range(4)]


async def test_a_hit_far_away_is_kept_near(redis_server: RunningRedis, stack):
    inputs = four_inputs()
    first = await build(stack, "redis", redis_server.url)
    await first.source.of(inputs)
    for other in range(9, 11):
        # Writes come after the lookups of their turn, and before those of the next.
        await first.source.of([np.array([other], np.int32)])
    second = await build(stack, "memory and redis", redis_server.url)
    near, far = inputs[0], inputs[1]
    await second.source.of([np.array([77], np.int32)])
    assert (await second.source.of([near])).cached == {"memory": 0, "redis": 1}
    assert (await second.source.of([near])).cached == {"memory": 1}
    assert (await second.source.of([near, far, far, np.array([8], np.int32)])).cached == {"memory": 1, "redis": 2}
    assert len(second.encoded) == 2
    assert second.redis
    redis_server.kill()
    found = await second.source.of([near, far, inputs[2]])
    check(found, [near, far, inputs[2]])
    assert found.cached == {"memory": 2, "redis": 0}


async def test_without_levels_nothing_is_remembered(stack, redis_server: RunningRedis):
    setup = await build(stack, "none", redis_server.url)
    for _ in range(2):
        found = await setup.source.of(four_inputs())
        assert (found.cached, found.deduplicated) == ({}, 0)
    assert len(setup.encoded) == 8


async def test_what_is_cached_counts_once_for_each_input(stack, redis_server: RunningRedis):
    setup = await build(stack, "memory", redis_server.url)
    a, b, *_ = four_inputs()
    assert (await setup.source.of([a, a, b])).deduplicated == 1
    found = await setup.source.of([a, b, a])
    assert (found.cached, found.deduplicated, found.queue_s, found.inference_s) == ({"memory": 3}, 0, 0.0, 0.0)
