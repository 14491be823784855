"""What the levels of the cache have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from launcher.telemetry.hooks import CacheLevel

Vectors = NDArray[np.float32]


class Level(Protocol):
    """Keeps vectors (float32 [dimensions]) by key: the bytes of an input's token ids (int32).

    It serves one loaded model, and never gives a vector of another one. Neither method raises.
    """

    @property
    def name(self) -> CacheLevel: ...

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Those of ``keys`` that are kept, with their vectors."""
        ...

    def put(self, keys: Sequence[bytes], vectors: Sequence[Vectors] | Vectors) -> None:
        """Keep ``vectors[i]`` for ``keys[i]``."""
        ...
