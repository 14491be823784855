import numpy as np

from launcher.cache.memory import ENTRY_OVERHEAD_BYTES, MemoryCache


def vectors(*values: float) -> np.ndarray:
    return np.stack([np.full(4, value, np.float32) for value in values])


async def test_the_least_recently_used_vector_goes_first():
    cost = ENTRY_OVERHEAD_BYTES + 4 + 16
    cache = MemoryCache(max_bytes=2 * cost)
    cache.put([b"0001", b"0002"], vectors(1, 2))
    assert (await cache.get([b"0001"])).keys() == {b"0001"}
    cache.put([b"0003"], vectors(3))
    found = await cache.get([b"0001", b"0002", b"0003"])
    assert {key: vector.tolist() for key, vector in found.items()} == {b"0001": [1] * 4, b"0003": [3] * 4}


async def test_a_vector_is_copied_so_that_its_batch_can_be_freed():
    cache = MemoryCache(max_bytes=10_000)
    batch = vectors(0, 0)
    cache.put([b"0001"], batch[:1])
    batch[0] = 9
    assert (await cache.get([b"0001"]))[b"0001"].tolist() == [0] * 4


async def test_a_cache_smaller_than_one_vector_stays_empty():
    cache = MemoryCache(max_bytes=10)
    cache.put([b"0001"], vectors(1))
    assert await cache.get([b"0001"]) == {}


async def test_a_vector_kept_twice_counts_once():
    cost = ENTRY_OVERHEAD_BYTES + 4 + 16
    cache = MemoryCache(max_bytes=2 * cost)
    cache.put([b"0001", b"0002"], vectors(1, 2))
    cache.put([b"0001", b"0001"], vectors(1, 1))
    assert (await cache.get([b"0001", b"0002"])).keys() == {b"0001", b"0002"}
