import numpy as np

from launcher.cache.memory import ENTRY_OVERHEAD_BYTES, MemoryCache


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def test_the_least_recently_used_vector_goes_first():
    cost = ENTRY_OVERHEAD_BYTES + 4 + 16
    cache = MemoryCache(max_bytes=2 * cost)
    cache.put(ids(1), vector(1))
    cache.put(ids(2), vector(2))
    assert cache.get(ids(1)) is not None
    cache.put(ids(3), vector(3))
    assert cache.get(ids(2)) is None
    assert cache.get(ids(1)).tolist() == [1] * 4
    assert cache.get(ids(3)).tolist() == [3] * 4


def test_a_vector_is_copied_so_that_its_batch_can_be_freed():
    cache = MemoryCache(max_bytes=10_000)
    batch = np.zeros((2, 4), np.float32)
    cache.put(ids(1), batch[0])
    batch[0] = 9
    assert cache.get(ids(1)).tolist() == [0] * 4


def test_a_cache_smaller_than_one_vector_stays_empty():
    cache = MemoryCache(max_bytes=10)
    cache.put(ids(1), vector(1))
    assert cache.get(ids(1)) is None
