"""Vectors of past inputs, least recently used first out, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

# Dictionary slot, two object headers and the array's own: measured with sys.getsizeof on CPython 3.11.
ENTRY_OVERHEAD_BYTES = 350


class NoCache:
    """The cache that is switched off."""

    enabled = False

    def get(self, ids: NDArray[np.int32]) -> Vectors | None:
        return None

    def put(self, ids: NDArray[np.int32], vector: Vectors) -> None:
        pass


class MemoryCache:
    """Maps an input's token ids to its vector, float32 [dimensions].

    It lives and dies with one loaded model, so the ids alone are the key: no vector of another model can be in it.
    """

    enabled = True

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()

    def get(self, ids: NDArray[np.int32]) -> Vectors | None:
        key = ids.tobytes()
        vector = self._vectors.get(key)
        if vector is not None:
            self._vectors.move_to_end(key)
        return vector

    def put(self, ids: NDArray[np.int32], vector: Vectors) -> None:
        key = ids.tobytes()
        if key in self._vectors:
            return
        self._vectors[key] = vector.copy()
        self._bytes += _cost(key, vector)
        while self._bytes > self._max_bytes:
            old_key, old_vector = self._vectors.popitem(last=False)
            self._bytes -= _cost(old_key, old_vector)


def _cost(key: bytes, vector: Vectors) -> int:
    return len(key) + vector.nbytes + ENTRY_OVERHEAD_BYTES
