"""Vectors of past inputs, least recently used first out, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from launcher.cache.base import Vectors
from launcher.telemetry.hooks import CacheLevel

# Dictionary slot, two object headers and the array's own: measured with sys.getsizeof on CPython 3.11.
ENTRY_OVERHEAD_BYTES = 350


class MemoryCache:
    """A cache level that lives and dies with one loaded model: no vector of another model can be in it."""

    name: CacheLevel = "memory"

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        found = {key: vector for key in keys if (vector := self._vectors.get(key)) is not None}
        for key in found:
            self._vectors.move_to_end(key)
        return found

    def put(self, keys: Sequence[bytes], vectors: Sequence[Vectors] | Vectors) -> None:
        for key, vector in zip(keys, vectors, strict=True):
            if key not in self._vectors:
                self._vectors[key] = vector.copy()
                self._bytes += _cost(key, vector)
        while self._bytes > self._max_bytes:
            old_key, old_vector = self._vectors.popitem(last=False)
            self._bytes -= _cost(old_key, old_vector)


def _cost(key: bytes, vector: Vectors) -> int:
    return len(key) + vector.nbytes + ENTRY_OVERHEAD_BYTES
