"""Where vectors come from: the cache's levels, and for the rest the engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from launcher.cache.base import Level
from launcher.engines.base import TokenIds, Vectors
from launcher.scheduling.encoder import Encoded, Encoder, nobody
from launcher.telemetry.hooks import CacheLevel
from launcher.telemetry.tracing import Trace


class Found(msgspec.Struct, frozen=True):
    """``vectors``: float32 [n_inputs, dimensions], in the order of the inputs. ``cached`` counts the inputs found in each
    level that was asked, ``deduplicated`` those that got the vector of an equal one under way."""

    vectors: Vectors
    cached: Mapping[CacheLevel, int]
    deduplicated: int
    cache_s: float
    queue_s: float
    inference_s: float


# What the encoder would say of no inputs.
NOTHING = Encoded(np.empty((0, 0), np.float32), 0, 0.0, 0.0)


class VectorSource:
    """Asks each of ``levels`` (the fastest first; may be none) for what the ones before it lack, and ``encoder`` for the rest.

    What comes from further away is kept in all nearer levels.
    """

    def __init__(self, levels: Sequence[Level], encoder: Encoder) -> None:
        self._levels = levels
        self._encoder = encoder

    async def of(
        self,
        inputs: Sequence[TokenIds],
        deadline: float = math.inf,
        on_accepted: Callable[[], object] = nobody,
        trace: Trace | None = None,
    ) -> Found:
        """The vectors of ``inputs`` (int32 [n] each, at least one), by ``deadline``. Raises what the encoder raises.
        ``on_accepted`` is called once that can no longer be for want of room."""
        began = time.perf_counter()
        if trace and self._levels:
            trace.enter("cache", began)
        keys = [ids.tobytes() for ids in inputs]
        known, cached = await self._look_up(keys)
        cache_s = time.perf_counter() - began
        missing = [i for i, key in enumerate(keys) if key not in known]
        encoded = NOTHING
        if missing:
            ids = [inputs[i] for i in missing]
            encoded = await self._encode([keys[i] for i in missing], ids, deadline, on_accepted, trace)
        else:
            on_accepted()
        if known:
            known.update(zip((keys[i] for i in missing), encoded.vectors, strict=True))
        vectors = np.stack([known[key] for key in keys]) if known else encoded.vectors
        return Found(vectors, cached, encoded.deduplicated, cache_s, encoded.queue_s, encoded.inference_s)

    async def _look_up(self, keys: Sequence[bytes]) -> tuple[dict[bytes, Vectors], dict[CacheLevel, int]]:
        """What the levels have, and how many of ``keys`` each of them had."""
        known: dict[bytes, Vectors] = {}
        cached: dict[CacheLevel, int] = {}
        for nearer, level in enumerate(self._levels):
            wanted = [key for key in keys if key not in known]
            if not wanted:
                break
            found = await level.get(wanted)
            cached[level.name] = sum(key in found for key in wanted)
            keep(self._levels[:nearer], list(found), list(found.values()))
            known |= found
        return known, cached

    async def _encode(
        self,
        keys: Sequence[bytes],
        inputs: Sequence[TokenIds],
        deadline: float,
        on_accepted: Callable[[], object],
        trace: Trace | None,
    ) -> Encoded:
        if trace:
            trace.enter("queue", time.perf_counter())
        encoded = await self._encoder.encode(keys, inputs, deadline, on_accepted, trace)
        keep(self._levels, keys, encoded.vectors)
        return encoded


def keep(levels: Sequence[Level], keys: Sequence[bytes], vectors: Sequence[Vectors] | Vectors) -> None:
    for level in levels:
        level.put(keys, vectors)
