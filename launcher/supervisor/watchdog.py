"""Finds out that a worker hangs or went wrong: it is there, takes batches, and answers nothing or nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from launcher.engines.base import Batch, Vectors
from launcher.engines.client import WorkerClient
from launcher.errors import EngineError, NotReady

CANARY_EVERY_S = 5.0
# The least cosine between the canary's vectors now and at the worker's start; the self-test allows as much.
MIN_AGREEMENT = 0.999


async def watch(client: WorkerClient, canary: Batch, hang_timeout_s: float, on_passed: Callable[[], None]) -> EngineError:
    """Have the worker compute ``canary``, a small batch, again and again; return what is wrong with it once something is.
    ``on_passed`` is called each time that nothing is."""
    first: Vectors | None = None
    while True:
        try:
            vectors = await _answered(client, canary, hang_timeout_s)
        except TimeoutError:
            return EngineError(f"has answered nothing for {hang_timeout_s:g} s (engine.sglang.hang_timeout_s)")
        except (EngineError, NotReady) as error:
            return EngineError(f"failed on a text that it had no trouble with before: {error}")
        first = vectors if first is None else first
        if vectors.shape != first.shape:
            return EngineError(f"gives vectors of {vectors.shape[1]} numbers instead of {first.shape[1]}")
        cosine = float((first * vectors).sum(axis=1).min())
        # Not "<": a vector of zeros or of NaN agrees with nothing.
        if not cosine >= MIN_AGREEMENT:
            return EngineError(f"gives a text another vector than at its start: they agree only to a cosine of {cosine:.4f}")
        on_passed()
        await asyncio.sleep(CANARY_EVERY_S)


async def _answered(client: WorkerClient, canary: Batch, timeout_s: float) -> Vectors:
    """Raises ``TimeoutError`` once nothing at all was answered for ``timeout_s``: large batches may be before the canary."""
    loop = asyncio.get_running_loop()
    asking = asyncio.create_task(client.encode(canary))
    heard = loop.time()
    try:
        while not asking.done():
            left_s = heard + timeout_s - loop.time()
            if left_s <= 0:
                raise TimeoutError
            await asyncio.wait({asking}, timeout=left_s)
            heard = max(heard, client.last_answer or 0.0)
        return asking.result()
    finally:
        asking.cancel()
